"""Frames of a video file one after the other, from damaged and odd files too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .resize import Turn, resize_frames, upright
from .table import (
    FrameTable,
    count_table,
    cut_before,
    decoded,
    import_av,
    open_file,
    packets,
    read_table,
)

# degrees counterclockwise
QUARTERS = {90: (0, -1, 1, 0), 180: (-1, 0, 0, -1), 270: (0, 1, -1, 0)}


class Careful:
    """One container and one decoder, which is moved as little as the wanted frames allow.

    AVI files and bare H.264 and HEVC streams hold no reliable times: they are decoded once to be
    counted, and always read from the start.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shown: tuple[int, Any] | None = None
        self._decoder: Iterator[Any] = iter(())
        self._container, self._stream = open_file(path)
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
        self._container, self._decoder, self._shown = None, iter(()), None

    def check_open(self) -> None:
        """Refuse to go on with a closed file."""
        if self._container is None:
            raise ValueError(f"{self.path}: the reader is closed")

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
            table = replace(cut_before(table, first.pts), interlaced=first.interlaced_frame)
        self.table, self._shown, self.first = table, (0, first), first
        # frames are told apart by counting only if none is lost, so not with threads
        self._threaded = table.pts is not None
        self._next = len(table.seconds) if self._threaded else 1

    def _first(self, table: FrameTable) -> Any:
        """The first frame of the table that can be decoded, None if there is none."""
        for frame in self._decoder:
            if table.pts is None:
                if not frame.is_corrupt:
                    return frame
            elif frame.pts is not None and frame.pts in table.pts:
                return frame
        return None

    def find(self, index: int) -> Any:
        """Decode one frame, from where the decoder stands or from a key frame closer to it.

        Raises:
            ValueError: it is damaged and cannot be decoded.
        """
        self.check_open()
        if self._shown is not None and self._shown[0] == index:
            return self._shown[1]
        key = self.table.key_of(index)
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
            self._next = len(self.table.seconds)
            moment = float(self.table.seconds[index])
            raise ValueError(
                f"{self.path}: frame {index} at {moment:.2f} s is damaged and cannot be decoded"
            )
        self._shown, self._next = (index, frame), index + 1
        return frame

    def _place(self, key: int) -> int:
        """Index of the first frame that comes after starting at that key frame."""
        if key < 1 or self.table.pts is None:
            return 0
        return int(np.searchsorted(self.table.pts, self.table.keys[key]))

    def _forward(self, index: int) -> Any:
        """Decode up to the frame; None if it does not come."""
        pts = self.table.pts
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
        start = int(self.table.keys[key])
        try:
            self._container.seek(start, stream=self._stream)
        except import_av().error.FFmpegError:
            return self._open(self._threaded)
        self._decoder = self._decode(start)
        self._next, self._from_start = self._place(key), False

    def _open(self, threaded: bool) -> None:
        """Set the decoder to the start of the file; opening again also works without seeking."""
        self._container.close()
        self._container, self._stream = open_file(self.path, 0 if threaded else 1)
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


class Painter:
    """Turns decoded frames into pixels; one a thread."""

    def __init__(self) -> None:
        # kept: a new one for each frame took 1 to 4 ms, more than small frames' decoding
        self._converter = import_av().video.reformatter.VideoReformatter()

    def rgb(self, frame: Any, turn: Turn | None = None) -> np.ndarray:
        """Upright uint8 [H, W, 3]; `turn` says how if the frame does not."""
        pixels = self._converter.reformat(frame, format="rgb24").to_ndarray()
        return upright(pixels, turn or turn_of(frame))

    def paint(self, frame: Any, pixels: tuple[int, int]) -> torch.Tensor:
        """Upright uint8 [*pixels, 3]; a video may change its size on the way."""
        return resize_frames(torch.from_numpy(self.rgb(frame)), pixels)


def turn_of(frame: Any) -> Turn | None:
    """How a decoded frame is to be turned."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:
        # a kind of side data that PyAV 18.1 cannot name (EXIF) hides them all
        return QUARTERS.get(round(frame.rotation) % 360)
    if matrix is None:
        return None
    a, b, _, c, d = (int(v) for v in np.frombuffer(bytes(matrix), np.int32)[:5])
    return a, b, c, d
