"""Opening whatever a user calls a video, and reading the frames that the model looks at."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from .base import Video
from .others import DecordReader, OpenCVReader, TorchcodecReader
from .pictures import PictureFolder
from .reader import VideoReader

# the order in which "auto" tries them
BACKENDS: dict[str, Callable[[Path, int | None], Video]] = {
    "av": VideoReader,
    "torchcodec": TorchcodecReader,
    "decord": DecordReader,
    "opencv": OpenCVReader,
}


def open_video(
    path: str | os.PathLike[str],
    backend: str = "auto",
    start: float | None = None,
    end: float | None = None,
    threads: int | None = None,
) -> Video:
    """Open a video file, or the clip [start, end] of it.

    Args:
        path: a video or GIF file, or a folder of JPEG and PNG files.
        backend: "av" (PyAV: by far the fastest, and right on the most files), "torchcodec",
            "decord", "opencv", or "auto" for the first of them that is installed. Full-size frames
            agree up to the rounding of colours, and resizing is the same for all.
        start, end: seconds; see `Video.cut`.
        threads: how many decode at once; None for one a CPU, at most 8.

    Returns:
        The open `Video`, to be used as a context manager. GIFs and folders count one frame a
        second, as published, whatever their own times: see `PictureFolder`.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: no video, nothing in it that can be decoded, an empty or reversed clip, or an
            unknown backend.
        ModuleNotFoundError: no backend, or not the one asked for, is installed.

    Example:
        with open_video("film.mp4", start=60, end=90) as video:
            indices = frame_indices(video.frames, video.fps)
            for frame in video.stream(indices, size=224):  # uint8 [224, 224, 3]
                ...
    """
    if threads is not None and threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    video = _reader(Path(path), backend, threads)
    try:
        if Path(path).suffix.lower() == ".gif":
            video.fps, video.duration = 1.0, float(video.frames)
            video.seconds = torch.arange(video.frames, dtype=torch.float64)
        video.cut(start, end)
    except BaseException:
        video.close()
        raise
    return video


def _reader(path: Path, backend: str, threads: int | None) -> Video:
    if path.is_dir():
        return PictureFolder(path)
    if backend in BACKENDS:
        return BACKENDS[backend](path, threads)
    if backend != "auto":
        names = ", ".join(repr(name) for name in ("auto", *BACKENDS))
        raise ValueError(f"backend: expected one of {names}, got {backend!r}")
    for make in BACKENDS.values():
        with suppress(ModuleNotFoundError):
            return make(path, threads)
    raise ModuleNotFoundError(
        "reading videos needs PyAV: pip install av (or torchcodec, decord, opencv-python-headless)",
        name="av",
    )


@dataclass(frozen=True)
class Clip:
    """What the model sees of a video.

    Attributes:
        frames: uint8 [T, S, S, 3], RGB.
        indices: int64 [T], their numbers in the whole video.
        seconds: float64 [T], when each appears, from the clip's start.
        duration: seconds that the clip lasts.
        fps: frames a second of the video.
    """

    frames: torch.Tensor
    indices: torch.Tensor
    seconds: torch.Tensor
    duration: float
    fps: float


def read_clip(
    path: str | os.PathLike[str],
    max_frames: int = 512,
    min_frames: int = 64,
    size: int | tuple[int, int] = 224,
    start: float | None = None,
    end: float | None = None,
    keyframes: str = "exact",
    backend: str = "auto",
    progress: bool = False,
) -> Clip:
    """Read the frames `frame_indices(frames, fps, min_frames, max_frames)` of a video.

    Args:
        path, start, end, backend: see `open_video`.
        max_frames, min_frames: see `frame_indices`; the minimum wins.
        size: pixels, (height, width) or one number for both.
        keyframes: "exact", or "snap" for every frame's nearest key frame: many times faster where
            few frames of a long video are wanted. See `Video.snapped`.
        progress: show a bar on stderr.

    Raises:
        ValueError, OSError, ModuleNotFoundError: as `open_video`, and for a damaged frame.
    """
    with open_video(path, backend, start, end) as video:
        chosen = video.choose(min_frames, max_frames)
        if keyframes == "snap":
            chosen = video.snapped(chosen)
        frames = watched(video.stream(chosen.tolist(), size), len(chosen), progress)
        return Clip(
            torch.stack(list(frames)),
            chosen + video.first,
            video.seconds[chosen],
            video.duration,
            video.fps,
        )


def watched(
    frames: Iterator[torch.Tensor], total: int, progress: bool = True
) -> Iterator[torch.Tensor]:
    """The same frames, with a bar on stderr that counts them."""
    yield from tqdm(frames, "reading", total, unit="frame", leave=False, disable=not progress)
