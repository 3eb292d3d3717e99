"""Exact choice of the best scores: a radix select on order-preserving keys, written in order.

Rows start at int64 offsets; places within a row are int32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# (tokens at most, warps) of a program that chooses a row alone; tokens of one that shares its row
ROW_TILES = ((1024, 4), (4096, 8), (16384, 16))
BLOCK = 2048


@triton.jit
def order_key(b_score, DOUBLE: tl.constexpr):
    # sign and magnitude to two's complement: -0 equals 0, subnormals stay apart; NaN is lowest
    TOP: tl.constexpr = (1 << 63) - 1 if DOUBLE else (1 << 31) - 1
    INF: tl.constexpr = 0x7FF << 52 if DOUBLE else 0xFF << 23
    if b_score.dtype == tl.bfloat16:
        # the interpreter converts subnormals wrongly
        bits = b_score.to(tl.int16, bitcast=True).to(tl.int32) << 16
    else:
        wide = b_score.to(tl.float64 if DOUBLE else tl.float32)
        bits = wide.to(tl.int64 if DOUBLE else tl.int32, bitcast=True)
    magnitude = bits & TOP
    key = tl.where(bits < 0, -magnitude, magnitude)
    return tl.where(magnitude > INF, -TOP, key)


@triton.jit
def unsigned(key, DOUBLE: tl.constexpr):
    # the same order in unsigned integers
    SIGN: tl.constexpr = 1 << 63 if DOUBLE else 1 << 31
    return key.to(tl.uint64 if DOUBLE else tl.uint32, bitcast=True) ^ SIGN


@triton.jit
def load_keys(score, protect, o_n, length, DOUBLE: tl.constexpr):
    # protected tokens on top, those past the length below NaN, where no cut reaches
    TOP: tl.constexpr = (1 << 63) - 1 if DOUBLE else (1 << 31) - 1
    there = o_n < length
    key = order_key(tl.load(score + o_n, mask=there, other=0.0), DOUBLE)
    if protect is not None:
        key = tl.where(tl.load(protect + o_n, mask=there, other=0) != 0, TOP, key)
    return unsigned(tl.where(there, key, -TOP - 1), DOUBLE)


@triton.jit
def row_length(lengths, i_b, N):
    length = N
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + i_b), 0), N).to(tl.int32)
    return length


@triton.jit
def row_budget(budget, lengths, i_b, N, W):
    wanted = tl.minimum(row_length(lengths, i_b, N), W)
    if budget is not None:
        wanted = tl.minimum(tl.maximum(tl.load(budget + i_b), 0), wanted).to(tl.int32)
    return wanted


@triton.jit
def threshold_key(threshold, i_b, DOUBLE: tl.constexpr):
    # nothing but protected tokens reaches a NaN
    TOP: tl.constexpr = (1 << 63) - 1 if DOUBLE else (1 << 31) - 1
    cut = tl.load(threshold + i_b)
    return unsigned(tl.where(cut == cut, order_key(cut, DOUBLE), TOP), DOUBLE)


@triton.jit
def place(index, key, o_n, cut, need, start, equals, total, W):
    # writes what is above the cut, and of what equals it the first `need` of the row, `equals` of
    # which came before, from `start` on; and -1 behind all of the row's
    equal = (key == cut).to(tl.int32)
    rank = equals + tl.cumsum(equal, 0) - equal
    kept = ((key > cut) | ((equal != 0) & (rank < need))).to(tl.int32)
    tl.store(index + start + tl.cumsum(kept, 0) - 1, o_n, mask=kept != 0)
    tl.store(index + o_n, -1, mask=(o_n >= total) & (o_n < W))
    return start + tl.sum(kept, 0), equals + tl.sum(equal, 0)


@triton.jit(do_not_specialize=["N", "W"])
def select_row_kernel(
    score, budget, threshold, protect, lengths, index, count, N, W,
    DOUBLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_W: tl.constexpr,
):  # fmt: skip
    # one program chooses one row; its keys stay in registers while the cut is found bit by bit
    BITS: tl.constexpr = 64 if DOUBLE else 32
    i_b = tl.program_id(0).to(tl.int64)
    score += i_b * N
    index += i_b * W
    if protect is not None:
        protect += i_b * N
    length = row_length(lengths, i_b, N)
    key = load_keys(score, protect, tl.arange(0, BLOCK), length, DOUBLE)
    if threshold is not None:
        cut, need = threshold_key(threshold, i_b, DOUBLE), length
    else:
        wanted = row_budget(budget, lengths, i_b, N, W)
        step = tl.full((), 1 << (BITS - 1), tl.uint64 if DOUBLE else tl.uint32)
        cut = step ^ step
        for _ in range(BITS):
            enough = tl.sum((key >= (cut | step)).to(tl.int32), 0) >= wanted
            cut = tl.where(enough, cut | step, cut)
            step = step >> 1
        need = wanted - tl.sum((key > cut).to(tl.int32), 0)
    total = tl.sum((key > cut).to(tl.int32), 0)
    total += tl.minimum(need, tl.sum((key == cut).to(tl.int32), 0))
    tl.store(count + i_b, total)
    start = total * 0
    equals = start
    for n0 in range(0, N, BLOCK_W):
        o_n = n0 + tl.arange(0, BLOCK_W)
        part = load_keys(score, protect, o_n, length, DOUBLE)
        start, equals = place(index, part, o_n, cut, need, start, equals, total, W)


@triton.jit
def next_cut(hist, state, LEVEL: tl.constexpr, KEY: tl.constexpr):
    # the digit of the cut at LEVEL - 1, where the histogram from the top first reaches the need
    prefix = tl.load(state + 2 * LEVEL - 2).to(KEY)
    need = tl.load(state + 2 * LEVEL - 1).to(tl.int32)
    o_d = tl.arange(0, 256)
    held = tl.load(hist + (LEVEL - 1) * 256 + o_d)
    reached = tl.sum(held, 0) - tl.cumsum(held, 0) + held >= need
    digit = tl.sum(reached.to(tl.int32), 0) - 1
    return (prefix << 8) | digit.to(KEY), need - tl.sum(tl.where(o_d > digit, held, 0), 0)


@triton.jit(do_not_specialize=["N", "W", "blocks"])
def select_digit_kernel(
    score, budget, protect, lengths, hist, state, N, W, blocks,
    LEVEL: tl.constexpr, DOUBLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # adds a block's keys that begin like the cut to the histogram of their next eight bits
    KEY: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    LEVELS: tl.constexpr = 8 if DOUBLE else 4
    i_b, i_n = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0) % blocks
    hist += i_b * (LEVELS * 256)
    state += i_b * (2 * LEVELS + 2)
    if protect is not None:
        protect += i_b * N
    o_n = i_n * BLOCK + tl.arange(0, BLOCK)
    key = load_keys(score + i_b * N, protect, o_n, row_length(lengths, i_b, N), DOUBLE)
    digit = ((key >> (8 * (LEVELS - 1 - LEVEL))) & 255).to(tl.int32)
    if LEVEL == 0:
        prefix, need = 0, row_budget(budget, lengths, i_b, N, W)
        held = tl.histogram(digit, 256)
    else:
        prefix, need = next_cut(hist, state, LEVEL, KEY)
        held = tl.histogram(digit, 256, mask=(key >> (8 * (LEVELS - LEVEL))) == prefix)
    p_hist = hist + LEVEL * 256 + tl.arange(0, 256)
    tl.atomic_add(p_hist, held, mask=held > 0, sem="relaxed")
    if i_n == 0:
        tl.store(state + 2 * LEVEL, prefix)
        tl.store(state + 2 * LEVEL + 1, need)


@triton.jit(do_not_specialize=["N", "blocks"])
def select_count_kernel(
    score, threshold, protect, lengths, hist, state, counts, N, blocks,
    DOUBLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    # how many keys of a block lie above the cut, and how many on it
    KEY: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    LEVELS: tl.constexpr = 8 if DOUBLE else 4
    i_b, i_n = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0) % blocks
    state += i_b * (2 * LEVELS + 2)
    if protect is not None:
        protect += i_b * N
    o_n = i_n * BLOCK + tl.arange(0, BLOCK)
    length = row_length(lengths, i_b, N)
    key = load_keys(score + i_b * N, protect, o_n, length, DOUBLE)
    if threshold is not None:
        cut, need = threshold_key(threshold, i_b, DOUBLE), length
    else:
        cut, need = next_cut(hist + i_b * (LEVELS * 256), state, LEVELS, KEY)
    counts += (i_b * blocks + i_n) * 2
    tl.store(counts, tl.sum((key > cut).to(tl.int32), 0))
    tl.store(counts + 1, tl.sum((key == cut).to(tl.int32), 0))
    if i_n == 0:
        tl.store(state + 2 * LEVELS, cut)
        tl.store(state + 2 * LEVELS + 1, need)


@triton.jit(do_not_specialize=["N", "W", "blocks"])
def select_write_kernel(
    score, protect, lengths, state, counts, index, count, N, W, blocks,
    DOUBLE: tl.constexpr, BLOCK: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # writes a block's chosen tokens behind those of the blocks before it, and its part of the rest
    KEY: tl.constexpr = tl.uint64 if DOUBLE else tl.uint32
    LEVELS: tl.constexpr = 8 if DOUBLE else 4
    i_b, i_n = tl.program_id(0).to(tl.int64) // blocks, tl.program_id(0) % blocks
    state += i_b * (2 * LEVELS + 2) + 2 * LEVELS
    if protect is not None:
        protect += i_b * N
    above = tl.zeros([BLOCK_C], tl.int32)
    equal = tl.zeros([BLOCK_C], tl.int32)
    all_above = tl.zeros([BLOCK_C], tl.int32)
    all_equal = tl.zeros([BLOCK_C], tl.int32)
    for c0 in range(0, blocks, BLOCK_C):
        o_c = c0 + tl.arange(0, BLOCK_C)
        p_c = counts + (i_b * blocks + o_c) * 2
        b_above = tl.load(p_c, mask=o_c < blocks, other=0)
        b_equal = tl.load(p_c + 1, mask=o_c < blocks, other=0)
        above += tl.where(o_c < i_n, b_above, 0)
        equal += tl.where(o_c < i_n, b_equal, 0)
        all_above += b_above
        all_equal += b_equal
    cut, need = tl.load(state).to(KEY), tl.load(state + 1).to(tl.int32)
    equals = tl.sum(equal, 0)
    start = tl.sum(above, 0) + tl.minimum(equals, need)
    total = tl.sum(all_above, 0) + tl.minimum(tl.sum(all_equal, 0), need)
    o_n = i_n * BLOCK + tl.arange(0, BLOCK)
    key = load_keys(score + i_b * N, protect, o_n, row_length(lengths, i_b, N), DOUBLE)
    place(index + i_b * W, key, o_n, cut, need, start, equals, total, W)
    if i_n == 0:
        tl.store(count + i_b, total)


def select(
    score: Tensor,
    width: int,
    budget: Tensor | None,
    threshold: Tensor | None,
    protect: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The chosen tokens of every row, ascending, then -1 [B, width], and how many they are [B]."""
    batch, n = score.shape
    index = torch.empty(batch, width, dtype=torch.int64, device=score.device)
    count = torch.empty(batch, dtype=torch.int64, device=score.device)
    if index.numel() == 0:
        return index, count.zero_()
    double = score.dtype == torch.float64
    protect = None if protect is None else protect.view(torch.uint8)
    for block, warps in ROW_TILES:
        if n <= block:
            select_row_kernel[(batch,)](
                score, budget, threshold, protect, lengths, index, count, n, width,
                double, block, min(block, 4096), num_warps=warps,
            )  # fmt: skip
            return index, count
    levels, blocks = 8 if double else 4, triton.cdiv(n, BLOCK)
    grid = (batch * blocks,)
    state = torch.empty(batch, levels + 1, 2, dtype=torch.int64, device=score.device)
    counts = torch.empty(batch, blocks, 2, dtype=torch.int32, device=score.device)
    hist = None
    if threshold is None:
        hist = torch.zeros(batch, levels, 256, dtype=torch.int32, device=score.device)
        for level in range(levels):
            select_digit_kernel[grid](
                score, budget, protect, lengths, hist, state, n, width, blocks,
                level, double, BLOCK,
            )  # fmt: skip
    select_count_kernel[grid](
        score, threshold, protect, lengths, hist, state, counts, n, blocks, double, BLOCK
    )
    select_write_kernel[grid](
        score, protect, lengths, state, counts, index, count, n, width, blocks, double, BLOCK, 128
    )
    return index, count
