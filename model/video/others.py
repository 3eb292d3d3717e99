"""The same frames from other packages: OpenCV, decord and torchcodec."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
import torch

from .base import Video, check_pixels, even_rate
from .resize import resize_frames
from .table import check_file

COUNTED = {".mp4", ".m4v", ".mov"}
FAR = 300  # frames: seeking decodes from the key frame before, and groups of 250 are usual


def required(name: str, install: str) -> Any:
    """The module `name`, imported when it is first needed.

    Raises:
        ModuleNotFoundError: it is not there, or its libraries are not; says what to install.
    """
    try:
        return import_module(name)
    except (ImportError, OSError, RuntimeError) as error:
        package, reason = name.split(".")[0], str(error).strip().split("\n")[0]
        raise ModuleNotFoundError(
            f"reading videos with {package} needs it: pip install {install} ({reason})",
            name=package,
        ) from error


class Other(Video):
    """A reader that numbers frames itself; times are even unless the package tells them.

    Args:
        path: a video file.
        threads: how many decode at once; None leaves it to the package.

    Raises:
        FileNotFoundError, PermissionError, ValueError: as `VideoReader`.
        ModuleNotFoundError: the package is not installed.
    """

    _errors: tuple[type[Exception], ...] = (RuntimeError, IndexError, TypeError)

    def __init__(self, path: str | os.PathLike[str], threads: int | None = None) -> None:
        super().__init__(path)
        self._source: Any = None
        self._import()
        check_file(self.path)
        try:
            self._source = self._open(str(self.path.absolute()), threads or 0)
            self._describe()
        except self._errors as error:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"{self.path}: not a video, or damaged ({reason})") from error

    def _import(self) -> None:
        raise NotImplementedError

    def _open(self, path: str, threads: int) -> Any:
        raise NotImplementedError

    def _describe(self) -> None:
        raise NotImplementedError

    def _pixels_of(self, index: int) -> np.ndarray:
        """Upright uint8 [H, W, 3] in RGB; raises one of `_errors` if it cannot."""
        raise NotImplementedError

    def _measure(self, frames: int, fps: float, seconds: np.ndarray | None = None) -> None:
        """What is known of the video; the size is that of its first frame."""
        if frames < 1 or not 0 < fps < float("inf"):
            raise ValueError(f"{self.path}: no frame of this video can be decoded")
        times = np.arange(frames) / fps if seconds is None else seconds - seconds[0]
        self.frames, self.fps, self.seconds = frames, fps, torch.from_numpy(times)
        self.duration = frames / fps
        height, width = self._pixels_of(0).shape[:2]
        self.size = height, width

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        self._source = None

    def _load(self, indices: list[int], pixels: tuple[int, int]) -> Iterator[torch.Tensor]:
        for index in indices:
            if self._source is None:
                raise ValueError(f"{self.path}: the reader is closed")
            try:
                frame = torch.from_numpy(self._pixels_of(index))
            except self._errors as error:
                raise ValueError(
                    f"{self.path}: frame {index} is damaged and cannot be decoded"
                ) from error
            yield resize_frames(frame, pixels)


class OpenCVReader(Other):
    """Reads with OpenCV: every frame from the start, or where seeking provably lands right.

    It tells no key frames and no times, so that frames of a variable rate are right and their
    seconds are not.
    """

    def _import(self) -> None:
        self._cv = required("cv2", "opencv-python-headless")

    def _open(self, path: str, threads: int) -> Any:
        options = [self._cv.CAP_PROP_N_THREADS, threads] if threads else []
        source = self._cv.VideoCapture(path, self._cv.CAP_FFMPEG, options)
        if not source.isOpened():
            raise ValueError(f"{self.path}: not a video, or damaged, or without pictures")
        self._next, self._seeks, self._threads = 0, True, threads
        return source

    def _describe(self) -> None:
        tell, cv = self._source.get, self._cv
        fps = tell(cv.CAP_PROP_FPS)
        check_pixels(
            self.path, int(tell(cv.CAP_PROP_FRAME_HEIGHT)), int(tell(cv.CAP_PROP_FRAME_WIDTH))
        )
        self.fps, frames = fps, int(tell(cv.CAP_PROP_FRAME_COUNT))
        if not fps > 0 or not self._counted(frames):
            self._restart()
            frames = 0
            while self._source.grab():
                frames += 1
        self._restart()
        self._measure(frames, fps)

    def _counted(self, frames: int) -> bool:
        """Whether the container's count holds; some guess it from the duration."""
        if frames < 1:
            return False
        lands = self._seek(frames - 1)
        if self.path.suffix.lower() in COUNTED:
            return self._next == frames
        return lands and not self._source.grab()

    def _restart(self) -> None:
        self._source = self._open(str(self.path.absolute()), self._threads)

    def _seek(self, index: int) -> bool:
        """Go to the frame and take it; whether its time is the frame's."""
        self._source.set(self._cv.CAP_PROP_POS_FRAMES, index)
        if not self._source.grab():
            return False
        moment = self._source.get(self._cv.CAP_PROP_POS_MSEC) / 1000
        self._next = index + 1
        return abs(moment - index / self.fps) < 0.4 / self.fps

    def _pixels_of(self, index: int) -> np.ndarray:
        if index < self._next or index - self._next > FAR:
            if not (self._seeks and self._seek(index)):
                self._restart()
                self._seeks = False
        while self._next <= index:
            if not self._source.grab():
                raise IndexError(index)
            self._next += 1
        found, frame = self._source.retrieve()
        if not found:
            raise IndexError(index)
        return self._cv.cvtColor(frame, self._cv.COLOR_BGR2RGB)

    def close(self) -> None:
        """Close the file; reading afterwards raises ValueError."""
        if self._source is not None:
            self._source.release()
        super().close()


