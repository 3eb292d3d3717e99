"""Device functions of the multi-round bipartite merge of one row, in metric space.

A row's tokens are the unit vectors and norms of _cosine.py, in the current order. In each round
even positions look for a partner at odd ones; the r best pairs merge by adding up unit * norm,
since the cosine of a mean is that of the sum. `order` names the living tokens, `parent` says where
the others went.
"""

import triton
import triton.language as tl

from hico.kernels._cosine import any_zero, best_partner, with_zeros
from hico.kernels._lists import fullest_first, list_slots
from hico.kernels._merged import next_units, place_of_dst


@triton.jit
def match_round(
    unit, norm, val, idx, has_zero, p, P,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr,
    DOUBLE: tl.constexpr,
):  # fmt: skip
    for i0 in range(0, (p + 1) // 2, BLOCK_SRC):
        o_i = i0 + tl.arange(0, BLOCK_SRC)
        m_i = (2 * o_i >= P) & (2 * o_i < p)
        best, best_j = best_partner(
            unit, 2 * o_i, m_i, None, P, p // 2, p, 1,
            None, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
        )  # fmt: skip
        tl.store(val + o_i, tl.where(m_i, best, float("-inf")), mask=2 * o_i < p)
        tl.store(idx + o_i, tl.where(m_i, best_j, -1), mask=2 * o_i < p)
    tl.debug_barrier()
    if has_zero:
        match_zeros(norm, val, idx, p, P, BLOCK_SRC, BLOCK_DST)
        tl.debug_barrier()


@triton.jit(noinline=True)
def match_zeros(norm, val, idx, p, P, BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr):
    for i0 in range(0, (p + 1) // 2, BLOCK_SRC):
        o_i = i0 + tl.arange(0, BLOCK_SRC)
        m_i = (2 * o_i >= P) & (2 * o_i < p)
        best = tl.load(val + o_i, mask=m_i, other=float("-inf"))
        best_j = tl.load(idx + o_i, mask=m_i, other=-1)
        best, best_j = with_zeros(
            best, best_j, norm, 2 * o_i, m_i, None, P, p // 2, p, 1, None, BLOCK_DST
        )
        tl.store(val + o_i, best, mask=m_i)
        tl.store(idx + o_i, best_j, mask=m_i)


@triton.jit(noinline=True)
def rank_sources(val, rank, P, num_src, BLOCK: tl.constexpr):
    # how many sources are more similar than source i; ties go to the lower position
    for i0 in range(0, num_src, BLOCK):
        o_i = i0 + tl.arange(0, BLOCK)
        v = tl.load(val + o_i, mask=o_i < num_src, other=float("-inf"))
        b_rank = tl.zeros_like(o_i)
        for k0 in range(0, num_src, BLOCK):
            o_k = k0 + tl.arange(0, BLOCK)
            v_k = tl.load(val + o_k, mask=o_k < num_src, other=float("-inf"))[:, None]
            ahead = (v_k > v[None, :]) | ((v_k == v[None, :]) & (o_k[:, None] < o_i[None, :]))
            b_rank += tl.sum(ahead.to(tl.int32), 0)
        tl.store(rank + o_i, b_rank, mask=o_i < num_src)


@triton.jit(noinline=True)
def merge_sources(idx, rank, stay, order, after, parent, p, r, P, BLOCK: tl.constexpr):
    # the r best sources get a parent; the others idx = -1 and in stay[i] their next place
    first_src, num_src = (P + 1) // 2, (p + 1) // 2
    stayed = 0
    for i0 in range(0, num_src, BLOCK):
        o_i = i0 + tl.arange(0, BLOCK)
        m_i = (o_i >= first_src) & (o_i < num_src)
        b_rank = tl.zeros_like(o_i)
        if r < num_src - first_src:
            b_rank = tl.load(rank + o_i, mask=m_i, other=0)
        merged = m_i & (b_rank < r)
        j = tl.load(idx + o_i, mask=merged, other=-1)
        token = tl.load(order + 2 * o_i, mask=o_i < num_src, other=0)
        tl.store(parent + token, tl.load(order + 2 * j + 1, mask=merged, other=0), mask=merged)
        stays = m_i & (b_rank >= r)
        # with protected tokens the unmerged sources come by position, else by falling similarity
        place = b_rank - r
        if P > 0:
            place = P + stayed + tl.cumsum(stays.to(tl.int32), 0) - 1
            stayed += tl.sum(stays.to(tl.int32), 0)
        place = tl.where(stays, place, tl.where(o_i < first_src, 2 * o_i, -1))
        tl.store(after + place, token, mask=place >= 0)
        tl.store(stay + o_i, place, mask=o_i < num_src)
        tl.store(idx + o_i, j, mask=o_i < num_src)


@triton.jit(noinline=True)
def place_dst(order, after, p, r, P, BLOCK: tl.constexpr):
    for j0 in range(0, p // 2, BLOCK):
        o_j = j0 + tl.arange(0, BLOCK)
        token = tl.load(order + 2 * o_j + 1, mask=o_j < p // 2, other=0)
        tl.store(after + place_of_dst(o_j, p, r, P), token, mask=o_j < p // 2)


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
def tokens_of_round(unit, norm, unit_next, norm_next, odd, i_b, N, K, W: tl.constexpr):
    # the row's tokens in a round, and where the next one's go: two buffers in turn
    now, now_norm = unit + i_b * N * W, norm + i_b * N
    then, then_norm = unit_next + i_b * K * W, norm_next + i_b * K
    if odd:
        now, then = then, now
        now_norm, then_norm = then_norm, now_norm
    return now, now_norm, then, then_norm


@triton.jit
def order_of_round(work, odd, N):
    # which token stands at each place, and the same for the next round
    order, after = work, work + N
    if odd:
        order, after = after, order
    return order, after


@triton.jit(noinline=True)
def begin(work, i_b, N, BLOCK: tl.constexpr):
    order = work + i_b * (9 * N + 16)
    for n0 in range(0, N, BLOCK):
        o_n = n0 + tl.arange(0, BLOCK)
        tl.store(order + o_n, o_n, mask=o_n < N)
        tl.store(order + 2 * N + o_n, -1, mask=o_n < N)


@triton.jit(noinline=True)
def end_round(
    unit, norm, unit_next, norm_next, val, idx, work, lists, has_zero, odd, i_b,
    N, K, M, p, r, P,
    D: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_SRC: tl.constexpr, BLOCK_SUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # merges the r best pairs of one row and makes the next round's tokens, if there is one. It
    # takes whole tensors: the caller would have to keep every pointer of the row in registers.
    num_src, num_dst = (p + 1) // 2, p // 2
    val += i_b * ((N + 1) // 2)
    idx += i_b * ((N + 1) // 2)
    work += i_b * (9 * N + 16)
    order, after = order_of_round(work, odd, N)
    stay, nth = work + 4 * N, work + 8 * N + 8
    if r < num_src - (P + 1) // 2:
        rank_sources(val, nth, P, num_src, BLOCK_SRC)
        tl.debug_barrier()
    merge_sources(idx, nth, stay, order, after, work + 2 * N, p, r, P, BLOCK_N)
    place_dst(order, after, p, r, P, BLOCK_N)
    tl.debug_barrier()
    if p - r > M:
        # lists and the slots get their own contents after the last round
        starts, members, turn = lists + i_b * (M + 1 + N), work + 3 * N, work + 5 * N
        list_slots(idx, starts, members, work + 7 * N, nth, num_src, num_dst, BLOCK_L)
        tl.debug_barrier()
        fullest_first(starts, members, turn, num_dst, BLOCK_N)
        tl.debug_barrier()
        now, now_norm, then, then_norm = tokens_of_round(
            unit, norm, unit_next, norm_next, odd, i_b, N, K, D if DOUBLE else 2 * D
        )
        next_units(
            now, now_norm, starts, members, turn, stay, then, then_norm, has_zero, p, r, P,
            D, BLOCK_D, BLOCK_SUM, DOUBLE,
        )  # fmt: skip
        tl.debug_barrier()


@triton.jit(noinline=True)
def finish(
    work, assign, anchor, lists, odd, i_b, N, M, p, length, rounds,
    BY_POSITION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr,
):  # fmt: skip
    # assign, anchor and the slots' members
    work += i_b * (9 * N + 16)
    assign += i_b * N
    lists += i_b * (M + 1 + N)
    order, after = order_of_round(work, odd, N)
    slot = work + 3 * N
    write_slots(order, slot, anchor + i_b * M, p, M, length, BY_POSITION, BLOCK_N)
    write_assign(assign, work + 2 * N, slot, N, length, rounds, BLOCK_N)
    tl.debug_barrier()
    list_slots(assign, lists, lists + M + 1, work + 7 * N, work + 8 * N + 8, N, M, BLOCK_L)


@triton.jit
def run_rounds(
    unit, norm, unit_next, norm_next, val, idx, work, assign, anchor, lists, i_b,
    N, K, length, M, P,
    BY_POSITION: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, BLOCK_SUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # row i_b from its length to M tokens. The first round's partners come in val and idx. work
    # [B, 9 * N + 16]: order and after, parent, slot, stay, turn (2 * N), count (N + 8) and nth.
    begin(work, i_b, N, BLOCK_N)
    tl.debug_barrier()
    p = length
    rounds = 0
    while p > M:
        r = tl.minimum(p - M, (p - P) // 2)
        odd = rounds % 2 == 1
        now, now_norm, then, then_norm = tokens_of_round(
            unit, norm, unit_next, norm_next, odd, i_b, N, K, D if DOUBLE else 2 * D
        )
        has_zero = any_zero(now_norm, p, BLOCK_N)
        if rounds > 0:
            # not in a function of its own: ptxas would wait for every single wgmma
            start = i_b * ((N + 1) // 2)
            match_round(
                now, now_norm, val + start, idx + start, has_zero, p, P,
                D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
            )  # fmt: skip
        end_round(
            unit, norm, unit_next, norm_next, val, idx, work, lists, has_zero, odd, i_b,
            N, K, M, p, r, P,
            D, BLOCK_D, BLOCK_SRC, BLOCK_SUM, BLOCK_N, BLOCK_L, DOUBLE,
        )  # fmt: skip
        p -= r
        rounds += 1
    finish(
        work, assign, anchor, lists, rounds % 2 == 1, i_b, N, M, p, length, rounds,
        BY_POSITION, BLOCK_N, BLOCK_L,
    )  # fmt: skip
