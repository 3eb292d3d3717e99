"""segment_mean: one token for each segment of a picture, here windows of 4 x 4 patches."""

import torch

import hico

x = torch.randn(1, 784, 64, requires_grad=True)  # 28 x 28 patches
row, column = torch.arange(784) // 28, torch.arange(784) % 28
segment = row // 4 * 7 + column // 4  # any labels would do; -1 leaves a patch out
anchor = ((row % 4 == 0) & (column % 4 == 0)).nonzero().T  # a patch that stands for each

means = hico.segment_mean(x, hico.TokenMap(segment[None], anchor))
means.square().sum().backward()
print("means", list(means.shape), "gradient", list(x.grad.shape))
