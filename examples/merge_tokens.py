"""merge_tokens after a vision encoder: a clip of 784 patches becomes 64 tokens."""

import torch

import hico

features = torch.randn(2, 4 * 196, 1024)  # what an encoder returned: [clips, patches, channels]
merged = hico.merge_tokens(features, 64, num_heads=16)
print("tokens", list(merged.tokens.shape), "patches in the first ones", merged.size[0, :5].tolist())

dense = merged.map.unmerge(merged.tokens)  # one vector a patch again, for a dense head
print("back to", list(dense.shape), "error", f"{(dense - features).square().mean():.3f}")
