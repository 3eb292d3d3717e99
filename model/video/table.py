"""When every frame of a video is shown, and where decoding can start: found by one demux."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .base import MOST_PIXELS, check_pixels

# they store no presentation times, or (AVI) times that are wrong once frames are reordered
UNTIMED_FORMATS = {"avi", "h264", "hevc", "m4v", "mpegvideo", "obu", "vvc"}
# "video" decoders that draw characters: without this a text file would be a video
TEXT_CODECS = {"ansi", "bintext", "idf", "xbin"}


@dataclass(frozen=True)
class FrameTable:
    """The displayed frames of one stream, in the order in which they are shown.

    Attributes:
        pts: int64 [frames], ascending presentation times in the stream's time base. None where the
            file stores none that can be trusted: such frames are told apart by counting from the
            first one.
        seconds: float64 [frames], each frame's time after the first frame.
        keys: int64, ascending times, in the same unit, of the pictures where decoding can start;
            empty without `pts`. An edit list may hide the first of them.
        duration: seconds from the first frame's start to the last frame's end.
        rates: frames a second as the file states them, most trusted first; may be wrong.
        interlaced: the first frame consists of two fields.
    """

    pts: np.ndarray | None
    seconds: np.ndarray
    keys: np.ndarray
    duration: float
    rates: tuple[Any, ...] = ()
    interlaced: bool = False

    def key_of(self, index: int) -> int:
        """Which key frame to start from; below 1 means the start of the file."""
        if self.pts is None:
            return 0
        return int(np.searchsorted(self.keys, self.pts[index], side="right")) - 1

    def key_indices(self) -> np.ndarray:
        """Numbers of the frames that decode alone: int64, ascending."""
        if self.pts is None:
            return np.zeros(0, np.int64)
        return np.flatnonzero(np.isin(self.pts, self.keys))


def import_av() -> Any:
    """PyAV, imported when the first video is opened.

    Raises:
        ModuleNotFoundError: it is not installed; the message says what to install.
    """
    try:
        import av
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("reading videos needs PyAV: pip install av", name="av") from error
    return av


def check_file(path: Path) -> None:
    """Refuse what cannot be a video.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: a directory, a device or a pipe, or an empty file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: expected a video file, this is a directory")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: expected a video file, this is a device or a pipe")
    with open(path, "rb") as file:
        if not file.read(1):
            raise ValueError(f"{path}: the file is empty")


def open_file(path: Path, threads: int = 0) -> tuple[Any, Any]:
    """Open a file and choose its main video stream: (container, stream).

    Threads (0: as many as the decoder likes) decode faster but, in a damaged file, may lose good
    frames around a bad one.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: a directory, an empty file, not a video, no pictures in it, or too large ones.
    """
    av = import_av()
    check_file(path)
    try:
        # the absolute path keeps a name like "concat:a" a name; the whitelist keeps a playlist
        # that poses as a video away from the network. Not options=: these are also given to the
        # streams, and PyAV 15.1 crashes where a file (flv) shows its streams late
        container = av.open(
            str(path.absolute()),
            container_options={"protocol_whitelist": "file"},
            metadata_errors="replace",
        )
    except av.error.FFmpegError as error:
        raise ValueError(f"{path}: not a video, or damaged ({error.strerror})") from error
    stream = container.streams.best("video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        container.close()
        raise ValueError(f"{path}: there is no video in this file (only sound or other data)")
    if stream.codec_context is None or stream.codec_context.name in TEXT_CODECS:
        container.close()
        raise ValueError(f"{path}: not a video, or of a kind that this PyAV cannot decode")
    try:
        check_pixels(path, stream.height, stream.width)
    except ValueError:
        container.close()
        raise
    # the decoder refuses a later, larger picture itself
    stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}
    stream.thread_type = "NONE" if threads == 1 else "AUTO"
    stream.codec_context.thread_count = threads
    return container, stream


def packets(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's packets up to the file's end, or to where it is damaged; the last is empty."""
    av = import_av()
    try:
        for packet in container.demux(stream):
            # an empty packet in the middle (a dropped frame in AVI) would end the decoder's work
            if packet.size or packet.dts is None:
                yield packet
    except (av.error.FFmpegError, IndexError):
        # PyAV raises IndexError at the end of a file whose damage has made up more streams
        yield av.Packet()


def decoded(stream: Any, packet: Any) -> list[Any]:
    """Frames that come out when the packet goes in; none if it is damaged."""
    av = import_av()
    try:
        # a packet that belongs to no stream stands for the end of one: see packets()
        return stream.decode(packet if packet.size else None)
    except av.error.FFmpegError:
        return []


def read_table(container: Any, stream: Any) -> FrameTable | None:
    """Find the displayed frames from the packets alone; None if only decoding can tell.

    Left out, because no player shows them: what an edit list cuts off, packets that hold no
    picture of their own, and what comes before the first key frame.
    """
    if set(container.format.name.split(",")) & UNTIMED_FORMATS:
        return None
    shown: dict[int, int] = {}
    keys = []
    for packet in packets(container, stream):
        if not packet.size or packet.is_corrupt or _hidden(stream, packet):
            continue
        if packet.pts is None:
            return None
        if packet.is_keyframe:
            keys.append(packet.pts)
        if keys and packet.pts >= keys[0] and not packet.is_discard:
            shown[packet.pts] = packet.duration or 0
    if not shown:
        return None
    pts = np.array(sorted(shown), np.int64)
    return _table(pts, stream, np.unique(keys), shown[int(pts[-1])])


def count_table(container: Any, stream: Any) -> FrameTable | None:
    """Find the displayed frames by decoding them all; None if nothing decodes."""
    times = [
        frame.pts
        for packet in packets(container, stream)
        for frame in decoded(stream, packet)
        if not frame.is_corrupt
    ]
    if not times:
        return None
    # a container without usable times still stores the right ones, in the order of decoding
    timed = None not in times and len(set(times)) == len(times)
    count, no_keys = len(times), np.zeros(0, np.int64)
    if timed:
        table = _table(np.sort(np.array(times, np.int64)), stream, no_keys, 0)
        return replace(table, pts=None)
    step = 1 / float(stream.average_rate or 25)
    rates = (stream.average_rate,)
    return FrameTable(None, np.arange(count) * step, no_keys, count * step, rates)


def cut_before(table: FrameTable, pts: int) -> FrameTable:
    """The table without the frames before `pts`, for a decoder that cannot show them."""
    assert table.pts is not None
    start = int(np.searchsorted(table.pts, pts))
    seconds = table.seconds[start:] - table.seconds[start]
    duration = table.duration - float(table.seconds[start])
    return replace(table, pts=table.pts[start:], seconds=seconds, duration=duration)


def _table(pts: np.ndarray, stream: Any, keys: np.ndarray, last: int) -> FrameTable:
    """`last` is how long the last frame is shown, 0 if unknown: then the median of the others."""
    unit = float(stream.time_base)
    seconds = (pts - pts[0]) * unit
    if last > 0:
        tail = last * unit
    elif len(pts) > 1:
        tail = float(np.median(np.diff(seconds)))
    else:
        tail = 1 / float(stream.average_rate or 25)
    rates = (stream.average_rate, stream.guessed_rate, stream.base_rate)
    return FrameTable(pts, seconds, keys, float(seconds[-1]) + tail, rates)


def _hidden(stream: Any, packet: Any) -> bool:
    """Whether a VP8 packet only feeds later ones: bit 4 of its first byte says "show"."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] >> 4 & 1
