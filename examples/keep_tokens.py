"""keep_tokens: the half of the tokens that a score ranks first, and where each one went."""

import torch

import hico

x = torch.randn(2, 576, 768)  # [batch, tokens, channels]
score = x.norm(dim=-1)  # any score: attention, norms, a small network
kept = hico.keep_tokens(x, score, ratio=0.5, protect=torch.arange(576) == 0)
print("kept", list(kept.tokens.shape), "the first at", kept.index[0, :5].tolist())

positions = kept.map.positions(torch.arange(576))  # for rotary embeddings, still ascending
print("their positions", positions[0, :5].tolist())
