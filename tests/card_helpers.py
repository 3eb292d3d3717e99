"""Cards at random, and a reader that knows where text stands but not what it says."""

import random

import numpy as np
import torch
import torch.nn.functional as F

from hico.model.training.worlds.cards import (
    COLOURS,
    NUMBERS,
    SHAPES,
    WORDS,
    Card,
    Style,
    random_style,
)
from hico.model.training.worlds.fonts import CELL, GLYPHS, PITCH, stroke_fonts
from hico.model.training.worlds.layouts import LAYOUTS
from hico.model.training.worlds.placing import plan

ROWS, COLUMNS = torch.linspace(1.1, -0.1, 25), torch.linspace(0, 1, 17)


def some_cards(count, seed=0, split="all", fonts=None):
    """That many cards with styles of the part, some of chains."""
    rng = random.Random(seed)
    cards, styles = [], []
    for i in range(count):
        looks = rng.choice(list(SHAPES)), rng.choice(list(COLOURS))
        goto = (None, rng.choice(NUMBERS), rng.choice(WORDS), "red star")[i % 4]
        cards.append(Card(*looks, rng.choice(NUMBERS), rng.choice(WORDS), goto))
        styles.append(random_style(rng, split, fonts))
    return cards, styles


def plain_styles(count, seed=0):
    """Looks on plain paper, one font and layout after the other."""
    rng = random.Random(seed)
    names = stroke_fonts().names
    layouts = LAYOUTS["train"] + LAYOUTS["test"]
    return [
        Style(names[i % len(names)], layouts[i % len(layouts)], "plain", rng.getrandbits(60))
        for i in range(count)
    ]


def planned(cards, styles, side=0, fonts=None):
    """Numbers of still frames, one a card."""
    sides = np.full((len(cards), 1), side)
    found = plan(cards, styles, sides, False, fonts or stroke_fonts())
    return {name: array[:, 0] for name, array in found.items()}


def read_line(frame, numbers, card, line, letters):
    """The most likely text of a line, a character at a time, among the letters.

    Args:
        frame: uint8 [S, S, 3].
        numbers: of `planned`.
        card, line: which; 0 for the number, 1 for the word.
        letters: what a character may be.
    """
    edges = numbers["edges"][card, line]
    return "".join(
        _read_glyph(frame, numbers, card, line, edges[i : i + 2], letters)
        for i in range(int(numbers["last"][card, line]) + 1)
    )


def _read_glyph(frame, numbers, card, line, edges, letters):
    x = float(edges[0]) + COLUMNS * float(edges[1] - edges[0])
    x, y = torch.meshgrid(x.double(), ROWS.double(), indexing="xy")
    a, b, c, d, e, f = numbers["put"][card, line + 1]
    whole = a * e - b * d
    u, v = ((x - c) * e - (y - f) * b) / whole, ((y - f) * a - (x - c) * d) / whole
    p, q, r, s, g, h, left, top = numbers["view"][card]
    m = p - u * g, q - u * h, r - v * g, s - v * h
    whole = m[0] * m[3] - m[1] * m[2]
    places = torch.stack(
        [(u * m[3] - v * m[1]) / whole + left, (v * m[0] - u * m[2]) / whole + top]
    )
    seen = F.grid_sample(
        frame.permute(2, 0, 1)[None].double(), places.permute(1, 2, 0)[None], align_corners=False
    )[0].mean(0)
    if numbers["ink"][card].mean() > numbers["paper"][card].mean():
        seen = -seen
    scores = {letter: _best(seen, letter) for letter in letters}
    return max(scores, key=scores.get)


def _best(seen, letter):
    """How alike it is to the letter in the most similar font."""
    known = _templates(letter)
    return float((_unit(-seen.flatten()[None].float()) * known).sum(1).max())


def _templates(letter, kept={}):  # noqa: B006
    if letter not in kept:
        fonts, column = stroke_fonts(), GLYPHS.index(letter)
        atlas = fonts.atlas.reshape(len(fonts.names), CELL[0], len(GLYPHS), CELL[1])[:, :, column]
        x = COLUMNS[None] * fonts.advance[:, column, None]
        x = (x + 0.22) * PITCH * 2 / CELL[1] - 1
        y = (1.22 - ROWS) * PITCH * 2 / CELL[0] - 1
        places = torch.stack(
            [
                x[:, None].expand(-1, len(ROWS), -1),
                y[None, :, None].expand(len(x), -1, len(COLUMNS)),
            ],
            -1,
        )
        ink = F.grid_sample(atlas[:, None], places, align_corners=False)[:, 0]
        kept[letter] = _unit((0.5 - ink / 0.08).clamp(0, 1).flatten(1))
    return kept[letter]


def _unit(rows):
    rows = rows - rows.mean(1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)
