"""progressive_dropout: a stock Qwen2 generates, and its later layers see fewer visual tokens."""

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

import hico

sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "vocab_size": 99}
config = Qwen2Config(**sizes, num_attention_heads=4, num_key_value_heads=2, pad_token_id=0)
model = Qwen2ForCausalLM(config).eval()
embeds = torch.randn(1, 220, 64)  # 10 rows of text, 200 of a video, 10 of text

with hico.progressive_dropout(
    model, layers=[1, 3], ratios=[1, 0.5, 0.25], visual_spans=[(10, 210)]
) as run:
    out = model.generate(inputs_embeds=embeds, max_new_tokens=5, do_sample=False)
print("rows in layers 0, 1-2 and 3:", [220, *(kept.shape[1] for kept in run.kept)])
print("new tokens:", out[0].tolist())
