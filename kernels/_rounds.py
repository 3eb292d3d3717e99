"""Device functions of the multi-round bipartite merge of one row, in metric space.

A row's tokens are the unit vectors and norms of _cosine.py, in the current order. In each round
even positions look for a partner at odd ones; the r best pairs merge by adding up unit * norm,
since the cosine of a mean is that of the sum. `order` names the living tokens, `parent` says where
the others went.
"""

import triton
import triton.language as tl

from hico.kernels._cosine import (
    UNIT_SCALE,
    any_zero,
    best_partner,
    load_unit,
    magnitude,
    store_unit,
    unit_rows,
    usable,
)
from hico.kernels._lists import list_slots, order_by_count


@triton.jit(noinline=True)
def match_round(
    unit, norm, val, idx, p, P,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr,
    DOUBLE: tl.constexpr,
):  # fmt: skip
    has_zero = any_zero(norm, p, 1024)
    for i0 in range(0, (p + 1) // 2, BLOCK_SRC):
        o_i = i0 + tl.arange(0, BLOCK_SRC)
        m_i = (2 * o_i >= P) & (2 * o_i < p)
        best, best_j = best_partner(
            unit, norm, 2 * o_i.to(tl.int64), m_i, None, P, p // 2, p, has_zero, 1,
            None, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
        )  # fmt: skip
        tl.store(val + o_i, tl.where(m_i, best, float("-inf")), mask=2 * o_i < p)
        tl.store(idx + o_i, tl.where(m_i, best_j, -1), mask=2 * o_i < p)


@triton.jit
def rank_sources(val, o_i, v, num_src, BLOCK: tl.constexpr):
    # how many sources are more similar than source i (value v); ties go to the lower position
    rank = tl.zeros_like(o_i)
    for k0 in range(0, num_src, BLOCK):
        o_k = k0 + tl.arange(0, BLOCK)
        v_k = tl.load(val + o_k, mask=o_k < num_src, other=float("-inf"))[:, None]
        ahead = (v_k > v[None, :]) | ((v_k == v[None, :]) & (o_k[:, None] < o_i[None, :]))
        rank += tl.sum(ahead.to(tl.int32), 0)
    return rank


@triton.jit(noinline=True)
def merge_sources(val, idx, stay, order, after, parent, p, r, P, BLOCK: tl.constexpr):
    # the r best sources get a parent; the others idx = -1 and in stay[i] their next place
    first_src, num_src = (P + 1) // 2, (p + 1) // 2
    stayed = 0
    for i0 in range(0, num_src, BLOCK):
        o_i = i0 + tl.arange(0, BLOCK)
        m_i = (o_i >= first_src) & (o_i < num_src)
        rank = tl.zeros_like(o_i)
        if r < num_src - first_src:
            v = tl.load(val + o_i, mask=m_i, other=float("-inf"))
            rank = rank_sources(val, o_i, v, num_src, BLOCK)
        merged = m_i & (rank < r)
        j = tl.load(idx + o_i, mask=merged, other=-1)
        token = tl.load(order + 2 * o_i, mask=o_i < num_src, other=0)
        tl.store(parent + token, tl.load(order + 2 * j + 1, mask=merged, other=0), mask=merged)
        stays = m_i & (rank >= r)
        # with protected tokens the unmerged sources come by position, else by falling similarity
        place = rank - r
        if P > 0:
            place = P + stayed + tl.cumsum(stays.to(tl.int32), 0) - 1
            stayed += tl.sum(stays.to(tl.int32), 0)
        place = tl.where(stays, place, tl.where(o_i < first_src, 2 * o_i, -1))
        tl.store(after + place, token, mask=place >= 0)
        tl.store(stay + o_i, place, mask=o_i < num_src)
        tl.store(idx + o_i, j, mask=o_i < num_src)


@triton.jit
def place_of_dst(o_j, p, r, P):
    # protected tokens keep their places, the other destinations follow the unmerged sources
    start = P + (p + 1) // 2 - (P + 1) // 2 - r
    return tl.where(o_j < P // 2, 2 * o_j + 1, start + o_j - P // 2)


@triton.jit(noinline=True)
def place_dst(order, after, p, r, P, BLOCK: tl.constexpr):
    for j0 in range(0, p // 2, BLOCK):
        o_j = j0 + tl.arange(0, BLOCK)
        token = tl.load(order + 2 * o_j + 1, mask=o_j < p // 2, other=0)
        tl.store(after + place_of_dst(o_j, p, r, P), token, mask=o_j < p // 2)


@triton.jit
def slot_sum(
    unit, norm, starts, members, o_j, m_j, d0,
    D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # sum of unit * norm over destination j and its sources, in their order
    acc = weighted_unit(unit, norm, 2 * o_j.to(tl.int64) + 1, m_j, d0, D, BLOCK_D, DOUBLE)
    at = tl.load(starts + o_j, mask=m_j, other=0)
    stop = tl.load(starts + o_j + 1, mask=m_j, other=0)
    # two sources a turn, so that their loads overlap; a while loop, since the for loop of the same
    # length breaks Triton 3.6's layout pass
    while tl.max(stop - at, 0) > 0:
        row = 2 * tl.load(members + at, mask=at < stop, other=0).to(tl.int64)
        row_2 = 2 * tl.load(members + at + 1, mask=at + 1 < stop, other=0).to(tl.int64)
        v = weighted_unit(unit, norm, row, at < stop, d0, D, BLOCK_D, DOUBLE)
        v_2 = weighted_unit(unit, norm, row_2, at + 1 < stop, d0, D, BLOCK_D, DOUBLE)
        acc = acc + v + v_2
        at += 2
    return acc


@triton.jit
def weighted_unit(
    unit, norm, row, mask, d0, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr
):
    hi, lo = load_unit(unit, row, mask, d0, D, BLOCK_D, DOUBLE)
    if DOUBLE:
        u = hi
    else:
        u = hi.to(tl.float32) + lo.to(tl.float32)
    return u * (tl.load(norm + row, mask=mask, other=0.0) * (1.0 / UNIT_SCALE))[:, None]


@triton.jit
def store_wide_sum(
    unit, norm, starts, members, out, o_j, m_j, row,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # a row wider than a tile: its peak, length and unit vector, each from sums made again
    peak = tl.zeros([BLOCK_DST], tl.float64 if DOUBLE else tl.float32)
    for d0 in range(0, D, BLOCK_D):
        s = slot_sum(unit, norm, starts, members, o_j, m_j, d0, D, BLOCK_D, DOUBLE)
        peak = tl.maximum(peak, tl.max(magnitude(s), 1))
    ok = usable(peak, DOUBLE)
    inverse = tl.where(ok, 1.0 / tl.where(ok, peak, 1.0), 0.0)
    square = tl.zeros_like(peak)
    for d0 in range(0, D, BLOCK_D):
        s = slot_sum(unit, norm, starts, members, o_j, m_j, d0, D, BLOCK_D, DOUBLE)
        s = tl.where(ok[:, None], s * inverse[:, None], 0.0)
        square += tl.sum(s * s, 1)
    length = tl.sqrt(tl.where(ok, square, 1.0))
    ok = ok & (peak * length < float("inf"))
    for d0 in range(0, D, BLOCK_D):
        s = slot_sum(unit, norm, starts, members, o_j, m_j, d0, D, BLOCK_D, DOUBLE)
        u = tl.where(ok[:, None], s * (inverse / length * UNIT_SCALE)[:, None], 0.0)
        store_unit(out, row, m_j, d0, u, D, BLOCK_D, DOUBLE)
    return tl.where(ok, peak * length, 0.0)


@triton.jit(noinline=True)
def next_units(
    unit, norm, starts, members, turn, stay, out, norm_out, p, r, P,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # the next round's tokens in their order: destinations with their sources, sources that stayed
    for j0 in range(0, p // 2, BLOCK):
        m_j = j0 + tl.arange(0, BLOCK) < p // 2
        o_j = tl.load(turn + j0 + tl.arange(0, BLOCK), mask=m_j, other=0)
        row = place_of_dst(o_j, p, r, P).to(tl.int64)
        if D <= BLOCK_D:
            s = slot_sum(unit, norm, starts, members, o_j, m_j, 0, D, BLOCK_D, DOUBLE)
            u, length = unit_rows(s, DOUBLE)
            store_unit(out, row, m_j, 0, u, D, BLOCK_D, DOUBLE)
        else:
            length = store_wide_sum(
                unit, norm, starts, members, out, o_j, m_j, row, D, BLOCK_D, BLOCK, DOUBLE
            )
        tl.store(norm_out + row, length, mask=m_j)
    if r < (p + 1) // 2:
        for i0 in range(0, (p + 1) // 2, BLOCK):
            o_i = i0 + tl.arange(0, BLOCK)
            row = tl.load(stay + o_i, mask=2 * o_i < p, other=-1).to(tl.int64)
            length = tl.load(norm + 2 * o_i, mask=row >= 0, other=0.0)
            tl.store(norm_out + row, length, mask=row >= 0)
            for d0 in range(0, D, BLOCK_D):
                move_unit(unit, 2 * o_i.to(tl.int64), out, row, d0, D, BLOCK_D, DOUBLE)


@triton.jit
def move_unit(
    unit, row_in, out, row_out, d0, D: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr
):
    hi, lo = load_unit(unit, row_in, row_out >= 0, d0, D, BLOCK_D, DOUBLE)
    u = hi
    if not DOUBLE:
        u = hi.to(tl.float32) + lo.to(tl.float32)
    store_unit(out, row_out, row_out >= 0, d0, u, D, BLOCK_D, DOUBLE)


@triton.jit(noinline=True)
def write_slots(order, slot, anchor, p, M, length, BY_POSITION: tl.constexpr, BLOCK: tl.constexpr):
    # anchors, and the slot of every living token; empty slots follow the full ones
    for n0 in range(0, length, BLOCK):
        o_n = n0 + tl.arange(0, BLOCK)
        tl.store(slot + o_n, -1, mask=o_n < length)
    tl.debug_barrier()
    for m0 in range(0, M, BLOCK):
        o_m = m0 + tl.arange(0, BLOCK)
        token = tl.load(order + o_m, mask=o_m < p, other=-1)
        tl.store(slot + token, o_m, mask=o_m < p)
        tl.store(anchor + o_m, token.to(tl.int64), mask=o_m < M)
    tl.debug_barrier()
    if BY_POSITION:
        placed = 0
        for n0 in range(0, length, BLOCK):
            o_n = n0 + tl.arange(0, BLOCK)
            alive = tl.load(slot + o_n, mask=o_n < length, other=-1) >= 0
            place = placed + tl.cumsum(alive.to(tl.int32), 0) - 1
            tl.store(slot + o_n, place, mask=alive)
            tl.store(anchor + place, o_n.to(tl.int64), mask=alive)
            placed += tl.sum(alive.to(tl.int32), 0)
        tl.debug_barrier()


@triton.jit(noinline=True)
def write_assign(assign, parent, slot, N, length, rounds, BLOCK: tl.constexpr):
    # follow the parents to a living token, at most one step a round
    for n0 in range(0, N, BLOCK):
        o_n = n0 + tl.arange(0, BLOCK)
        home = o_n
        for _ in range(rounds):
            up = tl.load(parent + home, mask=o_n < length, other=-1)
            home = tl.where(up >= 0, up, home)
        tl.store(
            assign + o_n,
            tl.load(slot + home, mask=o_n < length, other=-1).to(tl.int64),
            mask=o_n < N,
        )


@triton.jit
def run_rounds(
    unit, norm, unit_next, norm_next, val, idx, work, assign, anchor, lists, N, length, M, P,
    BY_POSITION: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, BLOCK_SUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # one row from its length to M tokens: assign, anchor and the slots' members; the first round's
    # partners come in val and idx, and work holds 8 * N + 16 ints
    order = work
    after = order + N
    parent = order + 2 * N
    slot = order + 3 * N
    stay = order + 4 * N
    turn = order + 5 * N
    count = order + 6 * N
    nth = order + 7 * N + 8
    for n0 in range(0, N, BLOCK_N):
        o_n = n0 + tl.arange(0, BLOCK_N)
        tl.store(order + o_n, o_n, mask=o_n < N)
        tl.store(parent + o_n, -1, mask=o_n < N)
    tl.debug_barrier()
    p = length
    rounds = 0
    while p > M:
        r = tl.minimum(p - M, (p - P) // 2)
        if rounds > 0:
            match_round(unit, norm, val, idx, p, P, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE)
            tl.debug_barrier()
        merge_sources(val, idx, stay, order, after, parent, p, r, P, BLOCK_SRC)
        place_dst(order, after, p, r, P, BLOCK_N)
        tl.debug_barrier()
        if p - r > M:
            # `lists` and `slot` get their own contents after the last round
            list_slots(idx, lists, slot, count, nth, (p + 1) // 2, p // 2, BLOCK_L)
            order_by_count(lists, turn, p // 2, BLOCK_N)
            tl.debug_barrier()
            next_units(
                unit, norm, lists, slot, turn, stay, unit_next, norm_next, p, r, P,
                D, BLOCK_D, BLOCK_SUM, DOUBLE,
            )  # fmt: skip
            tl.debug_barrier()
        unit, unit_next = unit_next, unit
        norm, norm_next = norm_next, norm
        order, after = after, order
        p -= r
        rounds += 1
    write_slots(order, slot, anchor, p, M, length, BY_POSITION, BLOCK_N)
    write_assign(assign, parent, slot, N, length, rounds, BLOCK_N)
    tl.debug_barrier()
    list_slots(assign, lists, lists + M + 1, count, nth, N, M, BLOCK_L)
