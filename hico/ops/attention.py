"""attention: every token of a row to all of the row, straight from a fused projection."""

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import INTERPRET, register
from hico.reference import attention as reference

HALF = (torch.float16, torch.bfloat16)
# channels of a head that the kernel has
DIMS = (16, 32, 64)


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """y = softmax(q k^T / sqrt(D)) v, head by head, of the projection [q, k, v] as it comes.

    Nothing is copied before or after: qkv is read in place and y is laid out for the product behind
    it. Scores, softmax and sums are in fp32 (float64 for float64), the weights of v in qkv's type.
    Deterministic; no gradient.

    Args:
        qkv: [B, N, 3 * H * D] float16, bfloat16, float32 or float64: for each token the queries of
            all heads, then the keys, then the values.
        num_heads: H.

    Returns:
        y [B, N, H * D] in qkv's dtype, contiguous.

    Raises:
        ValueError: a wrong shape or dtype, or channels that are not 3 * H * D.

    Source: FlashAttention-2 (arXiv 2307.08691).

    >>> import torch
    >>> from hico.ops.attention import attention
    >>> attention(torch.tensor([[[0.0, 1.0, 2.0], [0.0, 3.0, 6.0]]]), num_heads=1)
    tensor([[[4.],
             [4.]]])
    """
    _check.tokens("qkv", qkv)
    _check.integer("num_heads", num_heads, 1, qkv.shape[2])
    if qkv.shape[2] % (3 * num_heads):
        raise ValueError(
            f"qkv: expected a multiple of 3 * {num_heads} channels, got {qkv.shape[2]}"
        )
    return _attention(qkv.detach(), num_heads)


def _launch(qkv: Tensor, num_heads: int) -> Tensor:
    # the interpreter gets products of bf16 wrong
    interpretable = qkv.dtype == torch.float16 or not INTERPRET
    if qkv.dtype not in HALF or qkv.shape[2] // (3 * num_heads) not in DIMS or not interpretable:
        return reference.attention(qkv, num_heads)
    from hico.kernels import attention as kernels

    return kernels.attention(qkv.contiguous(), num_heads)


_attention = register("attention", _launch, reference.attention)


@_attention.register_fake
def _(qkv, num_heads):
    return qkv.new_empty(*qkv.shape[:2], qkv.shape[2] // 3)
