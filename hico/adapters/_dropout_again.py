"""What the prompts about one video share, so that another question runs only what is its own."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hico.adapters._dropout_rows import Plan, Sequence


class Watched(Exception):
    """The rows have come to the first stage that a question has a say in."""


@dataclass
class Prefix:
    """A prompt up to the end of its visual tokens, as far as what follows has no say in it.

    Attributes:
        plan: the settings it was shortened with.
        begins: the first stage whose drop depends on the question; the number of stages if none.
        lengths: for each stage up to begins, how many rows of its input belong to it.
        kept: for each stage before begins [B, k] int64, which of these rows stayed.
        hidden, rotation: these rows and their (cos, sin), as they go into stage begins.
        start, count, total: where visual tokens are in that stage's input, how many, of how many.
    """

    plan: Plan
    begins: int
    lengths: list[int] = field(default_factory=list)
    kept: list[Tensor] = field(default_factory=list)
    hidden: Tensor | None = None
    rotation: tuple[Tensor, Tensor] | None = None
    start: int = 0
    count: int = 0
    total: int = 0

    @classmethod
    def of(cls, plan: Plan, rows: Sequence) -> "Prefix":
        """That of a prompt whose rows go into the first layer.

        Raises:
            ValueError: spans that differ or end elsewhere.
        """
        spans = set(zip(rows.starts, rows.counts, strict=True))
        if len(spans) != 1 or sum(min(spans)) != rows.length:
            raise ValueError(
                f"visual_spans: expected (start, {rows.length}), the end of the sequence, in every "
                f"row to watch, got {[(at, at + n) for at, n in sorted(spans)]}"
            )
        stages = range(len(plan.layers))
        begins = next((s for s in stages if plan.rule(s) == "attention"), len(plan.layers))
        prefix = cls(plan, begins, total=rows.totals[0])
        prefix._note(rows)
        return prefix

    def _note(self, rows: Sequence) -> None:
        self.start, self.count = rows.starts[0], rows.counts[0]
        self.lengths.append(self.start + self.count)

    def after(self, index: Tensor, rows: Sequence) -> None:
        """Notes which rows a stage before begins left."""
        self._note(rows)
        self.kept.append(index)

    def kept_with(self, batch: int, count: int) -> list[Tensor]:
        """What the stages before begins keep of a prompt with count rows behind the prefix."""
        out = []
        for index, length in zip(self.kept, self.lengths, strict=False):
            new = torch.arange(length, length + count, device=index.device).expand(batch, -1)
            out.append(torch.cat([_repeated(index, batch), new], 1))
        return out

    def join(self, hidden: Tensor, rotation: tuple) -> tuple[Tensor, tuple, Sequence]:
        """The whole input of stage begins: the prefix, then these rows [B, n, C]."""
        assert self.hidden is not None and self.rotation is not None
        batch = len(hidden)
        whole = torch.cat([_repeated(self.hidden, batch), hidden], 1)
        turned = []
        for old, new in zip(self.rotation, rotation, strict=True):
            many = max(len(old), len(new))
            turned.append(torch.cat([_repeated(old, many), _repeated(new, many)], 1))
        counts = [self.count] * batch
        rows = Sequence(
            [self.start] * batch, counts, [self.total] * batch, whole.shape[1], None, None
        )
        return whole, (turned[0], turned[1]), rows


def rewind(cache: Any, batch: int | None = None) -> None:
    """Leaves of a cache what the prefix put there, and nothing that came after it.

    Of a batch that beams or several answers made larger, the first row of each prompt stays.

    Raises:
        ValueError: the cache is not what watch gave, or holds less than the prefix.
    """
    known: Any = getattr(cache, "dropout", None)
    prefix = getattr(known, "prefix", None)
    if prefix is None:
        raise ValueError(
            "past_key_values: expected a cache that watch began, "
            f"got a {type(cache).__name__} of another origin"
        )
    for i, layer in enumerate(cache.layers):
        stage = sum(at <= i for at in known.layers)
        length = 0 if stage > prefix.begins else prefix.lengths[stage]
        if layer.get_seq_length() < length:
            raise ValueError(
                f"past_key_values: expected at least {length} rows in layer {i}, "
                f"got {layer.get_seq_length()}"
            )
        if length:
            step = 1 if batch is None else max(1, len(layer.keys) // batch)
            layer.keys = layer.keys[::step, :, :length]
            layer.values = layer.values[::step, :, :length]
        else:
            layer.keys = layer.values = None
            layer.is_initialized = False
    known.keys = [None] * (prefix.begins + 1)
    known.rewound = True


def _repeated(x: Tensor, batch: int) -> Tensor:
    """x [b, ...] for a batch that is a multiple of b."""
    return x if len(x) == batch else x.repeat_interleave(batch // len(x), 0)
