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
def order_by_count(starts, order, M, BLOCK: tl.constexpr):
    # slots of three or more members first, then two, one, none: a block of them has about as many
    placed = 0
    for k in tl.static_range(4):
        for m0 in range(0, M, BLOCK):
            o_m = m0 + tl.arange(0, BLOCK)
            held = tl.load(starts + o_m + 1, mask=o_m < M, other=0) - tl.load(
                starts + o_m, mask=o_m < M, other=0
            )
            mine = (tl.minimum(held, 3) == 3 - k) & (o_m < M)
            tl.store(order + placed + tl.cumsum(mine.to(tl.int32), 0) - 1, o_m, mask=mine)
            placed += tl.sum(mine.to(tl.int32), 0)
