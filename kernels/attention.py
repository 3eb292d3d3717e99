"""Attention of every token of a row to all of the row, read from one projection's output."""

import math

import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import on_hopper

# BLOCK_M, BLOCK_N, warps, stages. Slower on an H200: larger tiles, two or four stages, tensor
# descriptors, and values a tile behind the scores (CONTRIBUTING, "Measured facts")
HOPPER = (64, 64, 4, 3)
OTHERS = (64, 64, 4, 2)


@triton.jit
def _weigh(s, top, total, SCALE: tl.constexpr):
    # weights exp2(SCALE * (score - top)), their sum so far, and what they change in those before
    highest = tl.maximum(top, tl.max(s, 1))
    old = tl.exp2((top - highest) * SCALE)
    p = tl.exp2(s * SCALE - (highest * SCALE)[:, None])
    return p, old, highest, total * old + tl.sum(p, 1)


@triton.jit
def _rest(
    b_q, head, rest, acc, top, total,
    H: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    o_r = tl.arange(0, BLOCK)
    m_r = o_r < rest
    p_k = head + H * D + o_r[:, None] * (3 * H * D) + tl.arange(0, D)[None, :]
    b_k = tl.load(p_k, mask=m_r[:, None], other=0.0)
    b_v = tl.load(p_k + H * D, mask=m_r[:, None], other=0.0)
    s = tl.where(m_r[None, :], tl.dot(b_q, b_k.T), float("-inf"))
    p, old, top, total = _weigh(s, top, total, SCALE)
    return tl.dot(p.to(b_v.dtype), b_v, acc * old[:, None]), total


@triton.jit(do_not_specialize=["N"])
def attention_fwd_kernel(
    qkv, out, N,
    H: tl.constexpr, D: tl.constexpr, SCALE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # the queries of one head follow one another, so that all but the first find its keys in L2
    ROW: tl.constexpr = 3 * H * D
    tiles = tl.cdiv(N, BLOCK_M)
    i_bh = tl.program_id(0) // tiles
    i_b, i_h = i_bh // H, i_bh % H
    o_m = (tl.program_id(0) % tiles) * BLOCK_M + tl.arange(0, BLOCK_M)
    o_n, o_d = tl.arange(0, BLOCK_N), tl.arange(0, D)
    row = i_b.to(tl.int64) * N
    head = qkv + row * ROW + i_h * D
    # past the end the last query again
    p_q = head + tl.minimum(o_m, N - 1).to(tl.int64)[:, None] * ROW + o_d[None, :]
    b_q = tl.load(p_q)
    p_k = head + H * D + o_n[:, None] * ROW + o_d[None, :]
    acc = tl.zeros([BLOCK_M, D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    full = N // BLOCK_N
    for _ in range(full):
        b_k = tl.load(p_k)
        b_v = tl.load(p_k + H * D)
        p_k += BLOCK_N * ROW
        p, old, top, total = _weigh(tl.dot(b_q, b_k.T), top, total, SCALE)
        acc = tl.dot(p.to(b_v.dtype), b_v, acc * old[:, None])
    # the keys that are left in a tile of their own, small where few are: 784 = 12 * 64 + 16
    rest = N - full * BLOCK_N
    p_r = head + full.to(tl.int64) * (BLOCK_N * ROW)
    if rest > 16:
        acc, total = _rest(b_q, p_r, rest, acc, top, total, H, D, SCALE, BLOCK_N)
    elif rest > 0:
        acc, total = _rest(b_q, p_r, rest, acc, top, total, H, D, SCALE, 16)
    b_o = (acc / total[:, None]).to(out.dtype.element_ty)
    p_o = out + (row + o_m)[:, None] * (H * D) + i_h * D + o_d[None, :]
    tl.store(p_o, b_o, mask=(o_m < N)[:, None])


def attention(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(q k^T / sqrt(D)) v of contiguous qkv [B, N, 3 * H * D] in half precision."""
    batch, n, width = qkv.shape
    d = width // (3 * num_heads)
    out = qkv.new_empty(batch, n, num_heads * d)
    if not out.numel():
        return out
    block_m, block_n, warps, stages = HOPPER if on_hopper() else OTHERS
    programs = batch * num_heads * triton.cdiv(n, block_m)
    attention_fwd_kernel[(programs,)](
        qkv, out, n, num_heads, d, math.log2(math.e) / math.sqrt(d), block_m, block_n,
        num_warps=warps, num_stages=stages,
    )  # fmt: skip
    return out
