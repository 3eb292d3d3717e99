"""What progressive dropout decides about rows, without a model: spans, masks and indices."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hico.ops import _check
from hico.ops.compact import compact

KINDS = (
    "uniform",
    "random",
    "attention",
    "uniform0_attention",
    "uniform1_attention",
    "random0_attention",
)
POSITIONS = ("renumber", "keep")
QUERY_ROWS = ("auto", "last", "answers")
IMAGE_TOKEN = -200
IGNORED = -100

Span = tuple[int, int] | None
QueryRows = str | Callable[[Tensor, Tensor | None], tuple[Tensor, list[int]]]


@dataclass(frozen=True)
class Plan:
    """The settings of one progressive_dropout, checked."""

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    kind: str
    positions: str
    query_rows: QueryRows
    seed: int | None = None

    def __post_init__(self) -> None:
        _check.one_of("kind", self.kind, KINDS)
        _check.one_of("positions", self.positions, POSITIONS)
        if not callable(self.query_rows):
            _check.one_of("query_rows", self.query_rows, QUERY_ROWS)
        if self.seed is not None:
            _check.integer("seed", self.seed, 0, 1 << 55)
        if len(self.ratios) != len(self.layers) + 1:
            raise ValueError(
                f"ratios: expected {len(self.layers) + 1}, one more than layers, "
                f"got {len(self.ratios)}"
            )
        if self.ratios[0] != 1:
            raise ValueError(f"ratios: expected the first to be 1, got {self.ratios[0]}")
        if not all(a >= b >= 0 for a, b in zip(self.ratios, self.ratios[1:], strict=False)):
            raise ValueError(f"ratios: expected them to fall and none below 0, got {self.ratios}")

    def check_layers(self, count: int) -> None:
        """The layers ascend and exist; behind the last one there is none to score with."""
        for layer in self.layers:
            _check.integer("layers", layer, 1, count)
        if list(self.layers) != sorted(set(self.layers)):
            raise ValueError(f"layers: expected them to ascend, got {list(self.layers)}")
        if self.layers[-1:] == (count,) and self.rule(len(self.layers) - 1) == "attention":
            raise ValueError(
                f"layers: expected at most {count - 1} for an attention stage, which asks the "
                f"layer that comes next, got {count}"
            )

    def rule(self, stage: int) -> str:
        """What the stage goes by: "uniform", "random" or "attention"."""
        first, _, rest = self.kind.partition("_")
        if not rest:
            return first
        return first[:-1] if stage <= int(first[-1]) else rest

    def draw(self, stage: int, count: int) -> Tensor:
        """[count] random float32 on the CPU, with a seed the same whenever the stage is run."""
        if self.seed is None:
            return torch.rand(count, device="cpu")
        generator = torch.Generator().manual_seed((self.seed << 8) + stage)
        return torch.rand(count, generator=generator, device="cpu")

    def stage(self, layer: int) -> int:
        """How many drops there are up to this layer's input."""
        return sum(at <= layer for at in self.layers)


