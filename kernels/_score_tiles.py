"""Device functions on tiles of query rows by keys: what each row attends, logits, running sums.

Logits are kept unscaled: the difference to the row's highest is all but exact, and what is scaled,
to units of log 2 for exp2, is small where it counts. A head dimension is two halves, each padded to
BLOCK_H: rotary positions mix one with the other.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
# below any logit, and finite: the difference of two such is 0, not NaN
LOWEST = tl.constexpr(-3.0e38)
# the interpreter multiplies bfloat16 as if it were integers
INTERPRET = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def load_half(x, o_x, mask, first: tl.constexpr, COUNT: tl.constexpr, BLOCK_H: tl.constexpr):
    o_h = tl.arange(0, BLOCK_H)
    m_x = mask[:, None] & (o_h < COUNT)[None, :]
    return tl.load(x + o_x[:, None] + (first + o_h)[None, :], mask=m_x, other=0.0)


@triton.jit
def load_halves(x, o_x, mask, D: tl.constexpr, BLOCK_H: tl.constexpr):
    # D values from each of the offsets o_x on: the first (D + 1) // 2, and the others
    HALF: tl.constexpr = (D + 1) // 2
    first = load_half(x, o_x, mask, 0, HALF, BLOCK_H)
    return first, load_half(x, o_x, mask, HALF, D - HALF, BLOCK_H)


@triton.jit
def load_queries(q, r0, m_r, D: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_H: tl.constexpr):
    return load_halves(q + tl.cast(r0, tl.int64) * D, tl.arange(0, BLOCK_R) * D, m_r, D, BLOCK_H)


@triton.jit
def load_keys(
    k, cos, sin, p_cos, n0, length, stride_n, stride_cn, D: tl.constexpr, ROPE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_H: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # keys n0 .. n0 + BLOCK_N - 1 of one head, rotated by ROPE values each of cos and sin
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    near = tl.arange(0, BLOCK_N)
    mask = near < length - n0
    base = tl.cast(n0, tl.int64)
    first, second = load_halves(k + base * stride_n, near * stride_n, mask, D, BLOCK_H)
    if ROPE:
        p_cos += base * stride_cn
        o_c = near * stride_cn
        c1 = load_half(cos + p_cos, o_c, mask, 0, D // 2, BLOCK_H).to(ACC)
        s1 = load_half(sin + p_cos, o_c, mask, 0, D // 2, BLOCK_H).to(ACC)
        c2, s2 = c1, s1
        if ROPE == D:
            c2 = load_half(cos + p_cos, o_c, mask, D // 2, D // 2, BLOCK_H).to(ACC)
            s2 = load_half(sin + p_cos, o_c, mask, D // 2, D // 2, BLOCK_H).to(ACC)
        a, b = first.to(ACC), second.to(ACC)
        first = (a * c1 - b * s1).to(k.dtype.element_ty)
        second = (b * c2 + a * s2).to(k.dtype.element_ty)
    return first, second


@triton.jit
def dot(a, b, acc, DOUBLE: tl.constexpr):
    if INTERPRET and a.dtype == tl.bfloat16:
        a, b = a.to(tl.float32), b.to(tl.float32)
    if DOUBLE:
        return tl.dot(a, tl.trans(b), acc, input_precision="ieee", out_dtype=tl.float64)
    else:
        return tl.dot(a, tl.trans(b), acc, input_precision="ieee")


@triton.jit
def tile_logits(q1, q2, k1, k2, BLOCK_R: tl.constexpr, BLOCK_N: tl.constexpr, DOUBLE: tl.constexpr):
    s = tl.zeros([BLOCK_R, BLOCK_N], tl.float64 if DOUBLE else tl.float32)
    s = dot(q1, k1, s, DOUBLE)
    return dot(q2, k2, s, DOUBLE)


@triton.jit
def relative(s, highest, SCALE: tl.constexpr):
    # exp(scaled logit) relative to that of the highest
    return tl.exp2((s - highest) * (SCALE * LOG2E))


@triton.jit
def row_length(lengths, i_b, N):
    length = N
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + i_b), 0), N).to(tl.int32)
    return length


@triton.jit
def row_ends(query_positions, query_mask, i_b, o_r, m_r, M, length):
    # row r attends keys 0 .. end - 1; r counts the rows of several heads, M of each
    end = tl.where(m_r, length, 0)
    o_m = i_b * M + o_r % M
    if query_positions is not None:
        last = tl.load(query_positions + o_m, mask=m_r, other=-1)
        end = tl.where(last < end, tl.maximum(last, -1) + 1, end).to(tl.int32)
    if query_mask is not None:
        end = tl.where(tl.load(query_mask + o_m, mask=m_r, other=0) != 0, end, 0)
    return end


@triton.jit
def mask_logits(s, n0, end, key_mask, p_mask, length, BLOCK_N: tl.constexpr):
    # -inf where row r does not attend key n; the batch row's mask starts at p_mask
    o_n = n0 + tl.arange(0, BLOCK_N)
    allowed = o_n[None, :] < end[:, None]
    if key_mask is not None:
        b_keys = tl.load(key_mask + p_mask + o_n, mask=o_n < length, other=0) != 0
        allowed = allowed & b_keys[None, :]
    return tl.where(allowed, s, float("-inf"))


@triton.jit
def row_stats(
    peak, total, part, o_r, m_r, rows, splits, BLOCK_S: tl.constexpr, SCALE: tl.constexpr
):
    # the highest logit of every row, and the sum relative to it, over all splits
    if BLOCK_S == 1:
        b_peak = tl.load(peak + part + o_r, mask=m_r, other=0.0)
        b_total = tl.load(total + part + o_r, mask=m_r, other=0.0)
    else:
        o_s = tl.arange(0, BLOCK_S)
        m_s = (o_s < splits)[:, None] & m_r[None, :]
        p_s = part + o_s[:, None] * rows + o_r[None, :]
        each = tl.load(peak + p_s, mask=m_s, other=LOWEST)
        b_peak = tl.max(each, 0)
        b_total = tl.load(total + p_s, mask=m_s, other=0.0)
        b_total = tl.sum(b_total * relative(each, b_peak[None, :], SCALE), 0)
    return b_peak, b_total


@triton.jit
def kept_logits(logits, o_r, o_n, end, base, stop, width):
    # the logits of one key head that the first pass left from key `base` on
    m_s = (o_n[None, :] < end[:, None]) & (o_n < stop)[None, :]
    p_s = logits + o_r[:, None] * width + (o_n - base)[None, :]
    return tl.load(p_s, mask=m_s, other=float("-inf"))


@triton.jit
def probabilities(
    s, peak, total, part, o_r, m_r, rows, splits,
    BLOCK_S: tl.constexpr, SCALE: tl.constexpr, NAN_TO_INF: tl.constexpr,
):  # fmt: skip
    # softmax of the logits; without totals, `peak` is the natural log of the rows' sums
    if total is None:
        b_peak = tl.load(peak + part + o_r, mask=m_r, other=0.0) * LOG2E
        p = tl.exp2(s * (SCALE * LOG2E) - b_peak[:, None])
    else:
        b_peak, b_total = row_stats(peak, total, part, o_r, m_r, rows, splits, BLOCK_S, SCALE)
        empty = b_total == 0
        weight = tl.where(empty, 0.0, 1.0 / tl.where(empty, 1.0, b_total))
        p = relative(s, b_peak[:, None], SCALE) * weight[:, None]
    # a row with a NaN has NaN for its sum, and yet it scores 0 where it attends nothing
    p = tl.where(s == float("-inf"), 0.0, p)
    if NAN_TO_INF:
        p = tl.where(p == p, p, float("inf"))
    return p


@triton.jit
def count_rows(query_mask, i_b, M, DOUBLE: tl.constexpr):
    # how many rows a mean is over, at least one
    if query_mask is None:
        count = tl.cast(M, tl.int32)
    else:
        count = tl.cast(0, tl.int32)
        for m0 in range(0, M, 256):
            o_m = m0 + tl.arange(0, 256)
            kept = tl.load(query_mask + i_b * M + o_m, mask=o_m < M, other=0) != 0
            count += tl.sum(kept.to(tl.int32), 0)
    return tl.maximum(count, 1).to(tl.float64 if DOUBLE else tl.float32)
