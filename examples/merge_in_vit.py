"""merge_tokens inside a timm-like ViT: 16 tokens fewer after the attention of every block."""

import torch
from torch import nn

import hico


class Block(nn.Module):
    """What timm calls a Block, up to the line in the middle of forward."""

    def __init__(self, dim=192, heads=3):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x):
        y = self.norm1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        # protected=1: the class token is never merged
        x = hico.merge_tokens(x, x.shape[1] - 16, num_heads=3, protected=1).tokens
        return x + self.mlp(self.norm2(x))


x = torch.randn(2, 197, 192)
for block in [Block().eval() for _ in range(6)]:
    x = block(x)
    print("tokens after the block:", x.shape[1])
