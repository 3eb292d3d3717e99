"""Figures to reach, what they mean in milliseconds of a run, and the verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal


@dataclass(frozen=True)
class Limit:
    """A figure to reach: milliseconds, or times a floor or another form's time of the same run."""

    value: float
    unit: str = "ms"

    def __post_init__(self) -> None:
        if self.unit != "ms" and not self.unit.startswith("x "):
            raise ValueError(f"unit: expected 'ms' or 'x ' and a form or floor, got {self.unit!r}")

    @property
    def of(self) -> str | None:
        """The form or floor that it is a multiple of, None for milliseconds.

        >>> Limit(1.5, "x floor").of
        'floor'
        """
        return None if self.unit == "ms" else self.unit.removeprefix("x ")

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


def limit_ms(limit: Limit, references: Mapping[str, float | None]) -> float | None:
    """The limit in milliseconds of this run, None if what it refers to was not measured."""
    unit = 1.0 if limit.of is None else references.get(limit.of)
    return None if unit is None else limit.value * unit


def rounded(value: float, digits: int, *, up: bool) -> str:
    """`value` with so many decimals, rounded up or down; callers choose what disfavours us.

    >>> rounded(2.001, 2, up=True), rounded(5.999, 1, up=False), rounded(1.1, 2, up=True)
    ('2.01', '5.9', '1.10')
    """
    step = Decimal(1).scaleb(-digits)
    mode = ROUND_CEILING if up else ROUND_FLOOR
    return str(Decimal(repr(float(value))).quantize(step, rounding=mode))


def verdict(value: float, *limits: float | None) -> str:
    """Which of must and target was reached, and by how much the other was missed.

    Args:
        value: what was measured.
        limits: must, and the target if there is one; None = it could not be worked out.

    >>> verdict(2.7, 3.0, 2.6), verdict(2.7, 3.0)
    ('must met, target missed by 3.9%', 'must met')
    """
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits):
        return "undecided: the limit's reference was not measured"
    names = ("must", "target")[: len(known)]
    if value <= known[-1]:
        return f"{names[-1]} met"
    reached, limit = ("must met, target", known[-1]) if value <= known[0] else ("must", known[0])
    return f"{reached} missed by {rounded((value / limit - 1) * 100, 1, up=True)}%"
