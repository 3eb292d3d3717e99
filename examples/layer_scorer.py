"""LayerScorer: what a stock decoder layer would attend to, before it runs, and what to keep."""

import torch
from transformers import Qwen2Config, Qwen2Model

import hico

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 32}
model = Qwen2Model(Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2)).eval()
hidden, positions = torch.randn(1, 200, 64), torch.arange(200)[None]

rotary = model.rotary_emb(hidden, positions)
score, keys = hico.LayerScorer(model.layers[1])(hidden, rotary, key_range=(10, 190))
visual = hico.select(score, ratio=0.25) + 10  # the last row attends to these most
print("visual tokens kept:", visual.shape[1], "of 180, the first", visual[0, :5].tolist())
