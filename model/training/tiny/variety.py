"""Cards as others might draw them: what stage 0a changes about planned ones.

The worlds' own look is narrow beside all that a card may look like. Here text and shapes are also
small, cards lack paper, have any or are squashed, shapes are turned, mirrored, stretched or
hollow, and colours have all the tones that carry their names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hico.model.training.worlds.placing import CONTRAST
from hico.model.training.worlds.shapes import COLOURS, SHAPES
from hico.model.training.worlds.writing import Plan

from .reading import Lesson

# shares of cards
SMALL, SQUASHED, BARE, PAPERED, TURNED, HOLLOW, TONED = 0.4, 0.25, 0.25, 0.2, 0.4, 0.1, 0.4
LEAST = 0.45  # of a part's usual size
TRIED, UNLIKE = 24, 0.12  # odd colours to choose from; how far from named ones, channels 0 to 1
HEIGHT = 0.37  # of the middle of a line of text
# what else people call so: the lowest and the highest red, green and blue
TONES = COLOURS | {
    "red": ((195, 0, 0), (255, 52, 55)),
    "orange": ((235, 105, 0), (255, 165, 35)),
    "yellow": ((236, 198, 0), (255, 255, 75)),
    "green": ((0, 115, 0), (60, 230, 90)),
    "cyan": ((0, 185, 195), (60, 255, 255)),
    "blue": ((0, 0, 165), (60, 125, 255)),
    "purple": ((105, 0, 115), (165, 104, 242)),
    "pink": ((225, 95, 165), (255, 198, 215)),
    "brown": ((92, 42, 8), (165, 90, 78)),
    "gray": ((122, 122, 122), (165, 165, 165)),
    "white": ((238, 238, 238), (255, 255, 255)),
}
MIRRORED, UPRIGHT = ("moon", "bolt"), ("triangle", "heart", "house", "drop", "cloud", "star")


def vary(planned: Plan, lessons: Sequence[Lesson], rng: np.random.Generator) -> Plan:
    """The numbers of `plan` with some cards of another look; none is changed in place."""
    found = {name: np.array(one, copy=True) for name, one in planned.items()}
    count = len(lessons)
    _shrink(found, rng.random(count) < SMALL, rng)
    _squash(found, np.where(rng.random(count) < SQUASHED, rng.uniform(0.55, 1.0, count), 1.0))
    bare = np.where(rng.random(count) < BARE, rng.random(count) ** 0.7, 1.0)
    found["sheet"] *= bare[:, None]
    found["shade"][..., 2] *= bare[:, None]
    _turn(found, np.flatnonzero(rng.random(count) < TURNED), rng)
    for row, lesson in enumerate(lessons):
        if lesson.odd:
            _fill(found, row, odd_colour(rng, found["paper"][row, 0]))
        elif rng.random() < TONED:
            low, high = np.array(TONES[lesson.card.colour]) / 255
            colour = rng.uniform(low, high)
            if np.linalg.norm(colour - found["paper"][row, 0]) > CONTRAST:
                _fill(found, row, colour)
    for one in np.flatnonzero(rng.random(count) < PAPERED):
        _paper(found, int(one), rng)
    _hollow(found, np.flatnonzero(rng.random(count) < HOLLOW), rng)
    return found


def odd_colour(rng: np.random.Generator, paper: np.ndarray) -> np.ndarray:
    """One that has no name, and stands out from the paper if there is such a one."""
    low, high = (np.array([ends[i] for ends in TONES.values()]) / 255 for i in (0, 1))
    tried = rng.random((TRIED, 1, 3))
    named = np.linalg.norm(tried - tried.clip(low, high), axis=-1).min(1) < UNLIKE
    faint = np.linalg.norm(tried - paper, axis=-1)[:, 0] < CONTRAST
    return tried[np.argmin(named * 2 + faint), 0]


def _shrink(p: Plan, some: np.ndarray, rng: np.random.Generator) -> None:
    """Each part of some cards by itself, around its own middle."""
    factor = LEAST ** (some[:, None] * rng.random((len(some), p["scale"].shape[-1])))
    middle = np.concatenate([0 * p["edges"][:, :, :1, -1], p["edges"][..., -1] / 2], -1)
    height = np.array([0.0, *[HEIGHT] * (middle.shape[-1] - 1)])
    factor = factor[:, None]
    put = p["put"]
    put /= factor[..., None]
    put[..., 2] += middle * (1 - 1 / factor)
    put[..., 5] += height * (1 - 1 / factor)
    p["scale"] *= factor


def _squash(p: Plan, across: np.ndarray) -> None:
    """Whole cards, to such a part of their width."""
    for number in (0, 2, 4):  # of x, in u, v and the depth
        p["view"][..., number] /= across[:, None]
    p["near"] /= np.sqrt(across)[:, None]


def _turn(p: Plan, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Shapes, as far as they stay what they are, and stretched."""
    names = list(SHAPES)
    for row in rows:
        name = names[int(p["shape"][row, 0])]
        angle = np.radians(0 if name in UPRIGHT else rng.uniform(-15, 15))
        if name == "arrow":
            angle += rng.integers(4) * np.pi / 2
        if name == "hexagon":
            angle += rng.integers(2) * np.pi / 6
        stretch = np.exp(rng.uniform(-0.3, 0.3)) ** 0.5
        flip = -1 if name in MIRRORED and rng.random() < 0.5 else 1
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([flip / stretch, stretch])
        put = p["put"][row, :, 0]
        p["put"][row, :, 0] = (matrix @ put.reshape(len(put), 2, 3)).reshape(len(put), 6)


def _fill(p: Plan, row: int, colour: np.ndarray) -> None:
    """The shape of a card, and its rim where that is no line of its own."""
    bare = (p["rim"][row] == 0)[:, None]
    p["fill"][row] = colour
    p["rim colour"][row] = np.where(bare, colour, p["rim colour"][row])


def _paper(p: Plan, row: int, rng: np.random.Generator) -> None:
    """Any colour that ink and shape stand out from, if there is such a one among some."""
    tried = rng.random((TRIED, 3))
    seen = np.stack([p["ink"][row, 0], p["fill"][row, 0]])
    clear = np.linalg.norm(tried[:, None] - seen, axis=-1).min(1)
    if (fit := np.flatnonzero(clear > CONTRAST)).size:
        p["paper"][row] = tried[fit[0]]


def _hollow(p: Plan, rows: np.ndarray, rng: np.random.Generator) -> None:
    """Shapes as outlines of their colour, filled with that of the paper."""
    p["rim"][rows] = rng.uniform(0.09, 0.2, (len(rows), 1))
    p["rim colour"][rows] = p["fill"][rows]
    p["fill"][rows] = p["paper"][rows]
