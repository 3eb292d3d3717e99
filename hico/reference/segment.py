"""Sums and means over slots, and the way back, written out with index_add and gather."""

import torch
from torch import Tensor

from hico.reference.match import accumulator


def slot_lists(assign: Tensor, num_slots: int) -> Tensor:
    """[B, M + 1 + N] int32: where each slot's members start, then the members, dropped last."""
    slots, members = torch.where(assign < 0, num_slots, assign).sort(dim=1, stable=True)
    edges = torch.arange(num_slots + 1, device=assign.device).expand(len(assign), -1)
    starts = torch.searchsorted(slots, edges.contiguous())
    return torch.cat([starts, members], 1).to(torch.int32)


def segment_reduce(
    x: Tensor,
    assign: Tensor,
    num_slots: int,
    weights: Tensor | None,
    mean: bool,
    lists: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum or mean of the tokens of each slot [B, M, C], and the slots' weights [B, M].

    `lists` is what slot_lists returns, for those who have it. The slots' weights are int32 counts
    without `weights` or with integer ones. Dropped tokens (-1) take no part; empty slots, and means
    whose weights sum to 0, are 0.
    """
    batch, n, channels = x.shape
    acc = accumulator(x.dtype)
    ones = torch.ones(batch, n, dtype=acc, device=x.device)
    w = ones if weights is None else weights.to(acc)
    # one spare slot a row takes the dropped tokens
    rows = torch.arange(batch, device=x.device)[:, None] * (num_slots + 1)
    slot = (rows + torch.where(assign < 0, num_slots, assign)).flatten()

    def slot_sums(t: Tensor) -> Tensor:
        out = t.new_zeros(batch * (num_slots + 1), t.shape[-1]).index_add(0, slot, t.flatten(0, 1))
        return out.view(batch, num_slots + 1, t.shape[-1])[:, :num_slots]

    total, count = slot_sums(w[..., None]), slot_sums(ones[..., None])
    if mean:
        w = torch.where(slot_gather(count, assign)[..., 0] == 1, 1, w)  # one member: a copy
        divisor = torch.where(count == 1, 1, total)
        out = slot_sums(x.to(acc) * w[..., None])
        out = torch.where(total == 0, 0, out / torch.where(total == 0, 1, divisor))
    else:
        out = slot_sums(x.to(acc) * w[..., None])
    counted = weights is None or not weights.is_floating_point()
    return out.to(x.dtype).contiguous(), total[..., 0].to(
        torch.int32 if counted else acc
    ).contiguous()


def slot_gather(
    y: Tensor, assign: Tensor, weights: Tensor | None = None, total: Tensor | None = None
) -> Tensor:
    """out[b, n] = y[b, assign[b, n]] weights[b, n] / total[b, assign[b, n]]; 0 where dropped."""
    batch, slots, channels = y.shape
    if slots == 0:
        return y.new_zeros(batch, assign.shape[1], channels)
    acc = accumulator(y.dtype)
    slot = assign.clamp(min=0)
    out = y.to(acc).gather(1, slot[..., None].expand(-1, -1, channels))
    scale = torch.ones_like(slot, dtype=acc) if weights is None else weights.to(acc)
    if total is not None:
        t = total.to(acc).gather(1, slot)
        scale = torch.where(t == 0, 0, scale / torch.where(t == 0, 1, t))
    out = torch.where((assign < 0)[..., None], 0, out * scale[..., None])
    return out.to(y.dtype)


def weight_grad(
    x: Tensor, dout: Tensor, assign: Tensor, out: Tensor | None, total: Tensor | None
) -> Tensor:
    """dweights[b, n] = sum_c (x - out) dout / total at the token's slot; sum_c x dout for a sum."""
    acc = accumulator(x.dtype)
    diff = x.to(acc) if out is None else x.to(acc) - slot_gather(out.to(acc), assign)
    grad = (diff * slot_gather(dout.to(acc), assign, None, total)).sum(-1)
    return torch.where(assign < 0, 0, grad)
