"""Device functions that make the tokens of the next round of a row's bipartite merge."""

import triton
import triton.language as tl

from hico.kernels._cosine import (
    UNIT_SCALE,
    load_unit,
    magnitude,
    places,
    store_unit,
    unit_rows,
    usable,
)


@triton.jit
def place_of_dst(o_j, p, r, P):
    # protected tokens keep their places, the other destinations follow the unmerged sources
    start = P + (p + 1) // 2 - (P + 1) // 2 - r
    return tl.where(o_j < P // 2, 2 * o_j + 1, start + o_j - P // 2)


@triton.jit
def slot_sum(
    unit, norm, starts, members, o_j, m_j, one, two, crowded, has_zero, d0,
    D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # sum of unit * norm over destination j and its sources, in their order; one and two are the
    # first two, and only in crowded blocks are there more. All loads come before the first branch.
    a, a_scale = load_token(unit, norm, 2 * o_j + 1, m_j, d0, D, BLOCK_D, DOUBLE)
    b, b_scale = load_token(unit, norm, 2 * one, one >= 0, d0, D, BLOCK_D, DOUBLE)
    c, c_scale = load_token(unit, norm, 2 * two, two >= 0, d0, D, BLOCK_D, DOUBLE)
    # a zero vector is NaN and counts for nothing
    if DOUBLE or has_zero:
        a, b, c = without_zeros(a, a_scale), without_zeros(b, b_scale), without_zeros(c, c_scale)
    acc = a * a_scale[:, None] + b * b_scale[:, None] + c * c_scale[:, None]
    if crowded:
        at = tl.load(starts + o_j, mask=m_j, other=0) + 2
        stop = tl.load(starts + o_j + 1, mask=m_j, other=0)
        # two a turn, so that their loads overlap; a while loop, since the for loop of the same
        # length breaks Triton 3.6's layout pass
        while tl.max(stop - at, 0) > 0:
            one = tl.load(members + at, mask=at < stop, other=0)
            two = tl.load(members + at + 1, mask=at + 1 < stop, other=0)
            b, b_scale = load_token(unit, norm, 2 * one, at < stop, d0, D, BLOCK_D, DOUBLE)
            c, c_scale = load_token(unit, norm, 2 * two, at + 1 < stop, d0, D, BLOCK_D, DOUBLE)
            b, c = without_zeros(b, b_scale), without_zeros(c, c_scale)
            acc += b * b_scale[:, None] + c * c_scale[:, None]
            at += 2
    return acc


@triton.jit
def load_token(
    unit, norm, row, mask, d0, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr
):
    scale = tl.load(norm + row, mask=mask, other=0.0) * (1.0 / UNIT_SCALE)
    hi, lo = load_unit(unit, row, mask, d0, D, BLOCK_D, DOUBLE)
    if DOUBLE:
        u = hi
    else:
        u = hi.to(tl.float32) + lo.to(tl.float32)
    return u, scale


@triton.jit
def without_zeros(u, scale):
    return tl.where((scale != 0)[:, None], u, 0.0)


@triton.jit
def store_wide_sum(
    unit, norm, starts, members, out, o_j, m_j, one, two, crowded, has_zero, row,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # a row wider than a tile: its peak, length and unit vector, each from sums made again. While
    # loops here too: see slot_sum.
    peak = tl.zeros([BLOCK_DST], tl.float64 if DOUBLE else tl.float32)
    d0 = 0
    while d0 < D:
        s = slot_sum(
            unit, norm, starts, members, o_j, m_j, one, two, crowded, has_zero, d0,
            D, BLOCK_D, DOUBLE,
        )  # fmt: skip
        peak = tl.maximum(peak, tl.max(magnitude(s), 1))
        d0 += BLOCK_D
    ok = usable(peak, DOUBLE)
    shrink = tl.where(ok, 1.0 / tl.where(ok, peak, 1.0), 0.0)
    square = tl.zeros_like(peak)
    d0 = 0
    while d0 < D:
        s = slot_sum(
            unit, norm, starts, members, o_j, m_j, one, two, crowded, has_zero, d0,
            D, BLOCK_D, DOUBLE,
        )  # fmt: skip
        s = tl.where(ok[:, None], s * shrink[:, None], 0.0)
        square += tl.sum(s * s, 1)
        d0 += BLOCK_D
    length = tl.sqrt(tl.where(ok, square, 1.0))
    ok = ok & (peak * length < float("inf"))
    d0 = 0
    while d0 < D:
        s = slot_sum(
            unit, norm, starts, members, o_j, m_j, one, two, crowded, has_zero, d0,
            D, BLOCK_D, DOUBLE,
        )  # fmt: skip
        u = tl.where(ok[:, None], s * (shrink / length * UNIT_SCALE)[:, None], float("nan"))
        store_unit(out, row, m_j, d0, u, D, BLOCK_D, DOUBLE)
        d0 += BLOCK_D
    return tl.where(ok, peak * length, 0.0)


@triton.jit(noinline=True)
def next_units(
    unit, norm, starts, members, turn, stay, out, norm_out, has_zero, p, r, P,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # the next round's tokens in their order: destinations with their sources, sources that stayed
    num_dst = p // 2
    crowds, filled = tl.load(turn + 3 * num_dst), tl.load(turn + 3 * num_dst + 1)
    then_j, then_one, then_two = load_turn(turn, 0, filled, num_dst, BLOCK)
    for q0 in range(0, filled, BLOCK):
        m_j = q0 + tl.arange(0, BLOCK) < filled
        o_j, one, two = then_j, then_one, then_two
        then_j, then_one, then_two = load_turn(turn, q0 + BLOCK, filled, num_dst, BLOCK)
        row = place_of_dst(o_j, p, r, P)
        crowded = q0 < crowds
        if D <= BLOCK_D:
            s = slot_sum(
                unit, norm, starts, members, o_j, m_j, one, two, crowded, has_zero, 0,
                D, BLOCK_D, DOUBLE,
            )  # fmt: skip
            u, length = unit_rows(s, DOUBLE)
            store_unit(out, row, m_j, 0, u, D, BLOCK_D, DOUBLE)
        else:
            length = store_wide_sum(
                unit, norm, starts, members, out, o_j, m_j, one, two, crowded, has_zero, row,
                D, BLOCK_D, BLOCK, DOUBLE,
            )  # fmt: skip
        tl.store(norm_out + row, length, mask=m_j)
    # destinations that nothing joined and sources that stayed only move
    MOVED: tl.constexpr = 64
    for q0 in range(filled, num_dst, MOVED):
        o_q = q0 + tl.arange(0, MOVED)
        o_j = tl.load(turn + o_q, mask=o_q < num_dst, other=0)
        row = tl.where(o_q < num_dst, place_of_dst(o_j, p, r, P), -1)
        move_tokens(unit, norm, 2 * o_j + 1, out, norm_out, row, D, BLOCK_D, DOUBLE)
    if r < (p + 1) // 2:
        for i0 in range(0, (p + 1) // 2, MOVED):
            o_i = i0 + tl.arange(0, MOVED)
            row = tl.load(stay + o_i, mask=2 * o_i < p, other=-1)
            move_tokens(unit, norm, 2 * o_i, out, norm_out, row, D, BLOCK_D, DOUBLE)


@triton.jit
def load_turn(turn, q0, filled, num_dst, BLOCK: tl.constexpr):
    # a destination and its first two sources
    o_q = q0 + tl.arange(0, BLOCK)
    o_j = tl.load(turn + o_q, mask=o_q < filled, other=0)
    one = tl.load(turn + num_dst + o_q, mask=o_q < filled, other=-1)
    two = tl.load(turn + 2 * num_dst + o_q, mask=o_q < filled, other=-1)
    return o_j, one, two


@triton.jit
def move_tokens(
    unit, norm, row_in, out, norm_out, row_out,
    D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    moves = row_out >= 0
    W: tl.constexpr = D if DOUBLE else 2 * D
    BLOCK_W: tl.constexpr = BLOCK_D if DOUBLE else 2 * BLOCK_D
    length = tl.load(norm + row_in, mask=moves)
    for d0 in range(0, W, BLOCK_W):
        o_in, m_u = places(row_in, moves, d0, W, W, BLOCK_W)
        o_out, m_u = places(row_out, moves, d0, W, W, BLOCK_W)
        tl.store(out + o_out, tl.load(unit + o_in, mask=m_u), mask=m_u)
    tl.store(norm_out + row_out, length, mask=moves)
