"""A file, a folder or frames in memory to visual tokens, with what reading and encoding took."""

import os
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from hico.model.stats import Stage, measured
from hico.model.video import Video, is_image, open_video, read_image, resize_frames
from hico.ops import _check

MIN_FRAMES = 64
Encoded = tuple[Tensor, str | None, list[Stage]]


def is_picture(video: Any) -> bool:
    """Whether it is one image: a file, or pixels [H, W, 3]."""
    return video.ndim == 3 if isinstance(video, Tensor) else is_image(video)


def encoded_image(model: Any, image: Any) -> Encoded:
    """The tokens of an image and of its tiles."""
    with measured("reading", "cpu") as reading:
        pixels = image if isinstance(image, Tensor) else read_image(image)
        reading.tokens = 1
    with measured("encoding", model.device) as encoding:
        (visual,) = model.encode_images([pixels])
        encoding.tokens = len(visual)
    return visual, None, [reading, encoding]


def encode(
    model: Any, processor: Any, video: Any, frames: int, progress: bool, **options: Any
) -> Encoded:
    """The tokens of a video's frames, encoded as they arrive."""
    clip, size = model.encoder.num_frames, model.encoder.image_size
    _check.integer("frames", frames, clip, 1 << 31)
    frames -= frames % clip
    if isinstance(video, Tensor):
        count = len(video) - len(video) % clip
        pictures: Iterator[Tensor] = (resize_frames(f, (size, size)) for f in video[:count])
        seconds = torch.arange(count, dtype=torch.float64)
        return _encode(model, processor, pictures, seconds, float(len(video)), progress)
    keyframes = options.pop("keyframes")
    _check.one_of("keyframes", keyframes, ("exact", "snap"))
    with open_video(os.fspath(video), **options) as opened:
        chosen = frames_of(model, opened, frames)
        chosen = opened.snapped(chosen) if keyframes == "snap" else chosen
        seconds = opened.seconds[chosen]
        pictures = opened.stream(chosen.tolist(), size)
        return _encode(model, processor, pictures, seconds, opened.duration, progress)


def frames_of(model: Any, video: Video, frames: int) -> Tensor:
    """Which frames of a video a model is shown, at most so many: int64 [T]."""
    least = min(MIN_FRAMES, frames)
    if (mode := model.config.video_sampling) == "each_second":
        clip = model.encoder.num_frames
        return video.choose(least, frames, clip, mode)
    return video.choose(least, frames, mode=mode)


def _encode(
    model: Any,
    processor: Any,
    pictures: Iterable[Tensor],
    seconds: Tensor,
    duration: float,
    progress: bool,
) -> Encoded:
    reading = Stage("reading", tokens=len(seconds))
    look = {"unit": "frame", "leave": False, "disable": not progress}
    with (
        measured("encoding", model.device) as encoding,
        tqdm(None, "encoding", len(seconds), **look) as bar,
    ):
        visual = model.encode_video(_timed(pictures, reading), progress=bar.update)
    encoding.seconds -= reading.seconds
    encoding.tokens, reading.peak = len(visual), encoding.peak
    return visual, processor.time_message(duration, seconds), [reading, encoding]


def _timed(pictures: Iterable[Tensor], stage: Stage) -> Iterator[Tensor]:
    """The same pictures; what waiting for them takes is added to the stage."""
    rest = iter(pictures)
    while True:
        start = time.perf_counter()
        picture = next(rest, None)
        stage.seconds += time.perf_counter() - start
        if picture is None:
            return
        yield picture
