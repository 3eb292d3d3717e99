"""Device functions for cosines to about 1e-6 that run on the fp16 tensor cores.

A token is kept as a unit vector u and a norm. u * 2^8 is split into two fp16 numbers, hi + lo,
which together hold 22 bits; u . v = hi.hi + hi.lo + lo.hi, three fp16 products summed in fp32. (One
fp16 or tf32 pass flips the order of near ties; lo.lo is below fp32's rounding.) float64 tokens keep
one float64 u.
"""

import triton
import triton.language as tl

# 2^8: lifts lo out of fp16's subnormals; hi.hi sums to at most 2^16, exact to undo
UNIT_SCALE = tl.constexpr(256.0)


@triton.jit
def magnitude(m):
    # |m| with NaN as infinity: tl.max would pass over a NaN
    return tl.where(m == m, tl.abs(m), float("inf"))


@triton.jit
def usable(peak, DOUBLE: tl.constexpr):
    # a row whose peak is infinite or below the smallest normal number counts as a zero vector
    tiny: tl.constexpr = 2.2250738585072014e-308 if DOUBLE else 1.1754943508222875e-38
    return (peak >= tiny) & (peak < float("inf"))


@triton.jit
def unit_rows(m, DOUBLE: tl.constexpr):
    # rows of m [R, D] -> scaled unit vectors and norms; zero and non-finite rows, and rows of
    # infinite length, give 0 and 0
    peak = tl.max(magnitude(m), 1)
    ok = usable(peak, DOUBLE)
    # the peak is divided out first, so that no square overflows or vanishes
    u = tl.where(ok[:, None], m * (1.0 / tl.where(ok, peak, 1.0))[:, None], 0.0)
    length = tl.sqrt(tl.where(ok, tl.sum(u * u, 1), 1.0))
    ok = ok & (peak * length < float("inf"))
    u = tl.where(ok[:, None], u * (1.0 / length * UNIT_SCALE)[:, None], 0.0)
    return u, tl.where(ok, peak * length, 0.0)


@triton.jit
def store_unit(
    unit, rows, mask, d0, u, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr
):
    o_d = d0 + tl.arange(0, BLOCK_D)
    m_u = mask[:, None] & (o_d < D)[None, :]
    if DOUBLE:
        tl.store(unit + rows[:, None] * D + o_d[None, :], u, mask=m_u)
    else:
        hi = u.to(tl.float16)
        p_u = unit + rows[:, None] * (2 * D) + o_d[None, :]
        tl.store(p_u, hi, mask=m_u)
        tl.store(p_u + D, (u - hi.to(tl.float32)).to(tl.float16), mask=m_u)


@triton.jit
def load_unit(unit, rows, mask, d0, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr):
    # (hi, lo) [R, BLOCK_D]; for float64 both are u
    o_d = d0 + tl.arange(0, BLOCK_D)
    m_u = mask[:, None] & (o_d < D)[None, :]
    if DOUBLE:
        hi = tl.load(unit + rows[:, None] * D + o_d[None, :], mask=m_u, other=0.0)
        lo = hi
    else:
        p_u = unit + rows[:, None] * (2 * D) + o_d[None, :]
        hi = tl.load(p_u, mask=m_u, other=0.0)
        lo = tl.load(p_u + D, mask=m_u, other=0.0)
    return hi, lo


@triton.jit
def unit_dot(a_hi, a_lo, b_hi, b_lo, acc, DOUBLE: tl.constexpr):
    if DOUBLE:
        acc = tl.dot(a_hi, tl.trans(b_hi), acc, input_precision="ieee", out_dtype=tl.float64)
    else:
        acc = tl.dot(a_lo, tl.trans(b_hi), acc)
        acc = tl.dot(a_hi, tl.trans(b_lo), acc)
        acc = tl.dot(a_hi, tl.trans(b_hi), acc)
    return acc


@triton.jit
def any_zero(norm, length, BLOCK: tl.constexpr):
    zeros = tl.zeros([BLOCK], tl.int32)
    for n0 in range(0, length, BLOCK):
        o_n = n0 + tl.arange(0, BLOCK)
        zeros |= (tl.load(norm + o_n, mask=o_n < length, other=1.0) == 0).to(tl.int32)
    return tl.max(zeros, 0) > 0


