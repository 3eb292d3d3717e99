"""Rows of annotations as samples for training."""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from hico.model.training.annotations import BadRow, BadRowError, Row
from hico.model.training.fitting import Fit
from hico.model.training.lengths import Measured, measure
from hico.model.training.media import DataOptions, read_images, read_video
from hico.model.training.templates import encode
from hico.ops import _check

__all__ = ["BadRowError", "DataOptions", "VideoChatDataset"]

logger = logging.getLogger(__name__)
GOOD, BAD = 0, 1


class VideoChatDataset(Dataset):
    """Rows of annotations as ids, labels and pixels, each always the same.

    A row that turns out bad is an error that names file and row. With on_bad="skip" it is logged,
    counted in `skipped`, and replaced by the next row that is good, from the first again after the
    last. A row that is known to be bad is not tried again, whichever worker found it out.

    Args:
        rows: of read_rows or load_sources, or a list.
        processor: the model's, for its tokenizer and its image_size.
        options: how rows become samples.
        on_bad: "raise" or "skip".
        cache: a file that keeps what the lengths of videos and the sizes of images were found to
            be, None = nothing is kept. It is written as a whole or not at all.
        progress: show a bar on stderr while lengths are found.

    Raises:
        ValueError: no rows, or values that do not fit.

    Source: VideoChat-Flash (arXiv 2501.00574), its published training code.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        processor: Any,
        options: DataOptions | None = None,
        on_bad: str = "raise",
        cache: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        _check.one_of("on_bad", on_bad, ("raise", "skip"))
        if not len(rows):
            raise ValueError("rows: expected at least one, got none")
        self.rows, self.options = rows, options or DataOptions()
        self.tokenizer, self.size = processor.tokenizer, processor.image_size
        self.on_bad, self.cache, self.progress = on_bad, cache, progress
        self._fit = Fit(self.tokenizer, self.options.template, self.options.max_length)
        # shared by the processes that load data
        self._state = torch.full((len(rows),), GOOD, dtype=torch.uint8).share_memory_()
        self._reasons: dict[int, BadRow] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Sample i.

        Returns:
            input_ids, labels: int64 [L], -200 where something is seen, -100 where nothing is
                learned.
            pixel_values_videos: a float32 [T, 3, S, S] for each -200, normalised.
            modalities: "video" or "image" of each.
            image_grids: (rows, columns) of an image's tiles behind the first, None without.

        Raises:
            BadRowError: the row cannot be used; with on_bad="skip", no row can.
            IndexError: there is no such row.
        """
        if not -len(self) <= i < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        for j in range(i, i + len(self)):
            place = j % len(self)
            if self._state[place] == GOOD:
                try:
                    return self.sample(place)
                except BadRowError as error:
                    if self.on_bad == "raise":
                        raise
                    self._skip(place, error.bad[0])
        raise BadRowError(*self.skipped)

    def sample(self, i: int) -> dict[str, Any]:
        """Sample i itself, whatever on_bad says.

        Raises:
            BadRowError: the row cannot be used.
        """
        row = self.rows[i]
        try:
            return self._sample(row, i)
        except (ValueError, OSError) as error:
            raise BadRowError(BadRow(row.file, row.index, str(error))) from error

    def _sample(self, row: Row, i: int) -> dict[str, Any]:
        message, kind = None, "image"
        seen: list[tuple[torch.Tensor, tuple[int, int] | None]] = []
        if row.video is not None:
            pixels, message = read_video(row, self.options, self.size, seed=i)
            seen, kind = [(pixels, None)], "video"
        elif row.images:
            seen = read_images(row, self.options, self.size)
        ids, labels = encode(
            self.tokenizer, row.turns, self.options.template, message, visual=bool(seen)
        )
        sample = {
            "input_ids": ids,
            "labels": labels,
            "pixel_values_videos": [pixels for pixels, _ in seen],
            "modalities": [kind] * len(seen),
            "image_grids": [grid for _, grid in seen],
        }
        return dict(self._fit(sample))

    def _skip(self, i: int, bad: BadRow) -> None:
        self._state[i], self._reasons[i] = BAD, bad
        logger.warning("skipped %s", bad)

    @property
    def skipped(self) -> list[BadRow]:
        """The rows that were found to be bad so far, by whichever process, in their order."""
        found = self._state.nonzero()[:, 0].tolist()
        return [self._reasons.get(i) or self._found_elsewhere(i) for i in found]

    def _found_elsewhere(self, i: int) -> BadRow:
        """What another process found, found again."""
        try:
            self.sample(i)
        except BadRowError as error:
            self._reasons[i] = error.bad[0]
        else:
            row = self.rows[i]
            self._reasons[i] = BadRow(row.file, row.index, "could not be read, but now it can be")
        return self._reasons[i]

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row is expected to take: 16 a frame, 64 a tile, and those of its text.

        Those of text are an estimate. Videos and images are opened, not decoded.

        Raises:
            BadRowError: media that are missing or cannot be opened, unless on_bad is "skip".
        """
        return self._measured.lengths

    @property
    def modalities(self) -> list[str]:
        """ "text" or "visual" of each row."""
        return self._measured.modalities

    @cached_property
    def _measured(self) -> Measured:
        found = measure(
            self.rows, self.tokenizer, self.options, self.size, self.cache, self.progress
        )
        if found.bad and self.on_bad == "raise":
            raise BadRowError(*found.bad.values())
        for i, bad in found.bad.items():
            self._skip(i, bad)
        return found
