"""Rows of the token dimension of any tensor, picked by an index and copied bit for bit."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import power_of_2

# moves of at most 16 bytes that a program makes, and how many of them in one row
MOVES, ROW_MOVES = 1024, 64
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit(do_not_specialize=["B", "H", "N", "K", "D", "s_o", "s_b", "s_h", "s_n"])
def take_rows_kernel(
    x, index, out, B, H, N, K, D, s_o, s_b, s_h, s_n,
    V: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # D and the strides count V values, so that the compiler knows that V of them can move at once
    parts, blocks = tl.cdiv(D * V, BLOCK_D), tl.cdiv(K, BLOCK_R)
    pid = tl.program_id(0).to(tl.int64)
    i_d, i_k, i = pid % parts, (pid // parts) % blocks, pid // parts // blocks
    i_o, i_b, i_h = i // H // B, (i // H) % B, i % H
    o_k = i_k * BLOCK_R + tl.arange(0, BLOCK_R)
    o_d = i_d * BLOCK_D + tl.arange(0, BLOCK_D)
    n = tl.load(index + i_b * K + o_k, mask=o_k < K, other=-1)
    there = (n >= 0) & (n < N)
    row = (i_o * s_o + i_b * s_b + i_h * s_h + n * s_n) * V
    m_d = (o_d < D * V)[None, :]
    b_x = tl.load(x + row[:, None] + o_d[None, :], mask=there[:, None] & m_d, other=0)
    p_out = out + (i * K + o_k)[:, None] * (D * V) + o_d[None, :]
    tl.store(p_out, b_x, mask=(o_k < K)[:, None] & m_d)


def collapse(x: Tensor, dims: range) -> tuple[int, int] | None:
    """Size and stride of some neighbouring dimensions as one, None if they do not make one."""
    size, stride = 1, 0
    for d in reversed(dims):
        if x.shape[d] == 1:
            continue
        if size == 1:
            stride = x.stride(d)
        elif x.stride(d) != size * stride:
            return None
        size *= x.shape[d]
    return size, stride


def five(x: Tensor, batch_dim: int, token_dim: int) -> list[tuple[int, int]] | None:
    """Sizes and strides of x as [outer, batch, heads, tokens, values], None if it needs a copy."""
    edges = (0, batch_dim, batch_dim + 1, token_dim, token_dim + 1, x.ndim)
    parts = [collapse(x, range(*pair)) for pair in zip(edges[:-1], edges[1:], strict=True)]
    known = [part for part in parts if part is not None]
    return known if len(known) == 5 and (known[4][0] == 1 or known[4][1] == 1) else None


def take_rows(x: Tensor, index: Tensor, batch_dim: int, token_dim: int) -> Tensor:
    """x with its N tokens replaced by the k that index [B, k] names; zeros where it names none."""
    k = index.shape[1]
    out = x.new_empty(*x.shape[:token_dim], k, *x.shape[token_dim + 1 :])
    if out.numel() == 0:
        return out
    if x.numel() == 0:
        return out.zero_()
    layout = five(x, batch_dim, token_dim)
    if layout is None:
        return take_rows(x.contiguous(), index, batch_dim, token_dim)
    (outer, s_o), (batch, s_b), (heads, s_h), (n, s_n), (d, _) = layout
    width = x.element_size()
    v = math.gcd(16 // width, d, s_o, s_b, s_h, s_n)
    block_d = power_of_2(d, high=ROW_MOVES * v)
    block_r = MOVES * v // block_d
    grid = (outer * batch * heads * triton.cdiv(k, block_r) * triton.cdiv(d, block_d),)
    take_rows_kernel[grid](
        x.view(INTEGERS[width]), index, out.view(INTEGERS[width]), batch, heads, n, k, d // v,
        s_o // v, s_b // v, s_h // v, s_n // v, v, block_r, block_d,
    )  # fmt: skip
    return out
