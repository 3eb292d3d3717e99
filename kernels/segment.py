"""Sums and means of the tokens that share a slot, the way back, and the gradient of the weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import power_of_2
from hico.kernels._lists import list_slots

# above this many tokens a row's members are listed by a sort, below by one program a row
SORT_ABOVE = 4096


@triton.jit(do_not_specialize=["N", "M"])
def slot_lists_kernel(assign, lists, work, N, M, BLOCK: tl.constexpr):
    # one program lists the members of every slot of one row
    i_b = tl.program_id(0).to(tl.int64)
    lists += i_b * (M + 1 + N)
    work += i_b * (M + 1 + N)
    list_slots(assign + i_b * N, lists, lists + M + 1, work, work + M + 1, N, M, BLOCK)


@triton.jit(do_not_specialize=["N", "M"])
def segment_reduce_kernel(
    x, lists, weights, out, total, N, M,
    C: tl.constexpr, MEAN: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
):  # fmt: skip
    # one program sums one slot
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    i_b = tl.program_id(0).to(tl.int64) // M
    starts = lists + i_b * (M + 1 + N) + tl.program_id(0) % M
    start = tl.load(starts)
    count = tl.load(starts + 1) - start
    members = lists + i_b * (M + 1 + N) + M + 1 + start
    for c0 in range(0, C, BLOCK_C):
        o_c = c0 + tl.arange(0, BLOCK_C)
        acc = tl.zeros([BLOCK_R, BLOCK_C], ACC)
        weight = tl.zeros([BLOCK_R], ACC)
        for k0 in range(0, count, BLOCK_R):
            o_k = k0 + tl.arange(0, BLOCK_R)
            row = i_b * N + tl.load(members + o_k, mask=o_k < count, other=0)
            m_x = (o_k < count)[:, None] & (o_c < C)[None, :]
            b_x = tl.load(x + row[:, None] * C + o_c[None, :], mask=m_x, other=0.0).to(ACC)
            if weights is not None:
                w = tl.load(weights + row, mask=o_k < count, other=0.0).to(ACC)
                weight += w
                # one member: a copy, free of the rounding of x * w / w
                b_x *= tl.where(MEAN & (count == 1), 1.0, w)[:, None]
            acc += b_x
        b_out = tl.sum(acc, 0)
        if weights is None:
            b_total = count.to(ACC)
        else:
            b_total = tl.sum(weight, 0)
        if MEAN:
            divisor = tl.where((b_total == 0) | (count == 1), 1.0, b_total)
            b_out = tl.where(b_total == 0, 0.0, b_out / divisor)
        slot = tl.program_id(0).to(tl.int64)
        tl.store(out + slot * C + o_c, b_out, mask=o_c < C)
        tl.store(total + slot, b_total)


@triton.jit(do_not_specialize=["T", "N", "M"])
def slot_gather_kernel(
    y, assign, weights, total, out, T, N, M,
    C: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # every token takes its slot's row, times its weight, over the slot's total
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    a = tl.load(assign + o_t, mask=o_t < T, other=-1)
    kept = a >= 0
    slot = (o_t // N) * M + a
    scale = tl.full([BLOCK_R], 1.0, ACC)
    if weights is not None:
        scale = tl.load(weights + o_t, mask=kept, other=0.0).to(ACC)
    if total is not None:
        b_total = tl.load(total + slot, mask=kept, other=0).to(ACC)
        scale = tl.where(b_total == 0, 0.0, scale / tl.where(b_total == 0, 1.0, b_total))
    for c0 in range(0, C, BLOCK_C):
        o_c = c0 + tl.arange(0, BLOCK_C)
        m_y = kept[:, None] & (o_c < C)[None, :]
        b_y = tl.load(y + slot[:, None] * C + o_c[None, :], mask=m_y, other=0.0)
        if (weights is not None) or (total is not None):
            b_y = b_y.to(ACC) * scale[:, None]
        m_o = (o_t < T)[:, None] & (o_c < C)[None, :]
        tl.store(out + o_t[:, None] * C + o_c[None, :], b_y, mask=m_o)


@triton.jit(do_not_specialize=["T", "N", "M"])
def weight_grad_kernel(
    x, dout, assign, mean, total, dweights, T, N, M,
    C: tl.constexpr, DOUBLE: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # dweights[n] = sum_c (x[n] - mean[slot]) dout[slot] / total[slot]; for a sum sum_c x dout
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    a = tl.load(assign + o_t, mask=o_t < T, other=-1)
    slot = (o_t // N) * M + a
    acc = tl.zeros([BLOCK_R, BLOCK_C], ACC)
    for c0 in range(0, C, BLOCK_C):
        o_c = c0 + tl.arange(0, BLOCK_C)
        m_x = (a >= 0)[:, None] & (o_c < C)[None, :]
        b_x = tl.load(x + o_t[:, None] * C + o_c[None, :], mask=m_x, other=0.0).to(ACC)
        p_slot = slot[:, None] * C + o_c[None, :]
        if mean is not None:
            b_x -= tl.load(mean + p_slot, mask=m_x, other=0.0).to(ACC)
        acc += b_x * tl.load(dout + p_slot, mask=m_x, other=0.0).to(ACC)
    grad = tl.sum(acc, 1)
    if total is not None:
        b_total = tl.load(total + slot, mask=a >= 0, other=0).to(ACC)
        grad = tl.where(b_total == 0, 0.0, grad / tl.where(b_total == 0, 1.0, b_total))
    tl.store(dweights + o_t, grad, mask=o_t < T)


def slot_lists(assign: Tensor, num_slots: int) -> Tensor:
    """[B, M + 1 + N] int32: where each slot's members start, then the members, dropped last."""
    batch, n = assign.shape
    if n > SORT_ABOVE:
        slots, members = torch.where(assign < 0, num_slots, assign).sort(dim=1, stable=True)
        edges = torch.arange(num_slots + 1, device=assign.device).expand(batch, -1).contiguous()
        return torch.cat([torch.searchsorted(slots, edges), members], 1).to(torch.int32)
    lists = torch.empty(batch, num_slots + 1 + n, dtype=torch.int32, device=assign.device)
    work = torch.empty_like(lists)
    slot_lists_kernel[(batch,)](assign, lists, work, n, num_slots, 64)
    return lists


