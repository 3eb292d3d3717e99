"""attention_score: what 8 queries pay each of 4,096 keys, in O(keys) memory, and the best keys."""

import torch

import hico

query = torch.randn(1, 28, 8, 128)  # [batch, heads, rows, head channels], rotated
key = torch.randn(1, 4, 4096, 128)  # grouped-query attention: 7 heads share a key
score = hico.attention_score(query, key)
print("scores", list(score.shape), "sum", f"{score.sum():.3f}")

best = hico.select(score, ratio=0.1)
print("the best", list(best.shape), "pay", f"{score.gather(1, best).sum():.3f}")
