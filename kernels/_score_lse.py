"""The first pass of attention scores: the highest logit and the sum of every query row."""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._score_tiles import (
    LOWEST,
    load_keys,
    load_queries,
    mask_logits,
    relative,
    row_ends,
    row_length,
    row_stats,
    tile_logits,
)

MOST_SPLITS = 128
PROGRAMS = 396  # three for each of 132 processors


@triton.jit
def add_tile(
    peak, total, q1, q2, k, cos, sin, p_cos, key_mask, p_mask, logits, n0, end, length, base, o_r,
    stop, width, m_r, stride_kn, stride_cn,
    SCALE: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, MASKED: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # one step of the running softmax; with logits to keep there is a sum per cell of the tile, as
    # to reduce few rows at every step takes longer than to load their keys
    k1, k2 = load_keys(
        k, cos, sin, p_cos, n0, length, stride_kn, stride_cn, D, ROPE, BLOCK_N, BLOCK_H, DOUBLE
    )
    s = tile_logits(q1, q2, k1, k2, BLOCK_R, BLOCK_N, DOUBLE)
    if MASKED:
        s = mask_logits(s, n0, end, key_mask, p_mask, length, BLOCK_N)
    if logits is None:
        highest = tl.maximum(peak, tl.max(s, 1)[:, None])
        added = tl.sum(relative(s, highest, SCALE), 1)[:, None]
    else:
        o_n = n0 + tl.arange(0, BLOCK_N)
        m_s = m_r[:, None] & ((o_n >= base) & (o_n < stop))[None, :]
        tl.store(logits + o_r[:, None] * width + (o_n - base)[None, :], s, mask=m_s)
        highest = tl.maximum(peak, s)
        added = relative(s, highest, SCALE)
    return highest, total * relative(peak, highest, SCALE) + added


@triton.jit(
    do_not_specialize=["N", "M", "first", "stop", "splits", "blocks", "width"],
    do_not_specialize_on_alignment=["query_positions", "query_mask", "key_mask", "lengths"],
)
def score_lse_kernel(
    q, k, cos, sin, query_positions, query_mask, key_mask, lengths, peak, total, logits,
    N, M, first, stop, splits, blocks, width,
    stride_kb, stride_kh, stride_kn, stride_cb, stride_cn,
    SCALE: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # one program: BLOCK_R rows of the heads that share key head i_h, `blocks` blocks of keys
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    CELLS: tl.constexpr = 1 if logits is None else BLOCK_N
    rows = G * M
    tiles = tl.cdiv(rows, BLOCK_R)
    # an int64 division calls a function; what is multiplied by a stride is int64
    i_p = tl.program_id(0)
    i_t, i_s = i_p % tiles, i_p // (tiles * H) % splits
    i_h, i_b = (i_p // tiles % H).to(tl.int64), (i_p // (tiles * H) // splits).to(tl.int64)
    length = row_length(lengths, i_b, N)
    o_r = i_t * BLOCK_R + tl.arange(0, BLOCK_R)
    m_r = o_r < rows
    end = row_ends(query_positions, query_mask, i_b, o_r, m_r, M, length)
    row0 = (i_b * H + i_h) * rows
    q1, q2 = load_queries(q, row0 + i_t * BLOCK_R, m_r, D, BLOCK_R, BLOCK_H)
    k += i_b * stride_kb + i_h * stride_kh
    if logits is not None:
        logits += row0 * (width * BLOCK_N)
    b_peak = tl.full([BLOCK_R, CELLS], LOWEST, ACC)
    b_total = tl.zeros([BLOCK_R, CELLS], ACC)
    # blocks before `clear` need no mask: every row attends all of their keys
    begin = i_s * blocks
    last = tl.minimum(begin + blocks, tl.cdiv(tl.max(end, 0), BLOCK_N))
    clear = begin
    if key_mask is None:
        clear = tl.maximum(tl.min(tl.where(m_r, end, N), 0) // BLOCK_N, begin)
        clear = tl.minimum(clear, tl.maximum(last, begin))
    for i_n in range(begin, clear):
        b_peak, b_total = add_tile(
            b_peak, b_total, q1, q2, k, cos, sin, i_b * stride_cb, key_mask, i_b * N, logits,
            i_n * BLOCK_N, end, length, first * BLOCK_N, o_r, stop, width * BLOCK_N, m_r, stride_kn,
            stride_cn, SCALE, D, ROPE, BLOCK_R, BLOCK_N, BLOCK_H, False, DOUBLE,
        )  # fmt: skip
    for i_n in range(clear, last):
        b_peak, b_total = add_tile(
            b_peak, b_total, q1, q2, k, cos, sin, i_b * stride_cb, key_mask, i_b * N, logits,
            i_n * BLOCK_N, end, length, first * BLOCK_N, o_r, stop, width * BLOCK_N, m_r, stride_kn,
            stride_cn, SCALE, D, ROPE, BLOCK_R, BLOCK_N, BLOCK_H, True, DOUBLE,
        )  # fmt: skip
    highest = tl.max(b_peak, 1)
    sums = tl.sum(b_total * relative(b_peak, highest[:, None], SCALE), 1)
    p_s = row0 * splits + i_s * rows + o_r
    tl.store(peak + p_s, highest, mask=m_r)
    tl.store(total + p_s, sums, mask=m_r)


@triton.jit(do_not_specialize=["rows", "splits"])
def score_combine_kernel(
    peak, total, peak_out, total_out, rows, splits,
    BLOCK_R: tl.constexpr, BLOCK_S: tl.constexpr, SCALE: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(rows, BLOCK_R)
    i_h = (tl.program_id(0) // tiles).to(tl.int64)
    o_r = (tl.program_id(0) % tiles) * BLOCK_R + tl.arange(0, BLOCK_R)
    m_r = o_r < rows
    row0 = i_h * rows
    b_peak, b_total = row_stats(peak, total, row0 * splits, o_r, m_r, rows, splits, BLOCK_S, SCALE)
    tl.store(peak_out + row0 + o_r, b_peak, mask=m_r)
    tl.store(total_out + row0 + o_r, b_total, mask=m_r)


class Inputs(NamedTuple):
    """What both passes are given, in the order of the kernels' arguments."""

    q: Tensor
    k: Tensor
    cos: Tensor | None
    sin: Tensor | None
    query_positions: Tensor | None
    query_mask: Tensor | None
    key_mask: Tensor | None
    lengths: Tensor | None

    def strides(self) -> tuple[int, ...]:
        """Of k over batch, heads and keys, of cos and sin over batch and keys."""
        if self.cos is None:
            return *self.k.stride()[:3], 0, 0
        over_batch = self.cos.stride(0) if self.cos.shape[0] > 1 else 0
        return *self.k.stride()[:3], over_batch, self.cos.stride(1)

    def constants(self) -> dict[str, Any]:
        """Heads and widths: what a kernel is compiled for."""
        kv_heads, group = self.k.shape[1], self.q.shape[1] // self.k.shape[1]
        rope = 0 if self.cos is None else self.cos.shape[2]
        sizes = {"H": kv_heads, "G": group, "D": self.q.shape[3], "ROPE": rope}
        return {**sizes, "DOUBLE": self.q.dtype == torch.float64}


def key_splits(blocks: int, programs: int) -> tuple[int, int]:
    """Into how many parts the blocks of keys are split to fill a GPU, and blocks a part."""
    size = triton.cdiv(blocks, min(MOST_SPLITS, triton.cdiv(PROGRAMS, programs)))
    return triton.cdiv(blocks, size), size


def score_lse(
    given: Inputs, scale: float, keep: tuple[int, int] | None, tile: dict[str, int]
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """The highest unscaled logit of every row, and its sum of exp(scaled logit) relative to that.

    Both [B, Hkv, rows]. With keep = (start, stop): as parts [B, Hkv, splits, rows], and the fp32
    logits [B, Hq * M, width] of the keys from the block of `start` to stop - 1; so
    4 * B * Hq * M * (stop - start) bytes and up to two blocks of keys more.
    """
    q, k = given[:2]
    batch, heads, m, _ = q.shape
    kv_heads, n = k.shape[1:3]
    rows, block_n = heads // kv_heads * m, tile["BLOCK_N"]
    programs = batch * kv_heads * triton.cdiv(rows, tile["BLOCK_R"])
    splits, blocks = key_splits(triton.cdiv(n, block_n), programs)
    acc = torch.float64 if q.dtype == torch.float64 else torch.float32
    peak = q.new_empty(batch, kv_heads, splits, rows, dtype=acc)
    total = torch.empty_like(peak)
    logits, first, stop, width = None, 0, n, 0
    if keep is not None:
        first, stop = keep[0] // block_n, keep[1]
        width = triton.cdiv(stop, block_n) - first
        logits = q.new_empty(batch, heads * m, width * block_n, dtype=acc)
    score_lse_kernel[(programs * splits,)](
        *given, peak, total, logits, n, m, first, stop, splits, blocks, width, *given.strides(),
        SCALE=scale, **given.constants(), **tile,
    )  # fmt: skip
    if keep is None and splits > 1:
        parts, block_r = (peak, total), 32
        peak, total = (t.new_empty(batch, kv_heads, rows) for t in parts)
        score_combine_kernel[(batch * kv_heads * triton.cdiv(rows, block_r),)](
            *parts, peak, total, rows, splits, block_r, MOST_SPLITS, scale
        )
    return peak, total, logits, splits
