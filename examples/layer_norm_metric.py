"""layer_norm_metric: the encoder's last LayerNorm makes what the merge compares by, on its way."""

import torch

import hico

norm, x = torch.nn.LayerNorm(1024), torch.randn(2, 784, 1024)
with torch.no_grad():
    y, metric = hico.layer_norm_metric(x, norm.weight, norm.bias, norm.eps, num_heads=16)
    merged = hico.merge_tokens(y, 64, metric=metric)  # reads y once, not twice
print("normalised", list(y.shape), "metric", list(metric.shape), "merged", merged.map)
