"""Device functions that list what shares a destination or a slot, always in the same order."""

import triton
import triton.language as tl


@triton.jit
def slot_of(to, o_n, N, M):
    # dropped tokens (-1) share the slot behind the last one; past the end -1
    slot = tl.load(to + o_n, mask=o_n < N, other=M).to(tl.int32)
    return tl.where(o_n < N, tl.where(slot < 0, M, slot), -1)


@triton.jit(noinline=True)
def list_slots(to, starts, members, count, nth, N, M, BLOCK: tl.constexpr):
    # stable counting sort of n < N by to[n]: members[starts[m]] .. members[starts[m + 1] - 1] are
    # those of slot m, ascending; dropped ones follow. count [M + 1] and nth [N] are scratch.
    for m0 in range(0, M + 1, BLOCK):
        o_m = m0 + tl.arange(0, BLOCK)
        tl.store(count + o_m, 0, mask=o_m <= M)
    tl.debug_barrier()
    near = tl.arange(0, BLOCK)
    for n0 in range(0, N, BLOCK):
        slot = slot_of(to, n0 + near, N, M)
        # earlier ones of the same slot, slot' = slot and n' < n, in one unsigned comparison of
        # slot' * BLOCK + n'; columns are summed, not rows: a thread holds whole columns, so that
        # takes no shuffles
        ahead = (slot * BLOCK + near)[:, None] - (slot * BLOCK)[None, :]
        before = tl.sum((ahead.to(tl.uint32) < near[None, :].to(tl.uint32)).to(tl.int32), 0)
        before += tl.load(count + slot, mask=slot >= 0, other=0)
        tl.store(nth + n0 + near, before, mask=slot >= 0)
        tl.debug_barrier()
        # the last one of a slot leaves the highest count
        tl.atomic_max(count + slot, before + 1, mask=slot >= 0, sem="relaxed", scope="cta")
        tl.debug_barrier()
    total = 0
    for m0 in range(0, M + 1, BLOCK):
        o_m = m0 + tl.arange(0, BLOCK)
        held = tl.load(count + o_m, mask=o_m <= M, other=0)
        tl.store(starts + o_m, total + tl.cumsum(held, 0) - held, mask=o_m <= M)
        total += tl.sum(held, 0)
    tl.debug_barrier()
    for n0 in range(0, N, BLOCK):
        o_n = n0 + tl.arange(0, BLOCK)
        slot = slot_of(to, o_n, N, M)
        place = tl.load(starts + slot, mask=slot >= 0, other=0)
        place += tl.load(nth + o_n, mask=slot >= 0, other=0)
        tl.store(members + place, o_n, mask=slot >= 0)


@triton.jit(noinline=True)
def fullest_first(starts, members, turn, M, BLOCK: tl.constexpr):
    # turn [3, M]: slots of three or more members, then of one or two, then empty ones; beside each
    # its first two members, -1 where there is none; behind them how many slots have three or more,
    # and how many any
    crowds, filled = 0, 0
    for m0 in range(0, M, BLOCK):
        start, held = list_of(starts, m0 + tl.arange(0, BLOCK), M)
        crowds += tl.sum((held > 2).to(tl.int32), 0)
        filled += tl.sum((held > 0).to(tl.int32), 0)
    # places given so far, to crowded and to filled slots
    first, second = 0, crowds
    for m0 in range(0, M, BLOCK):
        o_m = m0 + tl.arange(0, BLOCK)
        start, held = list_of(starts, o_m, M)
        # both counts in one scan: BLOCK is below 2^16
        mine = tl.where(held > 2, 1, tl.where(held > 0, 1 << 16, 0))
        before = tl.cumsum(mine, 0) - mine
        crowded, some = first + (before & 0xFFFF), second + (before >> 16)
        empty = filled + o_m - crowded - (some - crowds)
        place = tl.where(held > 2, crowded, tl.where(held > 0, some, empty))
        total = tl.sum(mine, 0)
        first += total & 0xFFFF
        second += total >> 16
        one = tl.load(members + start, mask=held > 0, other=-1)
        two = tl.load(members + start + 1, mask=held > 1, other=-1)
        tl.store(turn + place, o_m, mask=o_m < M)
        tl.store(turn + M + place, one, mask=o_m < M)
        tl.store(turn + 2 * M + place, two, mask=o_m < M)
    tl.store(turn + 3 * M, crowds)
    tl.store(turn + 3 * M + 1, filled)


@triton.jit
def list_of(starts, o_m, M):
    # where slot m's members start, and how many there are
    start = tl.load(starts + o_m, mask=o_m < M, other=0)
    return start, tl.load(starts + o_m + 1, mask=o_m < M, other=0) - start
