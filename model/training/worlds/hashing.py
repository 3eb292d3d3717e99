"""Random numbers by counting: the same on every device, whatever else was drawn before."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable

import numpy as np

_MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mix(*keys: int | np.ndarray) -> np.ndarray:
    """hash(key, key, ...): uint64 of the keys' common shape; splitmix64 of one after the other.

    Args:
        keys: integers or integer arrays, broadcast against each other; negative ones wrap.

    Example:
        >>> int(mix(1, 2)) == int(mix(1, 2)), int(mix(1, 2)) == int(mix(2, 1))
        (True, False)
    """
    state = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = (state ^ np.asarray(key).astype(np.int64).view(np.uint64)) + _GOLDEN
            state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = state ^ (state >> np.uint64(31))
    return state


def held_out(names: Iterable[str], share: float = 0.3) -> frozenset[str]:
    """Which names are for testing only: this share of them but at least one, by their hashes.

    Example:
        >>> sorted(held_out(["a", "b", "c", "d"]))
        ['d']
    """
    ranked = sorted(set(names), key=lambda name: hashlib.sha256(name.encode()).digest())
    return frozenset(ranked[: max(1, round(share * len(ranked)))])


class Draws:
    """Named random numbers for each of many seeds, independent by name.

    Args:
        seeds: integers of any shape.

    Example:
        >>> draw = Draws(np.arange(3))
        >>> bool((draw("angle", -1, 1) == Draws(np.arange(3))("angle", -1, 1)).all())
        True
        >>> draw("place", 0, 1, 2).shape, draw.pick("kind", 5).dtype
        ((3, 2), dtype('int64'))
    """

    def __init__(self, seeds: int | np.ndarray) -> None:
        self.seeds = mix(seeds).view(np.int64)

    def _bits(self, name: str, count: int | None) -> np.ndarray:
        tag = zlib.crc32(name.encode())
        if count is None:
            return mix(self.seeds, tag)
        return mix(self.seeds[..., None], tag, np.arange(count))

    def __call__(
        self, name: str, low: float = 0.0, high: float = 1.0, count: int | None = None
    ) -> np.ndarray:
        """Uniform in [low, high): float64 [*seeds], or [*seeds, count]."""
        unit = (self._bits(name, count) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return low + (high - low) * unit

    def pick(self, name: str, of: int, count: int | None = None) -> np.ndarray:
        """A number below `of`: int64 [*seeds], or [*seeds, count]."""
        return (self(name, 0, of, count)).astype(np.int64)

    def chance(self, name: str, probability: float) -> np.ndarray:
        """True with the probability: bool [*seeds]."""
        return self(name) < probability
