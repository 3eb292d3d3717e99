"""Turns ratios and targets into counts: every rounding rule of the package lives here."""

import torch
from torch import Tensor


def round_merges(tokens: int, target: int, protected: int = 0) -> int:
    """Merges of one bipartite round: min(tokens - target, (tokens - protected) // 2), at least 0.

    A round can take at most one token of every even/odd pair, and none of the `protected` leading
    ones (ToMe, arXiv 2210.09461, section 3; VideoChat-Flash halves until the rest is at most half).

    >>> round_merges(784, 64), round_merges(98, 64), round_merges(5, 1, protected=1)
    (392, 34, 2)
    """
    return max(0, min(tokens - target, (tokens - protected) // 2))


def merge_schedule(tokens: int, target: int, protected: int = 0) -> list[int]:
    """The merges of every round from `tokens` to `target`.

    >>> merge_schedule(784, 64)
    [392, 196, 98, 34]
    >>> merge_schedule(101, 50)
    [50, 1]
    """
    rounds = []
    while (r := round_merges(tokens, target, protected)) > 0:
        rounds.append(r)
        tokens -= r
    return rounds


def keep_count(tokens: int, ratio: float) -> int:
    """floor(tokens * ratio), the product in float64: how many of `tokens` a ratio keeps.

    The published rule of progressive visual dropout, int(N * R) (VideoChat-Flash, arXiv
    2501.00574); the product is rounded before the floor, so that 0.29 of 100 tokens are 28.

    Raises:
        ValueError: a ratio outside 0..1.

    >>> keep_count(160256, 0.25), keep_count(7, 0.5), keep_count(100, 0.29)
    (40064, 3, 28)
    """
    return int(tokens * _ratio(ratio))


def keep_counts(tokens: Tensor, ratio: float) -> Tensor:
    """keep_count of every entry of an integer tensor, int64, without leaving the device.

    >>> keep_counts(torch.tensor([160256, 7, 100]), 0.29)
    tensor([46474,     2,    28])
    """
    return (tokens.to(torch.float64) * _ratio(ratio)).to(torch.int64)


def _ratio(ratio: float) -> float:
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float, torch.SymFloat)):
        raise ValueError(f"ratio: expected a number, got {type(ratio).__name__} {ratio!r}")
    if not 0 <= ratio <= 1:
        raise ValueError(f"ratio: expected 0 <= ratio <= 1, got {ratio}")
    return ratio
