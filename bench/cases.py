"""One OpCase for every row of the table of figures to reach: inputs, providers, bytes, limits."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from hico.bench import check, inputs, providers
from hico.bench.inputs import Shape
from hico.bench.timing import Inputs


@dataclass(frozen=True)
class Limit:
    """A figure to reach: milliseconds, or times a floor or the eager time of the same run."""

    value: float
    unit: str = "ms"

    UNITS: ClassVar[tuple[str, ...]] = ("ms", "x two-read floor", "x floor", "x eager")

    def __post_init__(self) -> None:
        if self.unit not in self.UNITS:
            raise ValueError(f"unit: expected one of {', '.join(self.UNITS)}, got {self.unit!r}")

    def __str__(self) -> str:
        return f"{self.value:g} {self.unit}"


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
class OpCase:
    """One row of the table. Its callables take the Shape, then the tensors of one input set."""

    name: str
    title: str
    shape: Shape
    # what the same code runs in a smoke test on a CPU
    small: Shape
    inputs: Callable[[Shape, torch.device, int], Inputs]
    ours: Callable[..., Any]
    eager: Callable[..., Any]
    # the answer in float64, of the same inputs
    exact: Callable[..., tuple[Tensor, ...]]
    traffic: Callable[[Shape], Traffic]
    must: Limit
    target: Limit
    # (must, target) in bytes above the inputs
    memory: tuple[float, float] | None = None
    # a differentiable forward whose backward is timed alone; the last input is the gradient
    backward: bool = False
    graph: bool = False
    # further forms of ours worth a row: name, callable, its answer in float64
    also: tuple[tuple[str, Callable[..., Any], Callable[..., tuple[Tensor, ...]]], ...] = ()
    # plain PyTorch that does all that ours does, where `eager` does less
    eager_whole: Callable[..., Any] | None = None

    def on_cpu(self) -> "OpCase":
        """The smoke form: tiny, float32."""
        return replace(self, shape=replace(self.small, dtype=torch.float32))


# ---- bytes: e for an element; assign and anchor are int64, sizes int32; outputs are written once


def slots_bytes(s: Shape) -> int:
    """tokens B*M*C*e + sizes B*M*4 + anchors B*M*8 + assign B*N*8."""
    return s.B * s.M * (s.C * s.dtype.itemsize + 4 + 8) + s.B * s.N * 8


def merge_traffic(s: Shape) -> Traffic:
    """x B*N*C*e once (to make the metric and the groups in one pass) or twice, and the outputs."""
    x = s.B * s.N * s.C * s.dtype.itemsize
    return Traffic(x + slots_bytes(s), 2 * x + slots_bytes(s))


def given_traffic(s: Shape) -> Traffic:
    """x B*N*C*e, the fp32 metric B*N*D*4, and the outputs."""
    return Traffic(s.B * s.N * (s.C * s.dtype.itemsize + s.D * 4) + slots_bytes(s))


def block_traffic(s: Shape) -> Traffic:
    """x B*N*C*e, the metric B*N*D*e, and the outputs."""
    return Traffic(s.B * s.N * (s.C + s.D) * s.dtype.itemsize + slots_bytes(s))


def norm_traffic(s: Shape) -> Traffic:
    """x and y B*N*C*e each, the fp32 metric B*N*D*4; the saved statistics are not counted."""
    return Traffic(s.B * s.N * (2 * s.C * s.dtype.itemsize + s.D * 4))


def backward_traffic(s: Shape) -> Traffic:
    """dx B*N*C*e written; dy B*M*C*e, sizes B*M*4 and assign B*N*8 read."""
    e = s.dtype.itemsize
    return Traffic(s.B * s.N * (s.C * e + 8) + s.B * s.M * (s.C * e + 4))


# ---- the table of issue 2: shapes and figures as written there

CLIPS = Shape(2500, 784, 1024, 64, 16)
FULL_VIDEO = Shape(1000, 3136, 1024, 64, 16)
INTERN_VIDEO = Shape(2500, 1024, 1408, 64, 16)
FEW_CLIPS = Shape(16, 784, 1024, 64, 16)
VIT_BLOCK = Shape(128, 197, 768, 181, 12)
SMALL = Shape(3, 49, 32, 8, 2)

CASES = (
    OpCase(
        name="clips",
        title="merge_tokens, standalone",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.only_tokens,
        ours=providers.merge_ours,
        eager=providers.merge_eager,
        exact=check.exact_merge,
        traffic=merge_traffic,
        must=Limit(3.0),
        target=Limit(2.6),
        memory=(0.9e9, 0.5e9),
        also=(("hico, by position", providers.merge_by_position, check.exact_by_position),),
    ),
    OpCase(
        name="clips_metric",
        title="merge_tokens, metric given",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_metric,
        ours=providers.given_ours,
        eager=providers.given_eager,
        exact=check.exact_merge,
        traffic=given_traffic,
        must=Limit(2.1),
        target=Limit(1.7),
    ),
    OpCase(
        name="clips_448",
        title="merge_tokens, standalone",
        shape=FULL_VIDEO,
        small=replace(SMALL, N=98),
        inputs=inputs.only_tokens,
        ours=providers.merge_ours,
        eager=providers.merge_eager,
        exact=check.exact_merge,
        traffic=merge_traffic,
        must=Limit(2.0, "x two-read floor"),
        target=Limit(1.5, "x two-read floor"),
    ),
    OpCase(
        name="clips_intern",
        title="merge_tokens, standalone, InternVideo2",
        shape=INTERN_VIDEO,
        small=replace(SMALL, N=64, C=44),
        inputs=inputs.only_tokens,
        ours=providers.merge_ours,
        eager=providers.merge_eager,
        exact=check.exact_merge,
        traffic=merge_traffic,
        must=Limit(2.0, "x two-read floor"),
        target=Limit(1.5, "x two-read floor"),
    ),
    OpCase(
        name="few_clips",
        title="merge_tokens, standalone, CUDA graph",
        shape=FEW_CLIPS,
        small=replace(SMALL, B=2),
        inputs=inputs.only_tokens,
        ours=providers.merge_ours,
        eager=providers.merge_eager,
        exact=check.exact_merge,
        traffic=merge_traffic,
        must=Limit(0.12),
        target=Limit(0.08),
        graph=True,
    ),
    OpCase(
        name="vit_block",
        title="merge_tokens, r = 16, class token, metric given, CUDA graph",
        shape=VIT_BLOCK,
        small=Shape(2, 33, 24, 29, 3),
        inputs=inputs.with_keys,
        ours=providers.block_ours,
        eager=providers.block_eager,
        exact=check.exact_block,
        traffic=block_traffic,
        must=Limit(0.06),
        target=Limit(0.04),
        graph=True,
    ),
    OpCase(
        name="layer_norm",
        title="layer_norm_metric",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_affine,
        ours=providers.norm_ours,
        eager=providers.norm_eager,
        exact=check.exact_norm,
        traffic=norm_traffic,
        must=Limit(1.15, "x eager"),
        target=Limit(1.08, "x eager"),
        eager_whole=providers.norm_two_passes,
    ),
    OpCase(
        name="backward",
        title="merge_tokens, backward alone",
        shape=CLIPS,
        small=SMALL,
        inputs=inputs.with_gradient,
        ours=providers.merge_ours,
        eager=providers.merge_eager,
        exact=check.exact_backward,
        traffic=backward_traffic,
        must=Limit(1.3, "x floor"),
        target=Limit(1.1, "x floor"),
        backward=True,
    ),
)


def pick(names: str | None) -> tuple[OpCase, ...]:
    """The cases named in a comma-separated list, in the table's order; all for None.

    >>> [case.name for case in pick("vit_block,clips")]
    ['clips', 'vit_block']
    """
    if names is None:
        return CASES
    known = [case.name for case in CASES]
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        got = ", ".join(unknown) or "nothing"
        raise ValueError(f"cases: expected some of {', '.join(known)}, got {got}")
    return tuple(case for case in CASES if case.name in wanted)
