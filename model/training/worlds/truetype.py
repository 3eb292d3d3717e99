"""TrueType and OpenType fonts as values, read with Pillow."""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .fonts import CELL, FAR, GLYPHS, LEFT, PITCH, TOP, FontSet
from .hashing import held_out

FINER = 4  # glyphs are drawn with so many pixels a pixel of their distances, each way
SPACE = 0.03  # around the ink of a glyph at least, in heights of a capital
MOST = 1.6  # of an advance: what a cell holds
SUFFIXES = {".ttf", ".otf"}
# matplotlib's fonts without plain letters
SYMBOLS = "cmex", "cmmi", "cmsy", "LastResort", "STIXNonUni", "STIXSiz"


def truetype_fonts(folder: str | os.PathLike[str] | None = None) -> FontSet:
    """Fonts from files, to be joined to ours: `stroke_fonts() + truetype_fonts()`.

    Families whose names say so (see `held_out`) are for testing only.

    Args:
        folder: searched for .ttf and .otf files with all below it; the fonts that matplotlib
            brings (DejaVu, STIX, Computer Modern) if None.

    Raises:
        ModuleNotFoundError: Pillow is not installed, or matplotlib where no folder is given.
        FileNotFoundError: no such folder.
        ValueError: no font in it that has all characters of `GLYPHS`.
    """
    image_font = _required("PIL.ImageFont", "hico[worlds]")
    files = font_files(folder)
    drawn: dict[str, tuple[str, torch.Tensor, torch.Tensor]] = {}
    for file in files:
        family, name, cells, advance = _draw_font(image_font, file)
        if cells is not None:
            drawn.setdefault(name, (family, cells, advance))
    if not drawn:
        raise ValueError(f"fonts: expected fonts with all of {GLYPHS!r}, got {len(files)} files")
    test = held_out({family for family, _, _ in drawn.values()})
    return FontSet(
        tuple(drawn),
        torch.cat([cells for _, cells, _ in drawn.values()]),
        torch.stack([advance for _, _, advance in drawn.values()]),
        torch.zeros(len(drawn)),
        frozenset(name for name, (family, _, _) in drawn.items() if family in test),
    )


def font_files(folder: str | os.PathLike[str] | None) -> list[Path]:
    """The files that `truetype_fonts` reads, by path; raises as it does."""
    if folder is not None:
        if not Path(folder).is_dir():
            raise FileNotFoundError(f"fonts: expected a folder, got {folder}")
        return sorted(f for f in Path(folder).rglob("*") if f.suffix.lower() in SUFFIXES)
    data = Path(_required("matplotlib", "hico[plot]").get_data_path())
    files = sorted((data / "fonts" / "ttf").glob("*.ttf"))
    return [file for file in files if not file.name.startswith(SYMBOLS)]


def _required(module: str, extra: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        package = module.split(".")[0]
        raise ModuleNotFoundError(
            f"fonts from files need {package}: pip install '{extra}'", name=package
        ) from error


def _draw_font(image_font: Any, file: Path) -> tuple[str, str, torch.Tensor | None, torch.Tensor]:
    """Family, full name, row of the atlas (None if characters are missing) and advances."""
    try:
        font = image_font.truetype(str(file), 200)
        tall = font.getbbox("H", anchor="ls")
        font = image_font.truetype(str(file), 200 * PITCH * FINER / max(1, -tall[1]))
    except OSError as error:
        raise ValueError(f"{file}: not a font, or damaged ({error})") from error
    family, style = font.getname()
    cells, advances, seen = [torch.full(CELL, FAR)], [0.4], {_mask(font, "\U0010fffd")[0]}
    for character in GLYPHS[1:]:
        raw, mask, width = _mask(font, character)
        if not mask.any() or raw in seen and character.isupper():
            return family, f"{family} {style}", None, torch.empty(0)
        seen.add(raw)
        cells.append(_distances(mask))
        advances.append(width)
    name = family if style in ("Regular", "Book") else f"{family} {style}"
    return family, name, torch.cat(cells, 1), torch.tensor(advances)


def _mask(font: Any, character: str) -> tuple[bytes, np.ndarray, float]:
    """A glyph as ink or none in a fine cell, and its advance: no ink leaves its own cell."""
    image, draw = (import_module(f"PIL.{name}") for name in ("Image", "ImageDraw"))
    scale = PITCH * FINER
    left, _, right, _ = font.getbbox(character, anchor="ls")
    begin = max(left / scale, SPACE)
    canvas = image.new("L", (CELL[1] * FINER, CELL[0] * FINER))
    at = (begin - LEFT) * scale - left, TOP * scale
    draw.Draw(canvas).text(at, character, fill=255, font=font, anchor="ls")
    mask = np.asarray(canvas) > 127
    advance = max(font.getlength(character) / scale, begin + (right - left) / scale + SPACE)
    return mask.tobytes(), mask, min(advance, MOST)


def _distances(mask: np.ndarray) -> torch.Tensor:
    """Distances to the ink of a fine cell: float32 [52, 60]."""
    signed = _nearest(mask) - _nearest(~mask)
    return torch.from_numpy((signed / (PITCH * FINER)).clip(-FAR, FAR).astype(np.float32))


def _nearest(mask: np.ndarray) -> np.ndarray:
    """Pixels from the middle of every block of 4 x 4 to the nearest that is set, up to a limit."""
    limit = int(FAR * PITCH * FINER) + 2
    rows = np.arange(len(mask))[:, None]
    above = np.maximum.accumulate(np.where(mask, rows, -limit), 0)
    below = np.minimum.accumulate(np.where(mask, rows, len(mask) + limit)[::-1], 0)[::-1]
    column = np.minimum(rows - above, below - rows).clip(0, limit)[FINER // 2 :: FINER]
    column = np.pad(column, ((0, 0), (limit, limit)), constant_values=limit)
    best = np.full((len(column), mask.shape[1] // FINER), float(limit * limit))
    for step in range(-limit, limit + 1):
        begin = limit + FINER // 2 + step
        near = column[:, begin : begin + mask.shape[1] : FINER][:, : best.shape[1]]
        best = np.minimum(best, near.astype(np.float64) ** 2 + step * step)
    return np.sqrt(best)
