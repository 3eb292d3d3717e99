"""Ids with -200 and visual features into one padded sequence of embeddings."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hico.adapters._dropout_rows import IGNORED, IMAGE_TOKEN
from hico.ops import _check


class Embedded(NamedTuple):
    """A batch as the decoder gets it.

    Attributes:
        inputs_embeds: [B, N, D].
        attention_mask: int64 [B, N], 0 = padding; None = there is none.
        visual_spans: for each row (start, stop) of its visual tokens, None for a row of text, and
            a tuple of such pairs for a row of several videos or images.
        labels: [B, N], -100 for visual tokens and padding; None = none were given.
    """

    inputs_embeds: Tensor
    attention_mask: Tensor | None
    visual_spans: list[Any]
    labels: Tensor | None


def splice(
    embedding: nn.Embedding,
    input_ids: Tensor,
    visual: Sequence[Tensor],
    attention_mask: Tensor | None = None,
    labels: Tensor | None = None,
    padding_side: str = "right",
) -> Embedded:
    """Each -200, row by row, becomes the next of the visual features; padding goes to one side.

    Args:
        embedding: of ids, D wide.
        input_ids: [B, L].
        visual: [n, D] each, as many as there are -200 outside the padding.
        attention_mask: [B, L], 0 or False = padding, wherever it stands.
        labels: [B, L].
        padding_side: "left" or "right".

    Raises:
        ValueError: shapes, or a count of features, that do not fit.
    """
    _check.one_of("padding_side", padding_side, ("left", "right"))
    for name, given in (("attention_mask", attention_mask), ("labels", labels)):
        if given is not None:
            _check.shape(name, given, *input_ids.shape)
    ids = input_ids.cpu()  # one wait for the device, not one a row
    real = torch.ones_like(ids) if attention_mask is None else attention_mask.cpu()
    rows = [row[keep] for row, keep in zip(ids, real != 0, strict=True)]
    places = [(row == IMAGE_TOKEN).nonzero()[:, 0].tolist() for row in rows]
    _check_features(visual, sum(map(len, places)), embedding.embedding_dim)
    features = iter(visual)
    held = [[next(features) for _ in at] for at in places]
    sizes = [len(row) + sum(len(f) - 1 for f in own) for row, own in zip(rows, held, strict=True)]
    pads = [max(sizes) - size for size in sizes]
    before = pads if padding_side == "left" else [0] * len(pads)
    embeds, targets = [], []
    for b, (row, at, own) in enumerate(zip(rows, places, held, strict=True)):
        text = embedding(row.masked_fill(row == IMAGE_TOKEN, 0).to(input_ids.device))
        room = before[b], pads[b] - before[b]
        embeds.append(_woven(text, at, [f.to(text) for f in own], room, 0))
        if labels is not None:
            kept = labels[b][(real[b] != 0).to(labels.device)]
            blank = [kept.new_full((len(f),), IGNORED) for f in own]
            targets.append(_woven(kept, at, blank, room, IGNORED))
    mask = None
    if any(pads):
        place = torch.arange(max(sizes))
        starts, stops = torch.tensor(before)[:, None], torch.tensor(before) + torch.tensor(sizes)
        mask = ((place >= starts) & (place < stops[:, None])).long().to(input_ids.device)
    spans = [_spans(*row) for row in zip(places, held, before, strict=True)]
    stacked = torch.stack(embeds) if len(embeds) > 1 else embeds[0][None]
    return Embedded(stacked, mask, spans, torch.stack(targets) if targets else None)


def side_of(attention_mask: Tensor | None, otherwise: str) -> str:
    """The side on which a mask [B, L] pads, or the other value where it does not."""
    if attention_mask is None or not attention_mask.numel():
        return otherwise
    first, last = (bool((attention_mask[:, at] == 0).any()) for at in (0, -1))
    return otherwise if first == last else "left" if first else "right"


def _woven(
    row: Tensor, at: list[int], inserts: list[Tensor], room: tuple[int, int], fill: float
) -> Tensor:
    """The row [L, ...] with inserts in the place of its items `at`, and room of `fill` around."""
    edges = pairwise([-1, *at, len(row)])
    pieces = [row[start + 1 : stop] for start, stop in edges]
    blank = [row.new_full((n, *row.shape[1:]), fill) for n in room]
    rest = [part for pair in zip(inserts, pieces[1:], strict=True) for part in pair]
    return torch.cat([blank[0], pieces[0], *rest, blank[1]])


def _spans(at: list[int], features: list[Tensor], before: int) -> Any:
    found, shift = [], before
    for place, feature in zip(at, features, strict=True):
        found.append((place + shift, place + shift + len(feature)))
        shift += len(feature) - 1
    return tuple(found) if len(found) > 1 else found[0] if found else None


def _check_features(visual: Sequence[Tensor], count: int, width: int) -> None:
    if len(visual) != count:
        raise ValueError(
            f"input_ids: expected one {IMAGE_TOKEN} for each of {len(visual)} videos or images, "
            f"got {count}"
        )
    for feature in visual:
        if not isinstance(feature, Tensor) or feature.ndim != 2 or feature.shape[1] != width:
            got = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            raise ValueError(f"visual_features: expected [n, {width}] each, got {got}")
