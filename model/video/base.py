"""What every reader of videos has in common: numbered frames, times, a clip, reading by number."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from .sampling import frame_indices, sample_indices

# twice 8K; a damaged header may state any size, and memory for it would be taken at once
MOST_PIXELS = 2**26


class Video:
    """An open video, or a clip of one, that reads any of its frames, upright and in RGB.

    Frames are numbered in the order in which they are shown, from 0 at the clip's start. A context
    manager; `hico.model.video.open_video` makes one.

    Attributes:
        frames: how many there are.
        fps: frames a second, the mean where the rate varies.
        duration: seconds; `frames / fps` for a whole video of a constant rate.
        seconds: float64 [frames], when each appears, counted from the first.
        size: (height, width) in pixels of the upright frames.
        first: number in the whole video of the clip's first frame.
    """

    frames: int
    fps: float
    duration: float
    seconds: torch.Tensor
    size: tuple[int, int]
    first: int = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def _load(self, indices: list[int], pixels: tuple[int, int]) -> Iterator[torch.Tensor]:
        """Frames of the whole video: ascending numbers, none twice, uint8 [*pixels, 3] each."""
        raise NotImplementedError

    def _keys(self) -> np.ndarray:
        """Numbers, in the whole video, of frames that decode alone; empty if nobody knows."""
        return np.zeros(0, np.int64)

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.frames

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"{type(self).__name__}({self.path.name!r}, {self.frames} frames, "
            f"{self.duration:.2f} s, {width}x{height})"
        )

    def cut(self, start: float | None, end: float | None) -> None:
        """Keep [start, end] seconds only, as published: frames int(start * fps) and following.

        start = max(0, start), end = min(duration - 0.1, end), and int((end - start) * fps) frames,
        at least one. Where the rate varies, the frames on screen within that time.

        Raises:
            ValueError: the range is empty or reversed, or begins behind the video's end.
        """
        if start is None and end is None:
            return
        begin = 0.0 if start is None else float(start)
        stop = self.duration if end is None else float(end)
        begin = 0.0 if begin < 0 else begin
        if begin >= self.duration:
            raise ValueError(
                f"clip: expected a start below the video's {self.duration:.2f} s, got {start}"
            )
        if not begin < stop:
            raise ValueError(f"clip: expected start < end, got {start} to {end} s")
        first, count, self.duration = self._bounds(begin, stop, end is not None)
        self.first, self.frames = self.first + first, count
        self.seconds = self.seconds[first : first + count] - self.seconds[first]

    def _bounds(self, begin: float, stop: float, ends: bool) -> tuple[int, int, float]:
        """First frame, number of frames and seconds of a clip; `ends`: its end was asked for."""
        if ends:
            stop = max(begin, min(self.duration - 0.1, stop))
        if self._steady():
            first, count = int(begin * self.fps), int((stop - begin) * self.fps)
        else:
            seconds = self.seconds.numpy()
            first = int(np.searchsorted(seconds, begin, "right")) - 1
            count = int(np.searchsorted(seconds, stop)) - first
        first = min(first, self.frames - 1)
        count = min(max(1, count), self.frames - first)
        return first, count, stop - begin if stop > begin else count / self.fps

    def _steady(self) -> bool:
        even = torch.arange(self.frames, dtype=torch.float64) / self.fps
        return bool((self.seconds - even).abs().max() < 0.5 / self.fps)

    def sample(self, count: int) -> torch.Tensor:
        """Choose `count` frames evenly in time: int64 [count]; see `sample_indices`."""
        return sample_indices(self.seconds, self.duration, count)

    def choose(
        self,
        min_frames: int = 64,
        max_frames: int = 512,
        local: int = 8,
        mode: str = "dynamic_fps1",
    ) -> torch.Tensor:
        """The frames that the model looks at: int64 [T]; see `frame_indices`."""
        return frame_indices(self.frames, self.fps, min_frames, max_frames, local, mode)

    def snapped(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """Every frame's nearest key frame within the clip, in time: int64 [T].

        Key frames decode alone, so reading only them is many times faster where few frames of a
        long video are wanted. A file or a backend that names no key frames keeps its indices.
        """
        wanted = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        numbers = self._keys() - self.first
        keys = torch.from_numpy(numbers[(numbers >= 0) & (numbers < self.frames)])
        if not len(keys) or not len(wanted):
            return wanted
        moments, times = self.seconds[wanted], self.seconds[keys]
        after = torch.searchsorted(times, moments).clamp(1, max(1, len(keys) - 1))
        after = after.clamp(max=len(keys) - 1)
        before = (after - 1).clamp(min=0)
        nearer = (moments - times[before]).abs() <= (times[after] - moments).abs()
        return keys[torch.where(nearer, before, after)]

    def read(
        self,
        indices: Sequence[int] | torch.Tensor,
        size: int | tuple[int, int] | None = None,
        keyframes: str = "exact",
    ) -> torch.Tensor:
        """Read frames in any order, repeats allowed.

        Args:
            indices: [T] frame numbers from 0 to frames - 1.
            size: pixels, (height, width) or one number for both; None keeps the video's own. The
                aspect ratio is not kept. See `resize_frames`.
            keyframes: "exact", or "snap" for every frame's nearest key frame: see `snapped`.

        Returns:
            uint8 [T, height, width, 3], RGB.

        Raises:
            ValueError: an argument out of range, or a frame that cannot be decoded.
        """
        wanted = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        height, width = self._pixels(size)
        out = torch.empty(len(wanted), height, width, 3, dtype=torch.uint8)
        unique, place = wanted.unique(return_inverse=True)
        for i, frame in enumerate(self.stream(unique.tolist(), (height, width), keyframes)):
            out[place == i] = frame
        return out

    def stream(
        self,
        indices: Iterable[int],
        size: int | tuple[int, int] | None = None,
        keyframes: str = "exact",
    ) -> Iterator[torch.Tensor]:
        """Yield frames one by one, as they are decoded: each uint8 [height, width, 3], RGB.

        However long the video, only a few frames wait in memory.

        Args:
            indices: ascending frame numbers, repeats allowed.
            size, keyframes: as in `read`.

        Raises:
            ValueError: as in `read`, and for indices that are not ascending.
        """
        pixels = self._pixels(size)
        wanted = [int(i) for i in indices]
        for index in wanted:
            if not 0 <= index < self.frames:
                raise ValueError(f"index: expected 0 to {self.frames - 1}, got {index}")
        if any(b < a for a, b in pairwise(wanted)):
            raise ValueError("indices: expected ascending frame numbers (read() takes any order)")
        if keyframes not in ("exact", "snap"):
            raise ValueError(f"keyframes: expected 'exact' or 'snap', got {keyframes!r}")
        if keyframes == "snap":
            wanted = self.snapped(wanted).tolist()
        once = sorted({index + self.first for index in wanted})
        frames = self._load(once, pixels)
        last, frame = -1, torch.empty(0)
        for index in wanted:
            if index != last:
                last, frame = index, next(frames)
            yield frame

    def _pixels(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            return self.size
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise ValueError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
        check_pixels("size", height, width)
        return int(height), int(width)


def check_pixels(name: object, height: int, width: int) -> None:
    """Refuse pictures too large to hold.

    Raises:
        ValueError: more than MOST_PIXELS.
    """
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{name}: expected at most {MOST_PIXELS:,} pixels a frame, got {width} x {height}"
        )


def even_rate(rates: Iterable[Any], seconds: np.ndarray, duration: float) -> float:
    """Frames a second: the first of the stated rates that the frames' times bear out.

    Else the mean, frames / duration. A stated rate is exact, where times may have been rounded.
    """
    for rate in rates:
        if not rate or not math.isfinite(float(rate)):
            continue
        even = np.arange(len(seconds)) / float(rate)
        if np.abs(seconds - even).max() < 0.5 / float(rate):
            return float(rate)
    return len(seconds) / duration if duration > 0 else 1.0
