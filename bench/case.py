"""What a case is: inputs, forms that compute the same, bytes to move, figures to reach."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from hico.bench.limits import Limit
from hico.bench.record import Row
from hico.bench.timing import Inputs

OURS = "hico"
FLOORS = ("floor", "two-read floor")


class Shape(Protocol):
    """Sizes of a case: a frozen dataclass that prints as they are written."""

    @property
    def dtype(self) -> torch.dtype: ...

    def row(self) -> Row:
        """The sizes as a result row has them."""
        ...


@dataclass(frozen=True)
class Form:
    """One way to compute a case. Its callables take the shape, then the tensors of an input set."""

    name: str
    run: Callable[..., Any]
    # ours: (shape, result, *inputs) -> what goes into the row; raises check.WrongResult
    verify: Callable[..., Row] | None = None


@dataclass(frozen=True)
class Traffic:
    """The fewest bytes through device memory: x read once, and (where x makes the metric) twice."""

    once: int
    twice: int | None = None

    @property
    def own(self) -> int:
        """Bytes of the case's own floor, which its GB/s are counted with."""
        return self.twice or self.once


@dataclass(frozen=True)
class Case:
    """One row of a table of figures to reach."""

    name: str
    title: str
    shape: Any
    # what the same code runs in a smoke test on a CPU
    small: Any
    inputs: Callable[[Any, torch.device, int], Inputs]
    # the form that the limits hold for, then others; their names begin with "hico"
    ours: tuple[Form, ...]
    # PyTorch, and what else limits refer to
    plain: tuple[Form, ...]
    must: Limit
    target: Limit | None = None
    traffic: Callable[[Any], Traffic] | None = None
    # multiplications and additions of ours and of the plain forms
    flops: Callable[[Any], tuple[int, int]] | None = None
    # (must, target) in bytes above the inputs
    memory: tuple[float, float] | None = None
    # a differentiable forward whose backward is timed alone; the last input is the gradient
    backward: bool = False
    graph: bool = False
    # the plain form that torch.compile gets
    compiled: str | None = "eager"
    # a measurement with a row of its own: its kind, and what takes it
    extra: tuple[str, Callable[["Case", Inputs], Row]] | None = None

    def __post_init__(self) -> None:
        names = [form.name for form in self.plain]
        known = names + list(FLOORS if self.traffic else ())
        for limit in filter(None, (self.must, self.target)):
            if limit.of not in (None, *known):
                raise ValueError(
                    f"{self.name}: expected a multiple of one of {', '.join(known)}, got {limit}"
                )
        if self.compiled not in (None, *names):
            raise ValueError(
                f"{self.name}: compiled: expected one of {', '.join(names)}, got {self.compiled!r}"
            )

    @property
    def references(self) -> tuple[Form, ...]:
        """The plain forms whose times ours is held against: they are measured first."""
        wanted = {limit.of for limit in (self.must, self.target) if limit} | {"floor"}
        return tuple(form for form in self.plain if form.name in wanted)

    def on_cpu(self) -> "Case":
        """The smoke form: tiny, float32."""
        return replace(self, shape=replace(self.small, dtype=torch.float32))


def pick(cases: Sequence[Case], names: str | None) -> tuple[Case, ...]:
    """The cases named in a comma-separated list, in the table's order; all for None."""
    if names is None:
        return tuple(cases)
    known = [case.name for case in cases]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        got = ", ".join(unknown) or "nothing"
        raise ValueError(f"cases: expected some of {', '.join(known)}, got {got}")
    return tuple(case for case in cases if case.name in wanted)
