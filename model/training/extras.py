"""What a stage may do beside the published recipe: each None, and off, unless it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hico.adapters._dropout_rows import Plan
from hico.ops import _check

from ._fields import within


@dataclass(frozen=True)
class Dropout:
    """Progressive dropout of visual tokens in training, see hico.progressive_dropout.

    Attributes:
        layers, ratios, kind, positions: as there.
        query_rows: whose attention ranks. "last" = the last row of each prompt, the one that
            inference uses; "answers" = the published rule, the rows before each run of labels.
        share: of the batches in which tokens are dropped.
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    kind: str = "uniform0_attention"
    positions: Literal["renumber", "keep"] = "renumber"
    query_rows: Literal["last", "answers"] = "last"
    share: float = 1.0

    def __post_init__(self) -> None:
        within("dropout.share", self.share, 0, 1)
        self.check(1 << 31)

    def check(self, depth: int) -> None:
        """The settings fit a model of this many layers.

        Raises:
            ValueError: they do not.
        """
        try:
            plan = Plan(self.layers, self.ratios, self.kind, self.positions, "auto")
            plan.check_layers(depth)
        except ValueError as error:
            raise ValueError(f"dropout.{error}") from None


@dataclass(frozen=True)
class Skips:
    """Random gaps between positions, so that short rows train for long ones.

    Attributes:
        max: the highest position in a row, once the ramp is over.
        start, ramp: shares of the steps: none before the first, growing for the second.
        gaps: in a row, at most.
    """

    max: int
    start: float = 0.0
    ramp: float = 0.5
    gaps: int = 16

    def __post_init__(self) -> None:
        _check.integer("position_skips.max", self.max, 1, 1 << 31)
        _check.integer("position_skips.gaps", self.gaps, 1, 1 << 16)
        within("position_skips.start", self.start, 0, 1)
        within("position_skips.ramp", self.ramp, 0, 1)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters of the language model, merged into it at the end."""

    rank: int = 64
    alpha: float = 128.0
    dropout: float = 0.0
    targets: tuple[str, ...] = (
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    )  # fmt: skip

    def __post_init__(self) -> None:
        _check.integer("lora.rank", self.rank, 1, 1 << 16)
        within("lora.alpha", self.alpha, 0, float("inf"))
        within("lora.dropout", self.dropout, 0, 1)
