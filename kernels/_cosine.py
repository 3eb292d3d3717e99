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
NO_INDEX = tl.constexpr(2147483647)


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
    # infinite length, give NaN and 0: no comparison holds for their cosines
    peak = tl.max(magnitude(m), 1)
    ok = usable(peak, DOUBLE)
    # the peak is divided out first, so that no square overflows or vanishes; rounded to nearest,
    # two inverses and a root bring a vector along an axis to length 1 exactly: equal ones tie
    safe = tl.where(ok, peak, 1.0)
    u = m * tl.where(ok, inverse(safe, DOUBLE), float("nan"))[:, None]
    square = tl.where(ok, tl.sum(u * u, 1), 1.0)
    if DOUBLE:
        length = tl.sqrt(square)
    else:
        length = tl.sqrt_rn(square)
    ok = ok & (peak * length < float("inf"))
    # the choice also keeps this product out of a fused multiply-add with what store_unit subtracts
    u = tl.where(ok[:, None], u * (inverse(length, DOUBLE) * UNIT_SCALE)[:, None], float("nan"))
    return u, tl.where(ok, peak * length, 0.0)


@triton.jit
def inverse(x, DOUBLE: tl.constexpr):
    if DOUBLE:
        return 1.0 / x
    else:
        return tl.div_rn(tl.full(x.shape, 1.0, tl.float32), x)


@triton.jit
def places(rows, mask, d0, STRIDE: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr):
    # offsets and mask of columns d0 .. d0 + BLOCK_D - 1 of these rows
    o_d = d0 + tl.arange(0, BLOCK_D)
    m_u = mask[:, None]
    if D % BLOCK_D != 0:
        m_u = m_u & (o_d < D)[None, :]
    return rows.to(tl.int64)[:, None] * STRIDE + o_d[None, :], m_u


@triton.jit
def store_unit(
    unit, rows, mask, d0, u, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr
):
    if DOUBLE:
        o_u, m_u = places(rows, mask, d0, D, D, BLOCK_D)
        tl.store(unit + o_u, u, mask=m_u)
    else:
        o_u, m_u = places(rows, mask, d0, 2 * D, D, BLOCK_D)
        hi = u.to(tl.float16)
        tl.store(unit + o_u, hi, mask=m_u)
        tl.store(unit + o_u + D, (u - hi.to(tl.float32)).to(tl.float16), mask=m_u)


