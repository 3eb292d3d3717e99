"""Token merging, written out: a round is match -> rank -> map, repeated in metric space."""

import torch
from torch import Tensor

from hico.budget import round_merges
from hico.reference.match import accumulator, match, unit
from hico.reference.segment import segment_reduce, slot_lists


def head_mean(x: Tensor, num_heads: int) -> Tensor:
    """metric[b, n, d] = mean over heads h of x[b, n, h * D + d], in fp32 (float64 for float64)."""
    return x.to(accumulator(x.dtype)).unflatten(-1, (num_heads, -1)).mean(-2)


def merge_map(
    value: Tensor,
    index: Tensor,
    r: int,
    src: Tensor,
    dst: Tensor,
    n: int,
    protected: int = 0,
    by_position: bool = True,
) -> tuple[Tensor, Tensor]:
    """The r sources of highest value join their destinations: assign [B, n], anchor [B, n - r].

    src [B, Ns], dst [B, Nd] are token indices. Slots by position, or in reference order: protected
    tokens, unmerged sources (falling value; ascending if any token is protected), destinations,
    others.
    """
    batch, device = value.shape[0], value.device
    tokens = torch.arange(n, device=device).expand(batch, n)
    rank = _rank(torch.where(src < protected, -torch.inf, value))
    merged = (rank < r) & (src >= protected)
    target = dst.gather(1, index.clamp(min=0)) if dst.shape[1] else index
    home = tokens.scatter(1, src, torch.where(merged, torch.where(index < 0, -1, target), src))

    key = tokens if by_position else tokens + 3 * n
    if not by_position:
        key = key.scatter(1, dst, torch.arange(dst.shape[1], device=device).expand_as(dst) + 2 * n)
        own = torch.arange(src.shape[1], device=device).expand_as(src) if protected else rank
        key = key.scatter(1, src, own + n)
        key = torch.where(tokens < protected, tokens, key)
    alive = home == tokens
    order = torch.where(alive, key, 4 * n).argsort(dim=1, stable=True)[:, : n - r]
    slot = torch.full_like(tokens, -1).scatter(1, order, tokens[:, : n - r])
    assign = torch.where(home < 0, -1, slot.gather(1, home.clamp(min=0))) if n else tokens
    return assign, order


def _rank(value: Tensor) -> Tensor:
    """Place of every value in its row, highest first, ties by position."""
    order = value.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(value.shape[1], device=value.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def merge_rounds(
    metric: Tensor,
    num_tokens: int,
    size: Tensor | None,
    lengths: Tensor | None,
    protected: int,
    by_position: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All rounds on the metric alone: assign [B, N], anchor [B, num_tokens], its slot_lists."""
    batch, n, _ = metric.shape
    assign = torch.full((batch, n), -1, dtype=torch.int64, device=metric.device)
    anchor = torch.full((batch, num_tokens), -1, dtype=torch.int64, device=metric.device)
    ends = [n] * batch if lengths is None else lengths.clamp(0, n).tolist()
    for end in sorted(set(ends)):  # rows of one length share one schedule
        rows = torch.tensor([b for b in range(batch) if ends[b] == end], device=metric.device)
        weight = None if size is None else size[rows, :end]
        a, c = _merge_rows(metric[rows, :end], num_tokens, weight, protected)
        if by_position:
            c, order = c.sort(dim=1)
            a = order.argsort(dim=1).gather(1, a)
        assign[rows[:, None], torch.arange(end)] = a
        anchor[rows[:, None], torch.arange(c.shape[1])] = c
    return assign, anchor, slot_lists(assign, num_tokens)


def _merge_rows(
    metric: Tensor, target: int, size: Tensor | None, protected: int
) -> tuple[Tensor, Tensor]:
    # unit vectors times norms, so that a non-finite metric is a zero vector in sums too
    direction, norm = unit(metric)
    sums = direction * norm[..., None] * (1 if size is None else size[..., None].to(norm.dtype))
    anchor = assign = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])
    while (r := round_merges(sums.shape[1], target, protected)) > 0:
        n = sums.shape[1]
        tokens = torch.arange(n, device=metric.device).expand(metric.shape[0], n)
        src, dst = tokens[:, 0::2], tokens[:, 1::2]
        value, index = match(sums, src, dst, protected=protected)
        step, kept = merge_map(value, index, r, src, dst, n, protected, by_position=False)
        # the cosine of a mean is the cosine of the sum: sizes need not be carried along
        sums = segment_reduce(sums, step, n - r, None, mean=False)[0]
        assign, anchor = step.gather(1, assign), anchor.gather(1, kept)
    return assign, anchor
