"""Fonts as values: glyphs as pictures of distances, and families of our own made from strokes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch

from .hashing import Draws
from .strokes import STEPS, Stroke, skeletons

GLYPHS = " ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-.:>/#!?"
PITCH = 30  # pixels of a capital's height in the atlas
CELL = 52, 60  # pixels of a glyph's cell: height, width
LEFT, TOP = -0.22, 1.22  # where a cell's corner lies, in heights of a capital
FAR = 0.25  # distances end there


@dataclass(frozen=True)
class FontSet:
    """Fonts to draw with, whatever they were made from.

    Attributes:
        names: one a font.
        atlas: float32 [fonts * 52, glyphs * 60], distances to the ink in heights of a capital,
            negative inside; a row of cells a font, a column a character of `GLYPHS`.
        advance: float32 [fonts, glyphs], widths including the space around.
        slant: float32 [fonts], how far a capital leans to the right.
        test: names of the fonts that training never sees.
    """

    names: tuple[str, ...]
    atlas: torch.Tensor
    advance: torch.Tensor
    slant: torch.Tensor
    test: frozenset[str] = frozenset()
    _moved: dict[str, torch.Tensor] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        height, width = len(self.names) * CELL[0], len(GLYPHS) * CELL[1]
        if list(self.atlas.shape) != [height, width]:
            raise ValueError(
                f"atlas: expected [{height}, {width}] for {len(self.names)} fonts of "
                f"{len(GLYPHS)} characters, got {list(self.atlas.shape)}"
            )

    def part(self, split: str) -> tuple[str, ...]:
        """Names of the fonts of "train", "test" or "all"."""
        check_split(split)
        return tuple(
            n for n in self.names if split == "all" or (n in self.test) == (split == "test")
        )

    def on(self, device: torch.device) -> torch.Tensor:
        """The atlas on a device, copied there once."""
        if str(device) not in self._moved:
            self._moved[str(device)] = self.atlas.to(device)
        return self._moved[str(device)]

    def __add__(self, other: FontSet) -> FontSet:
        """Both sets of fonts.

        Raises:
            ValueError: a name occurs in both.
        """
        if both := set(self.names) & set(other.names):
            raise ValueError(f"fonts: expected different names, got {sorted(both)} twice")
        return FontSet(
            self.names + other.names,
            torch.cat([self.atlas, other.atlas]),
            torch.cat([self.advance, other.advance]),
            torch.cat([self.slant, other.slant]),
            self.test | other.test,
        )


@dataclass(frozen=True)
class Family:
    """What one of our own fonts is made with; lengths in heights of a capital.

    Attributes:
        weight: half the width of a stroke.
        width: how wide the skeletons are drawn.
        slant: how far a capital leans to the right.
        power, steps: how arcs are drawn; see `skeletons`.
        square: strokes end square, not round.
        contrast: how much thinner level strokes are, 0 to 1.
        serif: half the length of the strokes across the ends of upright ones.
        effect: "", "outline", "inline", "stencil" or "beads".
        jitter: how unevenly strokes are set.
        alternates: characters written in the other way.
    """

    weight: float
    width: float = 1.0
    slant: float = 0.0
    power: float = 2.0
    steps: int = STEPS
    square: bool = False
    contrast: float = 0.0
    serif: float = 0.0
    effect: str = ""
    jitter: float = 0.0
    alternates: str = ""


TRAIN = {
    "plain": Family(0.06),
    "bold": Family(0.105, square=True, alternates="at"),
    "light": Family(0.034, alternates="alG"),
    "narrow": Family(0.062, width=0.72, alternates="aItM"),
    "wide": Family(0.072, width=1.28, alternates="I"),
    "leaning": Family(0.072, width=0.9, slant=0.22, alternates="y7"),
    "slab": Family(0.055, serif=0.13, square=True, alternates="a1l"),
    "roman": Family(0.085, contrast=0.62, serif=0.1, square=True, alternates="a1tlM"),
    "squarish": Family(0.068, power=5.0, square=True, alternates="l1G"),
    "hand": Family(0.045, jitter=0.035, alternates="y47"),
    "outline": Family(0.1, effect="outline", alternates="a"),
    "stencil": Family(0.095, effect="stencil", square=True, alternates="at1"),
    "marker": Family(0.118, width=1.1, jitter=0.02, slant=0.08),
    "facet": Family(0.066, steps=8, square=True, alternates="17M"),
}
TEST = {
    "typewriter": Family(0.038, serif=0.15, alternates="a1Ily"),
    "placard": Family(0.125, width=0.86, contrast=0.35, square=True, alternates="atlG"),
    "inline": Family(0.115, effect="inline", alternates="I1a"),
    "backhand": Family(0.075, slant=-0.14, contrast=0.5, serif=0.08, alternates="a7t4"),
    "bubble": Family(0.098, width=1.12, power=3.2, alternates="ayGM69"),
    "beads": Family(0.07, effect="beads", alternates="M1"),
}


@cache
def stroke_fonts() -> FontSet:
    """Our own fonts: 14 to train with and 6 to test with. Drawn at the first call, then kept."""
    return draw_fonts(TRAIN | TEST, frozenset(TEST))


def draw_fonts(families: Mapping[str, Family], test: frozenset[str] = frozenset()) -> FontSet:
    """The fonts that are made so, by name; those of `test` are for testing only."""
    drawn = [_draw_font(name, family) for name, family in families.items()]
    return FontSet(
        tuple(families),
        torch.cat([atlas for atlas, _ in drawn]),
        torch.stack([advance for _, advance in drawn]),
        torch.tensor([family.slant for family in families.values()]),
        test,
    )


def check_split(split: str) -> None:
    """Raises ValueError unless it is "train", "test" or "all"."""
    if split not in ("train", "test", "all"):
        raise ValueError(f"split: expected 'train', 'test' or 'all', got {split!r}")


def glyph_ids(text: str) -> list[int]:
    """Columns of the characters in an atlas.

    Raises:
        ValueError: a character that fonts do not have.
    """
    if odd := sorted(set(text) - set(GLYPHS)):
        raise ValueError(
            f"text: expected characters of {GLYPHS!r}, got {''.join(odd)!r} in {text!r}"
        )
    return [GLYPHS.index(character) for character in text]


@cache
def cell_grid() -> torch.Tensor:
    """Where the pixels of a cell lie: float32 [52, 60, 2], x and y in heights of a capital."""
    x = LEFT + (torch.arange(CELL[1]) + 0.5) / PITCH
    y = TOP - (torch.arange(CELL[0]) + 0.5) / PITCH
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _draw_font(name: str, family: Family) -> tuple[torch.Tensor, torch.Tensor]:
    """Its row of the atlas and its advances."""
    glyphs = skeletons(family.alternates, family.power, family.steps)
    space = 0.1 + 0.5 * family.weight
    cells, advances = [torch.full(CELL, FAR)], [0.34 * family.width + space]
    for character in GLYPHS[1:]:
        strokes = glyphs[character][1]
        if character in "ij":  # a heavy dot keeps clear of its stem
            strokes = [*strokes[:-1], strokes[-1] + [0, max(0, 2 * family.weight - 0.15)]]
        strokes = _bend(strokes, family, zlib.crc32((name + character).encode()))
        thick = np.concatenate([_thicken(stroke, family) for stroke in strokes])
        ink = thick[:, [0, 2]]
        low = float((ink - thick[:, 4:5]).min())
        advances.append(float((ink + thick[:, 4:5]).max()) - low + space)
        thick[:, [0, 2]] += space / 2 - low
        cells.append(_cell(thick, family))
    return torch.cat(cells, 1), torch.tensor(advances)


def _bend(strokes: list[Stroke], family: Family, seed: int) -> list[Stroke]:
    """Widened, set unevenly, and with serifs or as beads, as the family asks for."""
    draw = Draws(seed)
    turn, lift = draw("turn", -1.5, 1.5) * family.jitter, draw("lift", -1, 1) * family.jitter
    moves = draw("move", -1, 1, 2 * len(strokes)).reshape(-1, 2) * family.jitter
    bent = []
    for stroke, move in zip(strokes, moves, strict=True):
        x, y = stroke[:, 0] * family.width, stroke[:, 1] + lift
        bent.append(np.stack([x + turn * y, y - turn * x], 1) + move)
    if family.effect == "beads":
        return [_beads(stroke, 1.75 * family.weight) for stroke in bent]
    return bent + [s for stroke in bent for s in _serifs(stroke, family.serif)]


def _serifs(stroke: Stroke, length: float) -> list[Stroke]:
    """Strokes across the free ends that stand upright on a line of writing."""
    found = []
    for end, before in ((0, 1), (-1, -2)) if length else ():
        (x, y), (dx, dy) = stroke[end], stroke[end] - stroke[before]
        upright = abs(dy) > 0.75 * math.hypot(dx, dy) and abs(dy) > 0.15
        if upright and min(abs(y), abs(y - 1), abs(y - 0.68), abs(y + 0.3)) < 0.02:
            found.append(np.array([[x - length, y], [x + length, y]]))
    return found


def _beads(stroke: Stroke, step: float) -> Stroke:
    """Points along a stroke."""
    lengths = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0], lengths.cumsum()])
    at = np.linspace(0, along[-1], max(2, round(along[-1] / step) + 1))
    return np.stack([np.interp(at, along, stroke[:, i]) for i in (0, 1)], 1)


def _thicken(stroke: Stroke, family: Family) -> np.ndarray:
    """Pieces of a stroke: float64 [pieces, 7], both ends, half the width, what square ends add."""
    if family.effect == "beads":
        pieces = np.concatenate([stroke, stroke + [1e-4, 0]], 1)
        return np.concatenate([pieces, np.tile([family.weight, 0.0, 0.0], (len(pieces), 1))], 1)
    stroke = stroke[np.append(True, np.hypot(*np.diff(stroke, axis=0).T) > 1e-6)]
    span = np.diff(stroke, axis=0)
    span = span / np.hypot(*span.T)[:, None]
    half = family.weight * (1 - family.contrast * span[:, 0] ** 2)
    bend = (span[1:] * span[:-1]).sum(1)
    corner = (bend < 0.8) & (bend > -0.2)
    free = float(np.hypot(*(stroke[0] - stroke[-1])) > 1e-3)
    begin, end = np.append(free, corner) * half, np.append(corner, free) * half
    return np.concatenate([stroke[:-1], stroke[1:], np.stack([half, begin, end], 1)], 1)


def _cell(pieces: np.ndarray, family: Family) -> torch.Tensor:
    """Distances to the ink in one cell: float32 [52, 60]."""
    grid = cell_grid().reshape(-1, 2, 1).numpy()
    x0, y0, x1, y1, half, begin, end = pieces.T.astype(np.float32)
    length = np.hypot(x1 - x0, y1 - y0)
    dx, dy = (x1 - x0) / length, (y1 - y0) / length
    x, y = grid[:, 0] - x0, grid[:, 1] - y0
    along, aside = x * dx + y * dy, np.abs(x * dy - y * dx)
    past = along - np.clip(along, 0, length)
    ink = np.sqrt(past * past + aside * aside) - half
    middle = (ink + half).min(1)
    if family.square:
        over = np.maximum(along - length - end, -along - begin)
        ink = np.minimum(ink, np.maximum(over, aside - half))
    distance = ink.min(1)
    if family.effect == "outline":
        distance = np.abs(distance + 0.034) - 0.034
    elif family.effect == "inline":
        distance = np.maximum(distance, 0.03 - middle)
    elif family.effect == "stencil":
        distance = np.maximum(distance, 0.032 - np.abs(grid[:, 1, 0] - 0.6))
    return torch.from_numpy(distance.clip(-FAR, FAR).reshape(CELL))