@triton.jit
def load_unit(unit, rows, mask, d0, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr):
    # (hi, lo) [R, BLOCK_D]; for float64 both are u
    if DOUBLE:
        o_u, m_u = places(rows, mask, d0, D, D, BLOCK_D)
        hi = tl.load(unit + o_u, mask=m_u, other=0.0)
        lo = hi
    else:
        o_u, m_u = places(rows, mask, d0, 2 * D, D, BLOCK_D)
        hi = tl.load(unit + o_u, mask=m_u, other=0.0)
        lo = tl.load(unit + o_u + D, mask=m_u, other=0.0)
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
def best_partner(
    unit, id_src, m_src, ids, first, num_dst, length, tokens_per_frame,
    FRAME_LAG: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # value and index of the best destination j < num_dst: token ids[j], the odd ones without ids;
    # only tokens first <= id < length take part, and no zero vectors
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    near = tl.arange(0, BLOCK_DST)
    # every place of the tile keeps its own best: one reduction at the end, not one a tile
    best = tl.full([BLOCK_SRC, BLOCK_DST], float("-inf"), ACC)
    best_j0 = tl.full([BLOCK_SRC, BLOCK_DST], 0, tl.int32)
    a_hi, a_lo = load_unit(unit, id_src, m_src, 0, D, BLOCK_D, DOUBLE)
    j_first = 0
    if ids is None:
        j_first = first // 2
        num_dst = tl.minimum(num_dst, length // 2)
    for j0 in range(j_first, num_dst, BLOCK_DST):
        id_dst, m_j = destinations(ids, j0 + near, first, num_dst, length)
        score = tl.zeros([BLOCK_SRC, BLOCK_DST], ACC)
        if D <= BLOCK_D:
            b_hi, b_lo = load_unit(unit, id_dst, m_j, 0, D, BLOCK_D, DOUBLE)
            score = unit_dot(a_hi, a_lo, b_hi, b_lo, score, DOUBLE)
        else:
            for d0 in range(0, D, BLOCK_D):
                c_hi, c_lo = load_unit(unit, id_src, m_src, d0, D, BLOCK_D, DOUBLE)
                b_hi, b_lo = load_unit(unit, id_dst, m_j, d0, D, BLOCK_D, DOUBLE)
                score = unit_dot(c_hi, c_lo, b_hi, b_lo, score, DOUBLE)
        if (ids is not None) or (FRAME_LAG is not None):
            meet = may_meet(id_src, id_dst, m_j, tokens_per_frame, FRAME_LAG)
            score = tl.where(meet, score, float("-inf"))
        better = score > best
        best = tl.where(better, score, best)
        best_j0 = tl.where(better, j0, best_j0)
    # the lowest index of the highest score
    peak = tl.max(best, 1)
    held = (best == peak[:, None]) & (best > float("-inf"))
    peak_j = tl.min(tl.where(held, best_j0 + near[None, :], NO_INDEX), 1)
    peak *= 1.0 / (UNIT_SCALE * UNIT_SCALE)
    return peak, tl.where(peak_j == NO_INDEX, -1, peak_j)


@triton.jit
def destinations(ids, o_j, first, num_dst, length):
    # past the end the last destination again: a tie, which the lower place wins
    o_j = tl.minimum(o_j, num_dst - 1)
    if ids is None:
        id_dst = 2 * o_j + 1
        m_j = o_j >= 0
    else:
        id_dst = tl.load(ids + o_j)
        m_j = (id_dst >= first) & (id_dst < length)
    return id_dst, m_j


@triton.jit
def may_meet(id_src, id_dst, m_j, tokens_per_frame, FRAME_LAG: tl.constexpr):
    meet = (id_src >= 0)[:, None] & m_j[None, :]
    if FRAME_LAG is not None:
        lag = (id_src // tokens_per_frame)[:, None] - (id_dst // tokens_per_frame)[None, :]
        meet &= lag == FRAME_LAG
    return meet


@triton.jit
def with_zeros(
    peak, peak_j, norm, id_src, m_src, ids, first, num_dst, length, tokens_per_frame,
    FRAME_LAG: tl.constexpr, BLOCK_DST: tl.constexpr,
):  # fmt: skip
    # the best partners with zero vectors as well, by cos(0, 0) = 1 and cos(0, v) = -1
    like = tl.full(peak.shape, NO_INDEX, tl.int32)
    unlike = like
    zero_src = tl.load(norm + id_src, mask=m_src, other=1.0) == 0
    j_first = 0
    if ids is None:
        j_first = first // 2
        num_dst = tl.minimum(num_dst, length // 2)
    for j0 in range(j_first, num_dst, BLOCK_DST):
        o_j = j0 + tl.arange(0, BLOCK_DST)
        id_dst, m_j = destinations(ids, o_j, first, num_dst, length)
        zero_dst = tl.load(norm + id_dst, mask=m_j, other=1.0) == 0
        meet = may_meet(id_src, id_dst, m_j, tokens_per_frame, FRAME_LAG)
        both = meet & zero_src[:, None] & zero_dst[None, :]
        one = meet & (zero_src[:, None] != zero_dst[None, :])
        like = tl.minimum(like, tl.min(tl.where(both, o_j[None, :], NO_INDEX), 1))
        unlike = tl.minimum(unlike, tl.min(tl.where(one, o_j[None, :], NO_INDEX), 1))
    other = (unlike != NO_INDEX) & ((peak < -1.0) | ((peak == -1.0) & (unlike < peak_j)))
    peak, peak_j = tl.where(other, -1.0, peak), tl.where(other, unlike, peak_j)
    same = like != NO_INDEX
    return tl.where(same, 1.0, peak), tl.where(same, like, peak_j)


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