@dataclass
class Sequence:
    """Rows of a batch on their way through the layers.

    Attributes:
        starts, counts: where the visual tokens of each row are now, and how many.
        totals: how many there were.
        length: rows of the padded sequence now.
        mask: [B, length] bool, False = padding; None = there is none.
        labels: [B, length] or None.
    """

    starts: list[int]
    counts: list[int]
    totals: list[int]
    length: int
    mask: Tensor | None
    labels: Tensor | None

    def visible(self, device: torch.device) -> Tensor:
        shape = (len(self.starts), self.length)
        return (
            torch.ones(shape, dtype=torch.bool, device=device) if self.mask is None else self.mask
        )

    def alike(self, left: list[int]) -> Iterable[tuple[tuple[int, int, int], Any]]:
        """(start, count, how many are left) of visual tokens, and the rows of which it is so.

        If of all, as a slice: an index would have to go to the device.
        """
        where: dict[tuple[int, int, int], Any] = {}
        for row, found in enumerate(zip(self.starts, self.counts, left, strict=True)):
            where.setdefault(found, []).append(row)
        if len(where) == 1:
            return [(found, slice(None)) for found in where]
        return where.items()

    def drop(self, keep: Tensor, counts: list[int], left: bool) -> Tensor:
        """Leaves what keep [B, length] names, counts[b] of it visual: index [B, k], -1 = padding.

        The padding that unequal rows need comes first if left, so that the last row of the
        sequence is the last token of each; otherwise behind.
        """
        if self.mask is None:  # then it is known here what is left
            sizes = [self.length - n + k for n, k in zip(self.counts, counts, strict=True)]
            starts = self.starts
        else:
            before = [keep[b, :start].sum() for b, start in enumerate(self.starts)]
            sums = torch.stack([keep.sum(1), torch.stack(before)])
            sizes, starts = sums.tolist()  # one wait for the device a drop
        index = pack(keep, sizes, left)
        width = index.shape[1]
        shift = [width - size if left else 0 for size in sizes]
        self.starts = [start + by for start, by in zip(starts, shift, strict=True)]
        self.counts, self.length = counts, width
        self.mask = None if min(sizes) == width else index >= 0
        if self.labels is not None:
            (labels,) = compact(index, self.labels, dims=1)
            self.labels = labels.masked_fill(index < 0, IGNORED)
        return index


def pack(keep: Tensor, sizes: list[int], left: bool) -> Tensor:
    """[B, max(sizes)] int64: where keep [B, N] is True, ascending, sizes[b] of them; -1 around."""
    width = max(sizes)
    order = (~keep).to(torch.uint8).argsort(dim=1, stable=True)
    size = torch.tensor(sizes, device=keep.device)[:, None]
    place = torch.arange(width, device=keep.device) - (width - size if left else 0 * size)
    inside = (place >= 0) & (place < size)
    return order.gather(1, place.clamp(0, max(width - 1, 0))).masked_fill(~inside, -1)


def answer_rows(labels: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int]]:
    """[B, M] int64, the row before each run of labels, -1 behind them; and how many a row has."""
    answered = labels != IGNORED
    # the first token has no row before it
    starts = answered & ~F.pad(answered[:, :-1], (1, 0), value=True)
    asks = F.pad(starts[:, 1:], (0, 1))
    asks = asks if mask is None else asks & mask
    sizes = asks.sum(1).tolist()
    return pack(asks, sizes, left=False), sizes


def check_spans(given: Any, batch: int, length: int, mask: Tensor | None) -> list[tuple[int, int]]:
    """(start, stop) for each of batch rows, (0, 0) where there are no visual tokens.

    A batch that is a multiple of the spans repeats each: generate's beams and returned sequences.
    """
    if not isinstance(given, (list, tuple)) or not given or batch % len(given):
        got = len(given) if isinstance(given, (list, tuple)) else type(given).__name__
        raise ValueError(
            f"visual_spans: expected one (start, stop) or None for each of {batch} batch rows, "
            f"got {got}"
        )
    spans = [(0, 0) if span is None else span for span in given for _ in range(batch // len(given))]
    for row, span in enumerate(spans):
        pair = isinstance(span, (list, tuple)) and [type(at) for at in span] == [int, int]
        if not pair or not 0 <= span[0] <= span[1] <= length:
            raise ValueError(
                f"visual_spans: expected 0 <= start <= stop <= {length}, the rows of the embedded "
                f"sequence, got {span!r}"
            )
        if mask is not None and not mask[row, span[0] : span[1]].all():
            raise ValueError(f"visual_spans: expected no padding inside, got some in {span!r}")
    return [(start, stop) for start, stop in spans]


def find_spans(input_ids: Tensor | None) -> list[Span]:
    """A span of one token at each row's -200, which a model that embeds it has to widen."""
    if input_ids is None:
        raise ValueError(
            "visual_spans: expected one (start, stop) per batch row, as inputs_embeds do not show "
            "where the visual tokens are, got None"
        )
    if bool((input_ids == IMAGE_TOKEN).any()):
        raise ValueError(
            f"visual_spans: expected the model to pass them on where it embeds {IMAGE_TOKEN}, "
            "got None"
        )
    return [None] * len(input_ids)
