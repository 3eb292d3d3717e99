"""Single pictures, and folders of them as videos."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from .base import Video, check_pixels
from .careful import Painter
from .resize import Turn, resize_frames
from .table import check_file, decoded, import_av, open_file, packets

PICTURES = {".jpg", ".jpeg", ".png"}
# how files of one picture begin; a GIF is a video
STARTS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"MM\0*")

# EXIF's orientations from 2 on, as display matrices
TURNS: dict[int, Turn] = dict(
    enumerate(
        (
            (-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1), (0, 1, 1, 0),
            (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0),
        ),
        2,
    )
)  # fmt: skip


def is_image(path: str | os.PathLike[str]) -> bool:
    """Whether a file holds a picture (JPEG, PNG, WebP, BMP, TIFF), by how it begins.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
    """
    path = Path(path)
    if path.is_dir():
        return False
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(12)
    return head.startswith(STARTS) or (head[:4] == b"RIFF" and head[8:] == b"WEBP")


def read_image(path: str | os.PathLike[str]) -> torch.Tensor:
    """Read a picture, turned as its camera says.

    With PyAV, or else with OpenCV, whose JPEGs differ by the rounding of colours.

    Args:
        path: a JPEG, PNG, WebP, BMP or TIFF file.

    Returns:
        uint8 [H, W, 3], RGB; transparency is dropped.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: not a picture, damaged, or of too many pixels.
        ModuleNotFoundError: neither is installed.
    """
    path = Path(path)
    check_file(path)
    try:
        import_av()
    except ModuleNotFoundError as error:
        return torch.from_numpy(_with_opencv(path, error))
    container, stream = open_file(path, 1)
    with container:
        for packet in packets(container, stream):
            for frame in decoded(stream, packet):
                check_pixels(path, frame.height, frame.width)
                return torch.from_numpy(Painter().rgb(frame, exif_turn(path)))
    raise ValueError(f"{path}: this picture is damaged and cannot be decoded")


def exif_turn(path: Path) -> Turn | None:
    """How the camera was held, as a JPEG's EXIF block says; None if it does not."""
    with open(path, "rb") as file:
        head = file.read(2**16)
    start = head.find(b"Exif\0\0") + 6
    order = {b"MM\0*": "big", b"II*\0": "little"}.get(head[start : start + 4])
    if not head.startswith(b"\xff\xd8") or start < 6 or order is None:
        return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(head[start + at : start + at + size], cast(Any, order))

    block = number(4, 4)
    entries = (block + 2 + 12 * i for i in range(min(number(block, 2), 100)))
    return next((TURNS.get(number(e + 8, 2)) for e in entries if number(e, 2) == 0x112), None)


def _with_opencv(path: Path, error: ModuleNotFoundError) -> np.ndarray:
    """uint8 [H, W, 3]; OpenCV, too, turns pictures as their cameras say."""
    try:
        cv2 = import_module("cv2")
    except ModuleNotFoundError:
        raise error from None
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as damage:
        raise ValueError(f"{path}: not a picture, or damaged ({damage})") from damage
    if pixels is None:
        raise ValueError(f"{path}: not a picture, or damaged")
    check_pixels(path, *pixels.shape[:2])
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


class PictureFolder(Video):
    """A folder of JPEG and PNG files as a video of one frame a second, as published.

    Three a second if "tvqa" is part of the path. The files are in the order of the number at the
    end of their names, those without one first; then by name. Frames come in the first one's size.

    Args:
        path: the folder.

    Raises:
        ValueError: there is no such file in it, or the first one cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        names = [file for file in self.path.iterdir() if file.suffix.lower() in PICTURES]
        if not names:
            raise ValueError(f"{self.path}: expected jpg, jpeg or png files, found none")
        self.files = sorted(names, key=lambda file: (last_number(file.stem), file.name))
        self.frames = len(self.files)
        self.fps = 3.0 if "tvqa" in str(self.path).lower() else 1.0
        self.seconds = torch.arange(self.frames, dtype=torch.float64) / self.fps
        self.duration = self.frames / self.fps
        height, width = read_image(self.files[0]).shape[:2]
        self.size = height, width
        self._is_clip = False

    def choose(
        self,
        min_frames: int = 64,
        max_frames: int = 512,
        local: int = 8,
        mode: str = "dynamic_fps1",
    ) -> torch.Tensor:
        """As `Video.choose`; in a clip, as published for folders, from its first to its last."""
        usual = super().choose(min_frames, max_frames, local, mode)
        if not self._is_clip:
            return usual
        places = np.linspace(0, self.frames - 1, len(usual))
        return torch.from_numpy(places.round().astype(np.int64))

    def _bounds(self, begin: float, stop: float, ends: bool) -> tuple[int, int, float]:
        """As published for folders: from picture max(1, round(start * fps)) on."""
        self._is_clip = True
        first = min(max(1, round(begin * self.fps)), self.frames - 1)
        last = max(first, min(round(stop * self.fps), self.frames - 1))
        return first, last - first + 1, stop - begin

    def _load(self, indices: list[int], pixels: tuple[int, int]) -> Iterator[torch.Tensor]:
        for index in indices:
            yield resize_frames(read_image(self.files[index]), pixels)


def last_number(stem: str) -> int:
    """The number at the end of a name, -1 if there is none.

    >>> last_number("frame_012"), last_number("00001"), last_number("cover")
    (12, 1, -1)
    """
    digits = re.search(r"\d+$", stem)
    return int(digits[0]) if digits else -1