@triton.jit
def improve(
    best, best_j, unit, norm, a_hi, a_lo, id_src, m_src, ids, j0, first, num_dst, length, has_zero,
    tokens_per_frame,
    MASKED: tl.constexpr, FRAME_LAG: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # best and best_j after the destinations j0 .. j0 + BLOCK_DST - 1
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    ONE: tl.constexpr = UNIT_SCALE * UNIT_SCALE
    near = tl.arange(0, BLOCK_DST)
    o_j = j0 + near
    if ids is None:
        id_dst = 2 * o_j.to(tl.int64) + 1
    else:
        id_dst = tl.load(ids + o_j, mask=o_j < num_dst, other=-1)
    m_j = (o_j < num_dst) & (id_dst >= first) & (id_dst < length)
    score = tl.zeros([BLOCK_SRC, BLOCK_DST], ACC)
    if D <= BLOCK_D:
        b_hi, b_lo = load_unit(unit, id_dst, m_j, 0, D, BLOCK_D, DOUBLE)
        score = unit_dot(a_hi, a_lo, b_hi, b_lo, score, DOUBLE)
    else:
        for d0 in range(0, D, BLOCK_D):
            c_hi, c_lo = load_unit(unit, id_src, m_src, d0, D, BLOCK_D, DOUBLE)
            b_hi, b_lo = load_unit(unit, id_dst, m_j, d0, D, BLOCK_D, DOUBLE)
            score = unit_dot(c_hi, c_lo, b_hi, b_lo, score, DOUBLE)
    if has_zero:
        # cos(0, 0) = 1, cos(0, v) = -1
        zero_src = tl.load(norm + id_src, mask=m_src, other=1.0) == 0
        zero_dst = tl.load(norm + id_dst, mask=m_j, other=1.0) == 0
        both, one = zero_src[:, None] & zero_dst[None, :], zero_src[:, None] | zero_dst[None, :]
        score = tl.where(one, tl.where(both, ONE, -ONE), score)
    if MASKED:
        score = tl.where(m_j[None, :], score, float("-inf"))
    if FRAME_LAG is not None:
        lag = (id_src // tokens_per_frame)[:, None] - (id_dst // tokens_per_frame)[None, :]
        score = tl.where(lag == FRAME_LAG, score, float("-inf"))
    # within a tile and between tiles, the lowest index of the highest score
    peak = tl.max(score, 1)
    peak_j = tl.min(tl.where(score == peak[:, None], near[None, :], BLOCK_DST), 1)
    better = peak > best
    return tl.where(better, peak, best), tl.where(better, j0 + peak_j, best_j)


@triton.jit
def best_partner(
    unit, norm, id_src, m_src, ids, first, num_dst, length, has_zero, tokens_per_frame,
    FRAME_LAG: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # value and index of the best destination j < num_dst: token ids[j], the odd ones without ids;
    # only tokens first <= id < length take part
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    best = tl.full([BLOCK_SRC], float("-inf"), ACC)
    best_j = tl.full([BLOCK_SRC], -1, tl.int32)
    a_hi, a_lo = load_unit(unit, id_src, m_src, 0, D, BLOCK_D, DOUBLE)
    # what is done per column costs every thread a quarter of a tile, so full tiles go without masks
    if ids is None:
        num_dst = tl.minimum(num_dst, length // 2)
    clear = num_dst // BLOCK_DST * BLOCK_DST
    if (ids is not None) or first > 0:
        clear = 0
    for j0 in range(0, clear, BLOCK_DST):
        best, best_j = improve(
            best, best_j, unit, norm, a_hi, a_lo, id_src, m_src, ids, j0, first, num_dst, length,
            has_zero,
            tokens_per_frame, False, FRAME_LAG, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
        )  # fmt: skip
    for j0 in range(clear, num_dst, BLOCK_DST):
        best, best_j = improve(
            best, best_j, unit, norm, a_hi, a_lo, id_src, m_src, ids, j0, first, num_dst, length,
            has_zero,
            tokens_per_frame, True, FRAME_LAG, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
        )  # fmt: skip
    return (best * (1.0 / (UNIT_SCALE * UNIT_SCALE))).to(ACC), best_j


@triton.jit
def summed_anew(best, best_j, unit, norm, id_src, ids, D: tl.constexpr, BLOCK_D: tl.constexpr):
    # the winners, summed anew in plain fp32: tensor cores cut low bits off long sums
    found = best_j >= 0
    if ids is None:
        id_dst = 2 * best_j.to(tl.int64) + 1
    else:
        id_dst = tl.load(ids + best_j, mask=found, other=0)
    total = tl.zeros_like(best)
    for d0 in range(0, D, BLOCK_D):
        a_hi, a_lo = load_unit(unit, id_src, found, d0, D, BLOCK_D, False)
        b_hi, b_lo = load_unit(unit, id_dst, found, d0, D, BLOCK_D, False)
        a, b = a_hi.to(tl.float32) + a_lo.to(tl.float32), b_hi.to(tl.float32) + b_lo.to(tl.float32)
        total += tl.sum(a * b, 1)
    # a zero vector's cosine is 1 or -1 by definition
    found &= tl.load(norm + id_src, mask=found, other=0.0) != 0
    found &= tl.load(norm + id_dst, mask=found, other=0.0) != 0
    return tl.where(found, total * (1.0 / (UNIT_SCALE * UNIT_SCALE)), best)
