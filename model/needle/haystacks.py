"""Haystacks by name: drawn scenes, the shipped video, a folder of videos, or one long video."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..training.worlds.real import VideoHaystack
from ..training.worlds.world import haystack_of
from ..video import open_video
from ..vision import square_image
from .features import Haystack, Store

DRAWN = ("natural", "shipped")


def check_haystack(name: str, single: bool) -> None:
    """Raises ValueError or FileNotFoundError for what no haystack can be made of.

    Args:
        single: whether one video file will do.
    """
    path = Path(name)
    if name in DRAWN or path.is_dir():
        return
    wanted = "natural, shipped or a folder of videos" + (", or one video" if single else "")
    if not path.exists():
        raise FileNotFoundError(f"--haystack: expected {wanted}, found nothing at {name!r}")
    if not single:
        raise ValueError(f"--haystack: expected {wanted}, got the file {name!r}")


def video_settings(name: str, split: str) -> dict[str, str]:
    """What a haystack of videos adds to a test's settings: a hash of their names and sizes.

    A copy of their folder has the same; one that is drawn adds nothing.
    """
    path = Path(name)
    if name in DRAWN or not path.exists():
        return {}
    source = haystack_of(name, 0, split) if path.is_dir() else None
    files = sorted(source.files) if isinstance(source, VideoHaystack) else [path]
    told = [(file.relative_to(path).as_posix(), file.stat().st_size) for file in files]
    return {"haystack_videos": hashlib.sha256(repr(told).encode()).hexdigest()[:16]}


def open_haystack(name: str, seed: int, split: str, store: Store) -> Haystack:
    """The haystack of a name that check_haystack let pass."""
    path = Path(name)
    if path.is_file():
        facts = path.stat()
        key = f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}"
        return Haystack(key, film_frames(path), store)
    source = haystack_of(name, seed, split)
    key = f"{name} {seed} {split}"
    if isinstance(source, VideoHaystack) and name not in DRAWN:
        files = sorted(source.files)
        key = f"{key} {[(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]}"
    return Haystack(key, source.frames, store)


def film_frames(path: Path) -> Callable[..., Tensor]:
    """Frames of a video, one a second, each in the middle of a square, as published.

    A video that is too short begins again; the published test repeats its haystack as well.
    """
    told: list[int] = []

    def frames(numbers: Tensor, size: int, device: torch.device | str = "cpu") -> Tensor:
        with open_video(path) as video:
            step = max(1, round(video.fps))
            seconds = -(-video.frames // step)
            if len(numbers) and int(numbers.max()) >= seconds and not told:
                told.append(seconds)
                print(f"{path}: {seconds} frames, one a second, then again", file=sys.stderr)
            wanted, place = (numbers % seconds).unique(return_inverse=True)
            shots = [square_image(shot, size) for shot in video.stream((wanted * step).tolist())]
            return torch.stack(shots)[place].to(device)

    return frames
