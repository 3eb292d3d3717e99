"""Any frames of a video file, exactly, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch

from .ahead import read_ahead
from .base import Video, even_rate
from .careful import Careful, Painter


class VideoReader(Video):
    """Opens a video with PyAV and reads any of its frames, upright and at their real times.

    Frames are numbered in the order in which they are shown, whatever the container says about
    their count. Rotation and mirroring asked for by the file are applied; the shape of non-square
    pixels is not. Opening reads the file once without decoding it; AVI files and bare H.264 and
    HEVC streams, which hold no reliable times, are decoded once to be counted.

    Args:
        path: a video file.
        threads: how many decode at once; None for one a CPU, at most 8.

    Attributes:
        frames, fps, duration, seconds, size: see `Video`.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: a directory, an empty file, no video in it, or nothing in it can be decoded.
        ModuleNotFoundError: PyAV is not installed.

    Example:
        with VideoReader("film.mp4") as video:
            frames = video.read(video.sample(64), size=224)  # uint8 [64, 224, 224, 3]
    """

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        super().__init__(path)
        self._threads = threads
        self._careful = Careful(self.path)
        self._painter = Painter()
        table = self._careful.table
        self.frames = len(table.seconds)
        self.fps = even_rate(table.rates, table.seconds, table.duration)
        self.seconds, self.duration = torch.from_numpy(table.seconds), table.duration
        if self._steady():
            self.duration = self.frames / self.fps
        height, width = self._painter.rgb(self._careful.first).shape[:2]
        self.size = height, width

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        self._careful.close()

    def _keys(self) -> np.ndarray:
        return self._careful.table.key_indices()

    def _load(self, indices: list[int], pixels: tuple[int, int]) -> Iterator[torch.Tensor]:
        """The quick way where it may succeed, and carefully what it does not find."""
        self._careful.check_open()
        ahead: Iterator[tuple[int, torch.Tensor]] = iter(())
        if self._careful.table.pts is not None and len(indices) > 1:
            ahead = read_ahead(self.path, self._careful.table, indices, pixels, self._threads)
        number, frame = -1, torch.empty(0)
        for index in indices:
            while number < index:
                number, frame = next(ahead, (len(self._careful.table.seconds), frame))
            if number == index:
                yield frame
            else:
                yield self._painter.paint(self._careful.find(index), pixels)
