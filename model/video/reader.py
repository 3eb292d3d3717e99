"""Any frames of a video file, exactly, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .resize import resize_frames, upright
from .sampling import sample_indices
from .table import (
    FrameTable,
    count_table,
    cut_before,
    decoded,
    import_av,
    open_video,
    packets,
    read_table,
)


class VideoReader:
    """Opens a video and reads any of its frames, upright and at their real times.

    Frames are numbered in the order in which they are shown, whatever the container says about
    their count. Rotation and mirroring asked for by the file are applied; the shape of non-square
    pixels is not. One decoded frame is held at a time, besides what is returned.

    Opening reads the file once without decoding it. AVI files and bare H.264 and HEVC streams hold
    no reliable times: they are decoded once to be counted, and always read from the start.

    Args:
        path: a video file.

    Attributes:
        frames: how many frames the video shows.
        seconds: float64 [frames], when each appears, counted from the first one.
        duration: seconds from the first frame's start to the last one's end.
        size: (height, width) in pixels of the upright frames.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: a directory, an empty file, no video in it, or nothing in it can be decoded.
        ModuleNotFoundError: PyAV is not installed.

    Example:
        with VideoReader("film.mp4") as video:
            frames = video.read(video.sample(64), size=224)  # uint8 [64, 224, 224, 3]
    """

    frames: int
    seconds: torch.Tensor
    duration: float
    size: tuple[int, int]

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._shown: tuple[int, Any] | None = None
        self._decoder: Iterator[Any] = iter(())
        self._converter: Any = None
        self._container, self._stream = open_video(self.path)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __len__(self) -> int:
        return self.frames

    def __repr__(self) -> str:
        height, width = self.size
        return (
            f"VideoReader({self.path.name!r}, {self.frames} frames, "
            f"{self.duration:.2f} s, {width}x{height})"
        )

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        if self._container is not None:
            self._container.close()
        self._container, self._decoder, self._shown = None, iter(()), None

    def sample(self, count: int) -> torch.Tensor:
        """Choose `count` frames evenly in time: int64 [count]; see `sample_indices`."""
        return sample_indices(self.seconds, self.duration, count)

    def read(
        self, indices: Sequence[int] | torch.Tensor, size: int | tuple[int, int] | None = None
    ) -> torch.Tensor:
        """Read frames in any order, repeats allowed.

        Args:
            indices: [T] frame numbers from 0 to frames - 1.
            size: pixels, (height, width) or one number for both; None keeps the video's own. The
                aspect ratio is not kept. See `resize_frames`.

        Returns:
            uint8 [T, height, width, 3], RGB.

        Raises:
            ValueError: an index or size out of range, or a frame that cannot be decoded.
        """
        wanted = torch.as_tensor(indices, dtype=torch.int64).reshape(-1)
        height, width = self._pixels(size)
        out = torch.empty(len(wanted), height, width, 3, dtype=torch.uint8)
        unique, place = wanted.unique(return_inverse=True)
        for i, frame in enumerate(self.stream(unique.tolist(), (height, width))):
            out[place == i] = frame
        return out

    def stream(
        self, indices: Iterable[int], size: int | tuple[int, int] | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield frames one by one, as they are decoded: each uint8 [height, width, 3], RGB.

        Args:
            indices: ascending frame numbers, repeats allowed.
            size: as in `read`.

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
        for index in wanted:
            image = torch.from_numpy(self._rgb(self._find(index)))
            # a video may change its size on the way; every frame comes out in the first one's
            yield resize_frames(image, pixels)

    def _pixels(self, size: int | tuple[int, int] | None) -> tuple[int, int]:
        if size is None:
            return self.size
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise ValueError(f"size: expected at least 1 x 1 pixels, got {height} x {width}")
        return int(height), int(width)

    def _build(self) -> None:
        table = read_table(self._container, self._stream)
        self._open(threaded=False)
        if table is None:
            table = count_table(self._container, self._stream)
            self._open(threaded=False)
        first = None if table is None else self._first(table)
        if table is None or first is None:
            raise ValueError(f"{self.path}: no frame of this video can be decoded")
        if table.pts is not None:
            # the packets may promise frames at the start that the decoder cannot show
            table = cut_before(table, first.pts)
        self._table, self._shown = table, (0, first)
        self.frames, self.duration = len(table.seconds), table.duration
        self.seconds = torch.from_numpy(table.seconds)
        height, width = self._rgb(first).shape[:2]
        self.size = height, width
        # frames are told apart by counting only if none is lost, so not with threads
        self._threaded = table.pts is not None
        self._next = self.frames if self._threaded else 1

    def _first(self, table: FrameTable) -> Any:
        """The first frame of the table that can be decoded, None if there is none."""
        for frame in self._decoder:
            if table.pts is None:
                if not frame.is_corrupt:
                    return frame
            elif frame.pts is not None and frame.pts in table.pts:
                return frame
        return None

    def _find(self, index: int) -> Any:
        """Decode one frame, from where the decoder stands or from a key frame closer to it."""
        if self._container is None:
            raise ValueError(f"{self.path}: the reader is closed")
        if self._shown is not None and self._shown[0] == index:
            return self._shown[1]
        key = self._key_of(index)
        if self._next > index or self._place(key) > self._next:
            self._jump(key)
        frame = self._forward(index)
        if frame is None and self._threaded:
            self._threaded = False
            self._open(threaded=False)
            self._jump(key)
            frame = self._forward(index)
        back = 1
        # mpegts, for one, may land behind the key frame it is asked for: then start earlier
        while frame is None and not self._from_start:
            self._jump(key - back)
            frame = self._forward(index)
            back *= 4
        if frame is None:
            self._next = self.frames
            moment = float(self.seconds[index])
            raise ValueError(
                f"{self.path}: frame {index} at {moment:.2f} s is damaged and cannot be decoded"
            )
        self._shown, self._next = (index, frame), index + 1
        return frame

    def _key_of(self, index: int) -> int:
        """Which key frame to start from; below 1 means the start of the file."""
        if self._table.pts is None:
            return 0
        return int(np.searchsorted(self._table.keys, self._table.pts[index], side="right")) - 1

    def _place(self, key: int) -> int:
        """Index of the first frame that comes after starting at that key frame."""
        if key < 1 or self._table.pts is None:
            return 0
        return int(np.searchsorted(self._table.pts, self._table.keys[key]))

    def _forward(self, index: int) -> Any:
        """Decode up to the frame; None if it does not come."""
        pts = self._table.pts
        for frame in self._decoder:
            if pts is None:
                self._next += not frame.is_corrupt
                if self._next > index:
                    return frame
            elif frame.pts is not None and frame.pts >= pts[index]:
                return frame if frame.pts == pts[index] else None
        return None

    def _jump(self, key: int) -> None:
        """Set the decoder to the `key`-th key frame, or to the start of the file."""
        if key < 1:
            return self._open(self._threaded)
        start = int(self._table.keys[key])
        try:
            self._container.seek(start, stream=self._stream)
        except import_av().error.FFmpegError:
            return self._open(self._threaded)
        self._decoder = self._decode(start)
        self._next, self._from_start = self._place(key), False

    def _open(self, threaded: bool) -> None:
        """Set the decoder to the start of the file; opening again also works without seeking."""
        self._container.close()
        self._container, self._stream = open_video(self.path, threaded)
        self._decoder = self._decode(None)
        self._next, self._from_start = 0, True

    def _decode(self, start: int | None) -> Iterator[Any]:
        """Frames from here on; after a jump only if it landed at or before the time `start`."""
        for packet in packets(self._container, self._stream):
            if start is not None:
                # what comes before a key frame would be decoded from nothing
                if packet.size and not packet.is_keyframe:
                    continue
                if packet.pts is None or packet.pts > start:
                    return
                start = None
            yield from decoded(self._stream, packet)

    def _rgb(self, frame: Any) -> np.ndarray:
        """Upright uint8 [H, W, 3]."""
        if self._converter is None:
            # kept: a new one for each frame took 1 to 4 ms, more than small frames' decoding
            self._converter = import_av().video.reformatter.VideoReformatter()
        pixels = self._converter.reformat(frame, format="rgb24").to_ndarray()
        matrix = frame.side_data.get("DISPLAYMATRIX")
        return upright(pixels, None if matrix is None else bytes(matrix))
