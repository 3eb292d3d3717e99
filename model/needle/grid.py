"""The grid of a needle test, written in a few characters, and what its counts mean."""

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from math import sqrt

Z = 1.959964  # of 95%
MOST = 100_000  # values of one range
MANY = 1 << 30  # more than anything that is counted here


def check_count(name: str, value: int | None, least: int) -> None:
    """Raises ValueError for less than `least`, and for far too many; None is not given."""
    if value is not None and not least <= value < MANY:
        wanted = f"{least} or more" if value < least else f"less than {MANY:,}"
        raise ValueError(f"{name}: expected {wanted}, got {value}")


def numbers(name: str, text: str) -> tuple[float, ...]:
    """FIRST:LAST:STEP with both ends, single values, and several of both between commas.

    Exact in decimals: 0:1:0.2 has six values, and the last is 1.

    Raises:
        ValueError: another form, a range without values, or a value that is far too large.

    >>> from hico.model.needle.grid import numbers
    >>> numbers("--depths", "0:1:0.2")
    (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    >>> numbers("--frames", "64,1000:3000:1000")
    (64.0, 1000.0, 2000.0, 3000.0)
    """
    found: list[Decimal] = []
    for part in text.split(","):
        try:
            values = [Decimal(word) for word in part.split(":")]
        except InvalidOperation:
            values = []
        if len(values) not in (1, 3) or not all(value.is_finite() for value in values):
            raise ValueError(f"{name}: expected values or FIRST:LAST:STEP, got {part!r}")
        if not all(abs(value) < MANY for value in values):
            raise ValueError(f"{name}: expected less than {MANY:,}, got {part!r}")
        first, last, step = values if len(values) == 3 else (values[0], values[0], Decimal(1))
        if step <= 0 or last < first or last - first > MOST * step:
            raise ValueError(f"{name}: expected FIRST <= LAST and STEP > 0, got {part!r}")
        found += [first + i * step for i in range(int((last - first) / step) + 1)]
    return tuple(float(value) for value in dict.fromkeys(found))


def frame_counts(text: str, clip: int = 4) -> tuple[int, ...]:
    """The numbers of frames of a grid, ascending.

    Raises:
        ValueError: as numbers, or a count that is no positive multiple of a clip's frames.
    """
    values = numbers("--frames", text)
    wrong = [value for value in values if value < clip or value % clip]
    if wrong:
        raise ValueError(f"--frames: expected multiples of {clip}, got {wrong[0]:g}")
    return tuple(sorted(int(value) for value in values))


def depths(text: str) -> tuple[float, ...]:
    """The depths of a grid, ascending.

    Raises:
        ValueError: as numbers, or a depth outside of 0 to 1.
    """
    values = numbers("--depths", text)
    wrong = [value for value in values if not 0 <= value <= 1]
    if wrong:
        raise ValueError(f"--depths: expected 0 to 1, got {wrong[0]:g}")
    return tuple(sorted(values))


def wilson(right: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson's score: where `right` of `count` came out.

    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference,
    Journal of the American Statistical Association 22 (1927).

    >>> from hico.model.needle.grid import wilson
    >>> [round(end, 4) for end in wilson(199, 200)]
    [0.9722, 0.9991]
    """
    if not count:
        return 0.0, 1.0
    share, spread = right / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    half = Z * sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def share_of(outcomes: Sequence[bool]) -> dict[str, float | int | str]:
    """Count, share with its interval, and every outcome in order, so that two runs can be paired.

    >>> from hico.model.needle.grid import share_of
    >>> share_of([True, False])["outcomes"]
    '10'
    """
    right, count = sum(outcomes), len(outcomes)
    low, high = wilson(right, count)
    return {
        "score": right / count if count else 0.0,
        "low": round(low, 6),
        "high": round(high, 6),
        "right": right,
        "count": count,
        "outcomes": "".join("01"[bool(outcome)] for outcome in outcomes),
    }
