"""Real videos as haystacks: endless shots cut, moved, flipped and lit differently."""

from __future__ import annotations

import copy
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import get_worker_info

from ...video import Video, open_video
from .fonts import check_split
from .hashing import Draws, held_out, mix
from .natural import check_frames, finish_look
from .noise import white_tile
from .painting import axes, finish

SHIPPED = Path(__file__).parents[2] / "data" / "demo.mp4"
SUFFIXES = {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".ts"}
SHOT = 40  # frames
READ = 32  # frames at a time, as many as are in memory while they are cut
OPEN = 8  # videos at a time
FINER = 1.4  # a video is read with so many pixels for one of a frame


class VideoHaystack:
    """Shots of 40 frames out of videos, each at its own place, speed, crop, side and light.

    Endless: a frame of a video that comes again is cut, moved and lit differently.

    Args:
        videos: a folder, searched with all below it, or files; None for the one that ships.
        seed: another seed, other shots.
        split: "train" and "test" have no video in common (see `split_files`); "all" has all.
        backend: see `open_video`.
        memory: bytes of decoded frames to keep.

    Attributes:
        name: "video-" and the seed.
        files: the part's videos, by name.

    Raises:
        FileNotFoundError: no such folder or file.
        ValueError: no video in the folder or in this part of it; later, a file that is no video.

    Example:
        hay = VideoHaystack("clips", seed=1, split="train")
        frames = hay.frames(torch.arange(64), 224)  # uint8 [64, 224, 224, 3]
    """

    def __init__(
        self,
        videos: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
        seed: int,
        split: str = "all",
        backend: str = "auto",
        memory: int = 2**28,
    ) -> None:
        self.seed, self.name = seed, f"video-{seed}"
        self.files = split_files(_listed(SHIPPED if videos is None else videos), split)
        self._backend, self._memory = backend, memory
        self._facts: dict[Path, tuple[int, tuple[int, int]]] = {}
        self._kept: OrderedDict[tuple[Path, int, int], torch.Tensor] = OrderedDict()
        self._opened: dict[int, OrderedDict[Path, Video]] = {}

    def seeded(self, seed: int) -> VideoHaystack:
        """Other shots of the same videos; both share what is open and what is read."""
        other = copy.copy(self)
        other.seed, other.name = seed, f"video-{seed}"
        return other

    def frames(
        self, indices: torch.Tensor, size: int = 224, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """Cut frames: uint8 [n, size, size, 3], the same for an index whatever else is asked.

        Args:
            indices: int64 [n], from 0.
            size: pixels of a frame's side.
            device: where to cut and light; devices differ by a grey level or two.

        Raises:
            ValueError: indices of another shape or type, negative ones, a size below 1, or a file
                that cannot be decoded.
        """
        check_frames(indices, size)
        device = torch.device(device)
        number = indices.cpu().numpy()
        shots = mix(self.seed, number // SHOT, 11).view(np.int64)
        chosen = Draws(shots).pick("file", len(self.files))
        done = torch.zeros(len(number), size, size, 3, dtype=torch.uint8, device=device)
        for file in np.unique(chosen):
            rows = np.flatnonzero(chosen == file)
            for begin in range(0, len(rows), READ):
                some = rows[begin : begin + READ]
                source = self._source(self.files[file], shots[some], number[some] % SHOT)
                image = self._cut(self.files[file], source, shots[some], number[some], size, device)
                done[torch.from_numpy(some).to(device)] = image
        return done

    def _source(self, path: Path, shots: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Which frames of the video are wanted: back and forth where it is shorter than a shot."""
        if path not in self._facts:
            video = self._open(path)
            self._facts[path] = video.frames, video.size
        count = self._facts[path][0]
        draw = Draws(shots)
        way = draw("start", 0, count) + time * draw("speed", 0.5, 3.0)
        there = way.astype(np.int64) % max(1, 2 * count - 2)
        return np.minimum(there, np.maximum(0, 2 * count - 2 - there))

    def _open(self, path: Path) -> Video:
        # what another process has opened is left to it: both would move one place in the file
        opened = self._opened.setdefault(os.getpid(), OrderedDict())
        if path not in opened:
            # processes that load data side by side leave no CPU for threads
            threads = None if get_worker_info() is None else 1
            opened[path] = open_video(path, self._backend, threads=threads)
        opened.move_to_end(path)
        while len(opened) > OPEN:
            opened.popitem(last=False)[1].close()
        return opened[path]

    def _read(self, path: Path, wanted: np.ndarray, pixels: tuple[int, int]) -> torch.Tensor:
        """Frames of the video, from memory where they are still there: uint8 [n, h, w, 3]."""
        keys = {int(i): (path, int(i), pixels[0]) for i in wanted}
        found = {i: self._kept[key] for i, key in keys.items() if key in self._kept}
        if missing := sorted(set(keys) - set(found)):
            read = self._open(path).read(missing, pixels)
            found |= dict(zip(missing, read, strict=True))
        for i, key in keys.items():
            self._kept[key] = found[i].clone() if key not in self._kept else found[i]
            self._kept.move_to_end(key)
        most = max(1, self._memory // max(1, pixels[0] * pixels[1] * 3))
        while len(self._kept) > most:
            self._kept.popitem(last=False)
        return torch.stack([found[int(i)] for i in wanted])

    def _cut(
        self,
        path: Path,
        source: np.ndarray,
        shots: np.ndarray,
        number: np.ndarray,
        size: int,
        device: torch.device,
    ) -> torch.Tensor:
        """Crops of a video's frames, moved a little with time and lit as the shot is."""
        high, wide = self._facts[path][1]
        scale = min(1.0, FINER * size / min(high, wide))
        pixels = max(1, round(high * scale)), max(1, round(wide * scale))
        image = self._read(path, source, pixels).to(device).permute(0, 3, 1, 2).float() / 255
        crop = torch.from_numpy(_crops(shots, number % SHOT, pixels)).to(device)[..., None, None]
        x, y = axes(size, device)
        places = torch.stack(
            torch.broadcast_tensors(x * crop[:, 0] + crop[:, 2], y * crop[:, 1] + crop[:, 3]), -1
        )
        image = F.grid_sample(image, places, "bilinear", "reflection", align_corners=False)
        look = finish_look(mix(self.seed, number), shots, device)
        return finish(look, image, white_tile(str(device)))


def split_files(files: Sequence[Path], split: str) -> list[Path]:
    """The files of one part: by the hash of their names, see `held_out`.

    A file's name without its folder decides, so that copies go together.

    Raises:
        ValueError: an unknown part, or one that holds no file.
    """
    check_split(split)
    names = {file.name for file in files}
    if split != "all" and len(names) < 2:
        raise ValueError(f"split: expected at least 2 videos to split, got {sorted(names)}")
    test = held_out(names)
    wanted = [f for f in files if split == "all" or (f.name in test) == (split == "test")]
    return sorted(wanted, key=lambda file: (file.name, str(file)))


def _listed(videos: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[Path]:
    if isinstance(videos, str | os.PathLike):
        folder = Path(videos)
        if folder.is_dir():
            files = [f for f in sorted(folder.rglob("*")) if f.suffix.lower() in SUFFIXES]
            if not files:
                raise ValueError(f"videos: expected a folder with videos, got {folder}")
            return files
        videos = [folder]
    files = [Path(video) for video in videos]
    if not files:
        raise ValueError("videos: expected at least one, got none")
    for file in files:
        if not file.exists():
            raise FileNotFoundError(f"videos: {file} does not exist")
    return files


def _crops(shots: np.ndarray, time: np.ndarray, pixels: tuple[int, int]) -> np.ndarray:
    """Half sides and middles of square crops, of -1 to 1 each way: float32 [n, 4]."""
    draw = Draws(shots)
    high, wide = pixels
    side = draw("side", 0.6, 0.97) * min(pixels) * (1 + draw("zoom", -0.001, 0.001) * time)
    half = np.stack([side / wide, side / high], -1)
    middle = draw("middle", -1, 1, 2) * (1 - half) * 0.9
    angle = draw("angle", 0, 2 * np.pi)
    way = np.stack([np.cos(angle), np.sin(angle)], -1) * draw("pace", 0.001, 0.004)[:, None]
    middle = middle + way * (time - SHOT / 2)[:, None]
    flip = np.where(draw.chance("flip", 0.5), -1, 1)[:, None] * [[1, 0]] + [[0, 1]]
    return np.concatenate([half * flip, middle], -1).astype(np.float32)
