"""Attention of query rows over keys, reduced to one score per key."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import power_of_2
from hico.kernels._score_lse import MOST_SPLITS, Inputs, score_lse
from hico.kernels._score_tiles import (
    count_rows,
    kept_logits,
    load_keys,
    load_queries,
    mask_logits,
    probabilities,
    row_ends,
    row_length,
    tile_logits,
)

FEW_ROWS = 16  # of a key head: their logits are kept, and keys read once


@triton.jit
def combine(a, b, MAX: tl.constexpr):
    return tl.maximum(a, b) if MAX else a + b


@triton.jit(
    do_not_specialize=["N", "M", "start", "stop", "splits", "first", "width"],
    do_not_specialize_on_alignment=["query_positions", "query_mask", "key_mask", "lengths", "peak"],
)
def score_columns_kernel(
    q, k, cos, sin, query_positions, query_mask, key_mask, lengths, peak, total, logits, score,
    N, M, start, stop, splits, first, width,
    stride_kb, stride_kh, stride_kn, stride_cb, stride_cn,
    SCALE: tl.constexpr, FACTOR: tl.constexpr, MEAN: tl.constexpr, MAX_ROWS: tl.constexpr,
    MAX_HEADS: tl.constexpr, GROUPS: tl.constexpr, HEADS: tl.constexpr, H: tl.constexpr,
    G: tl.constexpr, D: tl.constexpr, ROPE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_L: tl.constexpr,
    DOUBLE: tl.constexpr,
):  # fmt: skip
    # one program: BLOCK_N keys of HEADS key heads. The G * M rows of a key head are reduced in
    # GROUPS groups, each to a sum or maximum (MAX_ROWS), then the groups of all heads (MAX_HEADS)
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    ANY_MAX: tl.constexpr = MAX_ROWS or MAX_HEADS
    tiles = tl.cdiv(stop - start, BLOCK_N)
    i_p, parts = tl.program_id(0), H // HEADS
    i_n, i_s = i_p % tiles, (i_p // tiles % parts).to(tl.int64)
    i_b = (i_p // tiles // parts).to(tl.int64)
    length = row_length(lengths, i_b, N)
    n0 = start + i_n * BLOCK_N
    o_n = n0 + tl.arange(0, BLOCK_N)
    # past the end of a padded row there is nothing to add up
    rows = tl.where(n0 < length, G * M // GROUPS, 0)
    result = tl.zeros([BLOCK_N], ACC)
    for head in range(HEADS):
        i_h = i_s * HEADS + head
        row0 = (i_b * H + i_h) * (G * M)
        if logits is None:
            p_k = k + i_b * stride_kb + i_h * stride_kh
            k1, k2 = load_keys(
                p_k, cos, sin, i_b * stride_cb, n0, length, stride_kn, stride_cn,
                D, ROPE, BLOCK_N, BLOCK_H, DOUBLE,
            )  # fmt: skip
        for group in range(GROUPS):
            # summed cell by cell: the only reduction over rows is the last
            cells = tl.zeros([BLOCK_R, BLOCK_N], ACC)
            for r0 in range(0, rows, BLOCK_R):
                o_r = r0 + tl.arange(0, BLOCK_R)
                m_r = o_r < rows
                o_r += group * M
                end = row_ends(query_positions, query_mask, i_b, o_r, m_r, M, length)
                some = True
                if query_positions is not None:
                    some = tl.max(end, 0) > n0
                if some:
                    if logits is None:
                        q1, q2 = load_queries(q, row0 + group * M + r0, m_r, D, BLOCK_R, BLOCK_H)
                        s = tile_logits(q1, q2, k1, k2, BLOCK_R, BLOCK_N, DOUBLE)
                        s = mask_logits(s, n0, end, key_mask, i_b * N, length, BLOCK_N)
                    else:
                        line = width * BLOCK_L
                        p_s = logits + row0 * line
                        s = kept_logits(p_s, o_r, o_n, end, first * BLOCK_L, stop, line)
                    p = probabilities(
                        s, peak, total, row0 * splits, o_r, m_r, G * M, splits,
                        BLOCK_S, SCALE, ANY_MAX,
                    )  # fmt: skip
                    cells = combine(cells, p, MAX_ROWS)
            column = tl.max(cells, 0) if MAX_ROWS else tl.sum(cells, 0)
            result = combine(result, column, MAX_HEADS)
    if ANY_MAX:
        # a maximum passes over NaN, so until here it was infinity
        result = tl.where(result == float("inf"), float("nan"), result)
    if MEAN:
        result *= 1.0 / count_rows(query_mask, i_b, M, DOUBLE)
    p_out = score + (i_b * parts + i_s) * (stop - start) + (o_n - start)
    tl.store(p_out, result * FACTOR, mask=o_n < stop)


def attention_score(
    q: Tensor,
    k: Tensor,
    query_positions: Tensor | None,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    lengths: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    lse: Tensor | None,
    start: int,
    stop: int,
    scale: float,
    reduce_heads: str,
    reduce_queries: str,
) -> Tensor:
    """Scores [B, stop - start], or [B, Hkv, stop - start] for "kv"; k of any strides but the last.

    With few rows keys are read once, and their fp32 logits, 4 * B * Hq * M * (stop - start) bytes,
    written and read. With many, or with lse, keys are read twice, or once, and memory is the
    4 * B * Hkv * (stop - start) bytes of each key head's scores and up to 1 KiB a row.
    """
    batch, heads, m, d = q.shape
    kv_heads, n, width = *k.shape[1:3], stop - start
    group, double = heads // kv_heads, q.dtype == torch.float64
    acc, per_head = torch.float64 if double else torch.float32, reduce_heads == "kv"
    if not batch * m * width:
        return q.new_zeros(batch, *[kv_heads] * per_head, width, dtype=acc)

    given = Inputs(q, k, cos, sin, query_positions, query_mask, key_mask, lengths)
    few = group * m <= FEW_ROWS and lse is None
    tile = score_tile(d, group * m, q.element_size(), cos is not None)
    peak, total, logits, splits = lse, None, None, 1
    first, block_l = start // tile["BLOCK_N"], tile["BLOCK_N"]
    if lse is None:
        keep = (start, stop) if few else None
        peak, total, logits, parts = score_lse(given, scale, keep, tile)
        splits = parts if few else 1
    if few:
        tile = {**tile, "BLOCK_N": 64 if double else 512, "num_warps": 8, "num_stages": 1}
    max_rows, max_heads = reduce_queries == "max", reduce_heads == "max"
    if m == 1:
        max_rows = max_heads  # a head is one row: heads are what is reduced
    at_once = kv_heads if few and not per_head else 1
    score = q.new_empty(batch, kv_heads // at_once, width, dtype=acc)
    score_columns_kernel[(batch * kv_heads // at_once * triton.cdiv(width, tile["BLOCK_N"]),)](
        *given, peak, total, logits, score,
        n, m, start, stop, splits, first, triton.cdiv(stop, block_l) - first, *given.strides(),
        SCALE=scale, FACTOR={"mean": 1 / heads, "kv": 1 / group}.get(reduce_heads, 1.0),
        MEAN=reduce_queries == "mean" and m > 1, MAX_ROWS=max_rows, MAX_HEADS=max_heads,
        GROUPS=1 if max_rows == max_heads else group, HEADS=at_once,
        BLOCK_S=MOST_SPLITS if few else 1, BLOCK_L=block_l, **given.constants(), **tile,
    )  # fmt: skip
    if per_head:
        return score
    if score.shape[1] == 1:
        return score[:, 0]
    return score.amax(1) if max_heads else score.sum(1)


def score_tile(d: int, rows: int, size: int, rope: bool) -> dict[str, int]:
    """Rows and keys of a tile, warps and stages, for values of `size` bytes in d dimensions."""
    block_h = power_of_2(triton.cdiv(d, 2), low=16)
    if size == 2:
        block_r = power_of_2(rows, low=16, high=128 if d <= 128 else 64)
        block_n, warps, stages = 128, 8 if block_r == 128 else 4, 3
        if rope:  # cos, sin and both halves of the keys pass through registers
            block_n, stages = 64 if block_r == 16 else 32, 2
    else:  # without tensor cores, or nearly so
        block_r, block_n, warps, stages = 16, 16 if rope else 32, 4, 1
    block_n = block_n if d <= 128 else block_n // 2
    tile = {"BLOCK_R": block_r, "BLOCK_N": max(block_n, 16), "BLOCK_H": block_h}
    return {**tile, "num_warps": warps, "num_stages": stages}
