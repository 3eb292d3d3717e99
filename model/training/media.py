"""What a row shows, as pixels: the frames that training takes of a video, the tiles of images."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from hico.model._pixels import normalize
from hico.model.processing import VideoChatFlashProcessor
from hico.model.training.annotations import Row
from hico.model.training.templates import TEMPLATES
from hico.model.video import Video, open_video, read_image, resize_frames
from hico.model.video.pictures import PictureFolder
from hico.model.video.sampling import MODES
from hico.model.vision import image_tiles, square_image, tile_grid
from hico.ops import _check

FOLDERS = ("img", "frame")
MOST = 1 << 31


@dataclass(frozen=True)
class DataOptions:
    """How rows become samples; the defaults are those of the published stage 3.

    Attributes:
        template: "qwen_2" or "plain".
        min_frames, max_frames, sampling, local: as in hico.model.video.frame_indices, sampling
            being its mode and local the frames of a clip. Of a row that is `whole` all are taken.
        time_message: "short" or "list", None = none.
        image_mode: what is done with the only image of a row: "anyres" = tiles, "square" = one.
        max_length: tokens of a sample, visual ones counted; what is beyond is cut off.
        short: what is done with a video of fewer frames than a clip: "raise", or "repeat" its last
            frame, as published.
        backend: as in hico.model.video.open_video.

    Raises:
        ValueError: values that do not fit.
    """

    template: str = "qwen_2"
    min_frames: int = 64
    max_frames: int = 512
    sampling: str = "dynamic_fps1"
    local: int = 4
    time_message: str | None = "short"
    image_mode: str = "anyres"
    max_length: int = 32768
    short: str = "raise"
    backend: str = "auto"

    def __post_init__(self) -> None:
        _check.one_of("template", self.template, TEMPLATES)
        _check.one_of("sampling", self.sampling, MODES)
        _check.one_of("time_message", self.time_message, (None, "short", "list"))
        _check.one_of("image_mode", self.image_mode, ("anyres", "square"))
        _check.one_of("short", self.short, ("raise", "repeat"))
        for name in ("local", "min_frames", "max_length"):
            _check.integer(name, getattr(self, name), 1, MOST)
        _check.integer("max_frames", self.max_frames, self.local, MOST)
        for name in ("min_frames", "max_frames"):
            count = getattr(self, name)
            # the published minimum of 1 is below any clip
            if count > self.local and count % self.local:
                raise ValueError(f"{name}: expected a multiple of local {self.local}, got {count}")


def chosen(video: Video, options: DataOptions, whole: bool = False) -> Tensor:
    """The frames that training takes: int64 [T], T a multiple of options.local.

    Args:
        whole: all frames, the last one repeated to fill its clip.

    Raises:
        ValueError: the video is shorter than a clip.
    """
    local = options.local
    if video.frames < local and options.short == "raise":
        raise ValueError(
            f"{video.path}: expected at least {local} frames, one clip, got {video.frames} "
            "(short='repeat' repeats the last one)"
        )
    if whole:
        return torch.arange(-(-video.frames // local) * local).clamp(max=video.frames - 1)
    return video.choose(options.min_frames, options.max_frames, local, options.sampling)


def read_video(row: Row, options: DataOptions, size: int, seed: int) -> tuple[Tensor, str | None]:
    """Pixels float32 [T, 3, size, size] of a row's video, and its time message.

    Args:
        row: with a video.
        options: which frames.
        size: pixels of a side.
        seed: of the frames of the reader "fake".

    Raises:
        OSError, ValueError: as open_video, damaged frames, another kind of file than row.reader
            says, or a video shorter than a clip.
        ModuleNotFoundError: no backend is installed.
    """
    with _opened(row, options.backend) as video:
        indices = chosen(video, options, row.whole)
        frames = (
            video.stream(indices.tolist(), size) if row.reader != "fake" else _noise(size, seed)
        )
        pixels = torch.empty(len(indices), 3, size, size)
        # one by one: of hundreds of large frames nothing else is in memory
        for place, frame in zip(pixels, frames, strict=False):
            place.copy_(normalize(frame))
        message = None
        if options.time_message is not None:
            moments = video.seconds[indices]
            message = VideoChatFlashProcessor.time_message(
                video.duration, moments, options.time_message
            )
    return pixels, message


def _noise(size: int, seed: int) -> Iterator[Tensor]:
    """Random frames without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(0, 256, (size, size, 3), generator=generator, dtype=torch.uint8)


def _opened(row: Row, backend: str) -> Video:
    """The row's part of its video."""
    assert row.video is not None
    if row.reader == "fake":
        return FAKE.part(row)
    # processes that load data side by side leave no CPU for threads
    threads = None if get_worker_info() is None else 1
    video = open_video(row.video, backend, row.start, row.end, threads)
    try:
        check_kind(row, isinstance(video, PictureFolder))
    except ValueError:
        video.close()
        raise
    return video


def check_kind(row: Row, folder: bool) -> None:
    """Refuse a file where row.reader says folder, and the other way round.

    Raises:
        ValueError: it is the other.
    """
    if row.reader is not None and folder != (row.reader in FOLDERS):
        kind = "a folder of pictures" if row.reader in FOLDERS else "a file"
        raise ValueError(f"{row.video}: expected {kind} for video_read_type {row.reader!r}")


def read_images(
    row: Row, options: DataOptions, size: int
) -> list[tuple[Tensor, tuple[int, int] | None]]:
    """Pixels float32 [n, 3, size, size] and grid of each image of a row.

    Several images are each padded to a square, as published. An only one is cut into tiles, behind
    the whole of it, or resized to a square; where one tile is all, it is not given twice.

    Raises:
        OSError, ValueError, ModuleNotFoundError: as read_image.
    """
    images = [read_image(path) for path in row.images]
    if len(images) > 1:
        return [(normalize(square_image(image, size))[None], None) for image in images]
    height, width = images[0].shape[:2]
    grid = tile_grid(height, width, size)
    if options.image_mode == "square" or grid == (1, 1):
        return [(normalize(resize_frames(images[0], (size, size)))[None], None)]
    return [(normalize(image_tiles(images[0], size)), grid)]


def tile_count(height: int, width: int, options: DataOptions, size: int) -> int:
    """How many tiles read_images makes of an only image."""
    rows, columns = tile_grid(height, width, size)
    return 1 if options.image_mode == "square" or rows * columns == 1 else 1 + rows * columns


@dataclass(frozen=True)
class Facts:
    """What is known of a video without its frames.

    Attributes:
        frames: how many there are, about.
        fps: frames a second.
        duration: seconds.
        folder: it is a folder of pictures.
    """

    frames: int
    fps: float
    duration: float
    folder: bool = False

    def part(self, row: Row) -> Video:
        """The row's part of it, of which no frame can be read.

        Raises:
            ValueError: an empty part.
        """
        assert row.video is not None
        video = _KnownFolder(row.video) if self.folder else Video(row.video)
        video.frames, video.fps, video.duration = self.frames, self.fps, self.duration
        video.seconds = torch.arange(self.frames, dtype=torch.float64) / self.fps
        video.cut(row.start, row.end)
        return video


# of the published reader "fake"
FAKE = Facts(frames=100, fps=1.0, duration=100.0)


class _KnownFolder(PictureFolder):
    def __init__(self, path: str) -> None:
        Video.__init__(self, path)
        self._is_clip = False