def total_dtype(x: Tensor, weights: Tensor | None) -> torch.dtype:
    """Weights of slots are counts without weights or with integer ones, else what sums run in."""
    if weights is None or not weights.is_floating_point():
        return torch.int32
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def slot_tile(channels: int, slots: int) -> dict[str, int]:
    """Tiles that sum `slots` slots: many take a row at a time each, few want more in flight."""
    block_c = power_of_2(channels, high=1024)
    rows, warps = (4, 4) if slots < 8192 else (1, 1)
    return {
        "BLOCK_R": power_of_2(1024 * rows // block_c, high=16),
        "BLOCK_C": block_c,
        "num_warps": warps,
    }


def segment_reduce(
    x: Tensor,
    assign: Tensor,
    num_slots: int,
    weights: Tensor | None,
    mean: bool,
    lists: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum or mean over slots [B, M, C] and the slots' weights [B, M], int32 where they count."""
    batch, n, channels = x.shape
    double = x.dtype == torch.float64
    out = x.new_empty(batch, num_slots, channels)
    total = torch.empty(batch, num_slots, dtype=total_dtype(x, weights), device=x.device)
    if n == 0 or out.numel() == 0:
        return out.zero_(), total.zero_()
    lists = slot_lists(assign, num_slots) if lists is None else lists
    segment_reduce_kernel[(batch * num_slots,)](
        x, lists, weights, out, total, n, num_slots, channels, mean, double,
        **slot_tile(channels, batch * num_slots),
    )  # fmt: skip
    return out, total


def slot_gather(
    y: Tensor, assign: Tensor, weights: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """Every token's slot row [B, N, C], times its weight over the slot's total; 0 if dropped."""
    batch, slots, channels = y.shape
    n = assign.shape[1]
    out = y.new_empty(batch, n, channels)
    if slots == 0:
        return out.zero_()
    if out.numel():
        block_c = power_of_2(channels, high=1024)
        block_r = power_of_2(4096 // block_c, high=64)
        slot_gather_kernel[(triton.cdiv(batch * n, block_r),)](
            y, assign, weights, total, out, batch * n, n, slots,
            channels, y.dtype == torch.float64, block_r, block_c,
        )  # fmt: skip
    return out


def weight_grad(
    x: Tensor, dout: Tensor, assign: Tensor, mean: Tensor | None, total: Tensor | None
) -> Tensor:
    """Gradient of the weights [B, N], fp32 (float64 for float64)."""
    batch, n, channels = x.shape
    double = x.dtype == torch.float64
    grad = x.new_empty(batch, n, dtype=x.dtype if double else torch.float32)
    if dout.shape[1] == 0 or channels == 0:
        return grad.zero_()
    if grad.numel():
        block_c = power_of_2(channels, high=1024)
        block_r = power_of_2(2048 // block_c, high=64)
        weight_grad_kernel[(triton.cdiv(batch * n, block_r),)](
            x, dout, assign, mean, total, grad, batch * n, n, dout.shape[1], channels, double,
            block_r, block_c
        )  # fmt: skip
    return grad
