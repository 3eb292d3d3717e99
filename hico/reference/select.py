"""Choosing tokens by score, written out with a stable sort; evenly spaced tokens."""

import torch
from torch import Tensor

from hico.reference.match import accumulator


def order_key(score: Tensor) -> Tensor:
    """int64 keys in the order of the scores: NaN lowest, -0.0 equal to 0.0, subnormals apart."""
    wide = score.to(accumulator(score.dtype))
    kind = torch.int64 if wide.dtype == torch.float64 else torch.int32
    bits, top = wide.view(kind).to(torch.int64), torch.iinfo(kind).max
    # sign and magnitude to two's complement
    key = torch.where(bits < 0, -(bits & top), bits)
    return torch.where(torch.isnan(wide), -top, key)


def select(
    score: Tensor,
    width: int,
    budget: Tensor | None,
    threshold: Tensor | None,
    protect: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The chosen tokens of every row, ascending, then -1 [B, width], and how many they are [B].

    Chosen are the min(budget, length) best (budget None = width), protected tokens before all
    others, or those at or above the threshold and the protected ones.
    """
    batch, n = score.shape
    key, top = order_key(score), torch.iinfo(torch.int64).max
    place = torch.arange(n, device=score.device)
    length = place.new_full((batch,), n) if lengths is None else lengths.to(torch.int64).clamp(0, n)
    if protect is not None:
        key = torch.where(protect, top, key)
    key = torch.where(place < length[:, None], key, -top - 1)
    if threshold is None:
        wanted = length.clamp(max=width)
        wanted = wanted if budget is None else torch.minimum(wanted, budget.to(torch.int64))
        rank = key.sort(dim=1, descending=True, stable=True).indices.argsort(1)
        kept = rank < wanted[:, None]
    else:
        cut = torch.where(torch.isnan(threshold), top, order_key(threshold))
        kept = key >= cut[:, None]
    slot = torch.where(kept, kept.cumsum(1) - 1, n)  # a spare slot takes what is not chosen
    index = place.new_full((batch, n + 1), -1).scatter(1, slot, place.expand(batch, n))
    return index[:, :width].contiguous(), kept.sum(1)


def by_score(score: Tensor, index: Tensor) -> Tensor:
    """Ascending indices put in the order of falling score, equal scores as they were, -1 last."""
    key = order_key(score).gather(1, index.clamp(min=0))
    key = torch.where(index < 0, torch.iinfo(torch.int64).min, key)
    return index.gather(1, key.sort(dim=1, descending=True, stable=True).indices)


def select_uniform(n: int, k: int, device: torch.device) -> Tensor:
    """k integers from 0 to n - 1 in float64 steps, counted from the end past the middle."""
    j = torch.arange(k, dtype=torch.float64, device=device)
    step = (n - 1) / max(k - 1, 1)
    place = torch.where(j < max(k // 2, 1), j * step, (n - 1) - (k - 1 - j) * step)
    return place.to(torch.int64)
