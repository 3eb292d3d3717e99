"""Turns ratios and targets into counts: every rounding rule of the package lives here."""


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