class DecordReader(Other):
    """Reads with decord, which knows key frames and times, but neither AV1 nor GIF."""

    def _import(self) -> None:
        self._decord = required("decord", "decord")
        self._errors = (*self._errors, self._decord.DECORDError)

    def _open(self, path: str, threads: int) -> Any:
        return self._decord.VideoReader(path, num_threads=threads)

    def _describe(self) -> None:
        frames, rate = len(self._source), self._source.get_avg_fps()
        spans = np.asarray(self._source.get_frame_timestamp(range(frames)), np.float64)
        seconds = spans[:, 0] - spans[:1, 0]
        fps = even_rate([rate], seconds, float(spans[-1, 1] - spans[0, 0]))
        self._measure(frames, fps, seconds)

    def _keys(self) -> np.ndarray:
        return np.asarray(self._source.get_key_indices(), np.int64)

    def _pixels_of(self, index: int) -> np.ndarray:
        frame = self._source[index]
        return frame.asnumpy() if hasattr(frame, "asnumpy") else np.asarray(frame)


class TorchcodecReader(Other):
    """Reads with torchcodec, which knows key frames, but tells times only with the frames."""

    def _import(self) -> None:
        self._decoders = required("torchcodec.decoders", "torchcodec")

    def _open(self, path: str, threads: int) -> Any:
        return self._decoders.VideoDecoder(
            path, dimension_order="NHWC", num_ffmpeg_threads=threads, seek_mode="exact"
        )

    def _describe(self) -> None:
        facts = self._source.metadata
        check_pixels(self.path, facts.height or 0, facts.width or 0)
        frames, fps = facts.num_frames or 0, facts.average_fps or 0.0
        stated = facts.average_fps_from_header or 0.0
        # the stated rate is exact, where the mean of the times is off in the last digits
        self._measure(frames, stated if abs(stated - fps) * frames < 0.5 * fps else fps)

    def _keys(self) -> np.ndarray:
        return np.asarray(self._source._get_key_frame_indices(), np.int64)

    def _pixels_of(self, index: int) -> np.ndarray:
        return self._source.get_frame_at(index).data.numpy()
