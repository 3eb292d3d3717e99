"""Attention of every token to all, head by head, in fp32."""

import torch.nn.functional as F
from torch import Tensor

from hico.reference.match import accumulator


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of qkv [B, N, 3 * H * D], as [B, N, H * D] in qkv's dtype."""
    heads = qkv.to(accumulator(qkv.dtype)).unflatten(2, (3, num_heads, -1))
    q, k, v = heads.permute(2, 0, 3, 1, 4).unbind(0)
    y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return y.to(qkv.dtype).contiguous()
