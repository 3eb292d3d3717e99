"""select and compact: choose rows once, then shorten everything that has these rows."""

import torch

import hico

hidden, positions = torch.randn(2, 1000, 256), torch.arange(1000).expand(2, -1).contiguous()
cache = torch.randn(2, 4, 1000, 64)  # keys: the rows are the third dimension
score = torch.rand(2, 1000)

rows = hico.select(score, 250)  # ascending, ties to the lower index
hidden, positions, cache = hico.compact(rows, hidden, positions, cache, dims=(1, 1, 2))
print([list(t.shape) for t in (hidden, positions, cache)], positions[0, :5].tolist())
print("without scores, evenly:", hico.select_uniform(1000, 5).tolist())
