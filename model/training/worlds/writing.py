"""Text and shapes of cards: what is written, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .fonts import CELL, LEFT, PITCH, TOP, FontSet, glyph_ids
from .hashing import Draws
from .layouts import BACK, FRONT, PARTS, boxes, leads_across
from .shapes import SHAPES

Plan = dict[str, np.ndarray]

LONGEST = 18  # characters of a line
SHOWN = 0.87  # of a card's half side: nothing stands nearer to its edge


@dataclass(frozen=True)
class Card:
    """What a card says: what questions are about.

    Attributes:
        shape: of `SHAPES`, or "" for none.
        colour: of `COLOURS`, the shape's.
        number, word: texts of at most 18 characters of `GLYPHS`, or "" for none.
        goto: the text that names the next card of a chain, printed after "GO TO"; None for none.
            Of two lines the first stands where "GO TO" would.
    """

    shape: str
    colour: str
    number: str
    word: str
    goto: str | None = None


@dataclass(frozen=True)
class Style:
    """How a card looks: what questions are not about.

    Attributes:
        font, layout, paper: names of `FONTS`, `LAYOUTS` and `PAPERS`.
        seed: all else (place, size, turn, motion, inks, light, noise, surroundings).
    """

    font: str
    layout: str
    paper: str
    seed: int


def writing(
    draw: Draws,
    cards: Sequence[Card],
    styles: Sequence[Style],
    sides: np.ndarray,
    half: np.ndarray,
    fonts: FontSet,
) -> Plan:
    """The places of shape and lines of text, and the text as glyphs."""
    short = draw.chance("one line", 0.6)[:, 0]
    short = short & np.array([leads_across(style.layout) for style in styles])
    written = [_lines(c, bool(s)) for c, s in zip(cards, short, strict=True)]
    case = draw("case")[:, 0]
    texts = [[_cased(t, c) for t in lines] for lines, c in zip(written, case, strict=True)]
    rows = np.array([fonts.names.index(style.font) for style in styles])
    glyphs, edges, low = _glyphs(texts, rows, fonts)
    places = np.full((len(cards), 3, len(PARTS), 4), np.nan)
    for i, (card, style) in enumerate(zip(cards, styles, strict=True)):
        there = {part for part, text in zip(PARTS[1:], texts[i], strict=True) if text}
        parts = frozenset(there | ({"shape"} if card.shape else set()))
        for side, seen in enumerate((parts, parts & FRONT, parts & BACK)):
            for k, box in enumerate(boxes(style.layout, seen)):
                places[i, side, k] = box or np.nan
    places = np.take_along_axis(places, sides[:, :, None, None], 1)
    slant = np.broadcast_to(fonts.slant.numpy()[rows][:, None, None], places[:, :, 1:, 0].shape)
    width = edges[:, :, -1][:, None]
    put, scale = _fit(draw, places, half, width, low[:, None], slant)
    shapes = [list(SHAPES).index(card.shape) if card.shape else 0 for card in cards]
    return {
        "put": put,
        "scale": scale,
        "edges": edges[:, None],
        "offsets": _offsets(glyphs, edges)[:, None],
        "last": (glyphs >= 0).sum(-1).clip(1)[:, None] - 1,
        "row": rows[:, None] * CELL[0] + TOP * PITCH,
        "shape": np.array(shapes)[:, None],
    }


def _lines(card: Card, short: bool) -> tuple[str, str, str, str]:
    """Number, word, and what leads to the next card: in one line if that is short."""
    if card.goto is None:
        return card.number, card.word, "", ""
    if short and len(card.goto) <= 6:
        return card.number, card.word, "", f"GO TO {card.goto}"
    lead, _, key = card.goto.rpartition("\n")
    return card.number, card.word, lead or "GO TO", key


def _cased(text: str, case: float) -> str:
    """Upper, title or lower case."""
    if case < 0.55:
        return text.upper()
    return text.capitalize() if case < 0.8 else text.lower()


def _glyphs(
    texts: list[list[str]], rows: np.ndarray, fonts: FontSet
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns in the atlas [n, 4, L], edges [n, 4, L + 1] of every line; lines that hang low."""
    glyphs = np.full((len(texts), len(PARTS) - 1, LONGEST + 6), -1)
    low = np.zeros(glyphs.shape[:2])
    for i, lines in enumerate(texts):
        for k, text in enumerate(lines):
            glyphs[i, k, : len(text)] = glyph_ids(text)
            low[i, k] = any(c.islower() for c in text)
    advance = fonts.advance.numpy()[rows[:, None, None], glyphs] * (glyphs >= 0)
    edges = np.concatenate([np.zeros((*glyphs.shape[:2], 1)), advance.cumsum(-1)], -1)
    return glyphs, edges, low


def _offsets(glyphs: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """What leads from a place in a line to one in the atlas, in pixels: [n, 4, L]."""
    return glyphs.clip(0) * CELL[1] - (edges[..., :-1] + LEFT) * PITCH


def _fit(
    draw: Draws,
    places: np.ndarray,
    half: np.ndarray,
    width: np.ndarray,
    low: np.ndarray,
    slant: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Put shape and lines into their boxes.

    Returns:
        [n, T, 5, 6]: what takes the card's u, v, 1 to the x and y of shape or line; [n, T, 5]:
        how large they are drawn.
    """
    half = half[..., None, :]
    middle = (places[..., :2] + places[..., 2:]) / 2 * half * SHOWN
    size = (places[..., 2:] - places[..., :2]) * half * SHOWN * 0.95
    size = np.where(np.isnan(size), 1.0, size)
    middle = np.where(np.isnan(middle), 9.0, middle)
    full = draw("filled", 0.88, 1.0, len(PARTS))
    tall = np.concatenate([0 * low[..., :1] + 2, 1.2 + 0.25 * low], -1)
    wide = np.concatenate([0 * low[..., :1] + 2, width + 1e-9 + np.abs(slant[:, :1])], -1)
    y = size[..., 1] / tall * full
    x = np.minimum(y, size[..., 0] / wide * full)
    y = np.minimum(y, x / draw("squeeze", 0.68, 1.0)[..., None])
    x = np.minimum(x, y * 1.12)
    y[..., 0] = x[..., 0] = np.minimum(x[..., 0], y[..., 0])
    slack = size / 2 - np.stack([x * wide, y * tall], -1) / 2
    aside = draw("aside", -1, 1, 2 * len(PARTS)).reshape(*full.shape, 2)
    aside[..., -1, 0] = aside[..., -2, 0]  # the two lines that lead on belong together
    middle = middle + aside * slack.clip(0) * 0.9
    turn = np.radians(draw("askew", -1, 1, len(PARTS)) * np.array([9, 2, 2, 2, 2]))
    cos, sin = np.cos(turn), np.sin(turn)
    across = np.stack([cos / x, sin / x], -1)
    up = np.stack([sin / y, -cos / y], -1)
    lean = np.concatenate([0 * slant[..., :1], slant], -1)[..., None]
    across = across - lean * up
    start = np.concatenate([0 * low[..., :1], width / 2], -1)
    rise = np.concatenate([0 * low[..., :1], 0.5 - 0.15 * low], -1)
    first = start - lean[..., 0] * (rise - 0.5) - (across * middle).sum(-1)
    second = rise - (up * middle).sum(-1)
    put = np.concatenate([across, first[..., None], up, second[..., None]], -1)
    return put, np.minimum(x, y)
