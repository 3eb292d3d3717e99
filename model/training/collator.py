"""Samples to a batch, padded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hico.adapters._dropout_rows import IGNORED, IMAGE_TOKEN
from hico.ops import _check

TOKENS = {"video": 16, "image": 64, "text": 0}  # of a frame, of a tile, of nothing
SEEN = ("pixel_values_videos", "modalities", "image_grids")


@dataclass(frozen=True)
class Collator:
    """Samples of VideoChatDataset -> what VideoChatFlashForConditionalGeneration takes.

    Args:
        pad_id: id of the padding.
        max_length: tokens of a sample, visual ones counted: see cut.
        padding_side: "right" or "left".

    Raises:
        ValueError: values that do not fit; samples as in cut, or none.

    >>> import torch
    >>> ids = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    >>> batch = Collator(pad_id=0, max_length=100)([{"input_ids": i, "labels": i} for i in ids])
    >>> batch["input_ids"], batch["attention_mask"][1], batch["labels"][1]
    (tensor([[5, 6, 7], [8, 0, 0]]), tensor([1, 0, 0]), tensor([   8, -100, -100]))
    """

    pad_id: int
    max_length: int
    padding_side: str = "right"

    def __post_init__(self) -> None:
        _check.integer("pad_id", self.pad_id, 0, 1 << 31)
        _check.integer("max_length", self.max_length, 1, 1 << 31)
        _check.one_of("padding_side", self.padding_side, ("right", "left"))

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """The batch: input_ids, attention_mask, labels [B, L], and what is seen, row by row.

        Where no sample shows anything, there are no pixel_values_videos, modalities, image_grids.
        """
        if not samples:
            raise ValueError("samples: expected at least one, got none")
        fitting = [cut(sample, self.max_length) for sample in samples]
        ids = [sample["input_ids"] for sample in fitting]
        batch: dict[str, Any] = {
            "input_ids": self._padded(ids, self.pad_id),
            "attention_mask": self._padded([torch.ones_like(i) for i in ids], 0),
            "labels": self._padded([sample["labels"] for sample in fitting], IGNORED),
        }
        seen = {name: [x for s in fitting for x in s.get(name) or ()] for name in SEEN}
        return batch | seen if seen["modalities"] else batch

    def _padded(self, rows: list[Tensor], fill: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            rows, batch_first=True, padding_value=fill, padding_side=self.padding_side
        )


def visual_counts(sample: Mapping[str, Any]) -> list[int]:
    """Tokens of each video and image of a sample: 16 a frame, 64 a tile."""
    kinds = sample.get("modalities") or ()
    seen = sample.get("pixel_values_videos") or ()
    return [len(pixels) * TOKENS[kind] for pixels, kind in zip(seen, kinds, strict=True)]


def cut(sample: Mapping[str, Any], max_length: int) -> Mapping[str, Any]:
    """The sample's first max_length tokens, visual ones counted, as published.

    Args:
        sample: input_ids and labels [L]; pixel_values_videos, modalities, image_grids as there are.
        max_length: tokens.

    Raises:
        ValueError: another count of -200 than of videos and images, or one of these in what would
            be cut off.
    """
    ids, counts = sample["input_ids"], visual_counts(sample)
    shown = ids == IMAGE_TOKEN
    if int(shown.sum()) != len(counts):
        raise ValueError(
            f"input_ids: expected one {IMAGE_TOKEN} for each of {len(counts)} videos and images, "
            f"got {int(shown.sum())}"
        )
    sizes = torch.ones_like(ids)
    sizes[shown] = torch.tensor(counts, dtype=ids.dtype)
    fits = sizes.cumsum(0) <= max_length
    if bool((shown & ~fits).any()):
        raise ValueError(
            f"max_length: expected all that is seen within {max_length} tokens, got "
            f"{int(sizes.sum())} tokens, {sum(counts)} of them visual"
        )
    if bool(fits.all()):
        return sample
    return {**sample, "input_ids": ids[fits], "labels": sample["labels"][fits]}
