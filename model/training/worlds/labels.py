"""What stands where on painted cards: for whoever learns to read them."""

from __future__ import annotations

import torch

from .fonts import CELL, GLYPHS, LEFT, PITCH
from .painting import Numbers, places, put
from .shapes import SHAPES
from .writing import PARTS

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
NOTHING = 0  # behind a card, on bare paper, and on signs such as "-"
FIRST = 1 + len(SHAPES)  # of the characters' classes
CLASSES = FIRST + len(CHARACTERS)


def stands_where(p: Numbers, cells: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What, which part and which character of it lies in the middle of each of cells x cells.

    Args:
        p: numbers of `plan`, [B, ...] on the device.
        cells: of a frame's side.

    Returns:
        int64 [B, cells, cells] each: a shape from 1 on, or a character from 17 on, upper case as
        lower case; part + 1 of `PARTS`; the number of the character in its line, 0 elsewhere. All
        are 0 where there is nothing.
    """
    u, v = places(p["view"], cells)
    x, y = put(p, 0, u, v)
    inside = x.abs().maximum(y.abs()) < 1
    what = inside * (p["shape"][:, None, None].long() + 1)
    part, order = inside.long(), torch.zeros_like(what)
    table = torch.tensor([_class(glyph) for glyph in GLYPHS], device=u.device)
    for line in range(len(PARTS) - 1):
        x, y = put(p, line + 1, u, v)
        edges = p["edges"][:, line]
        there = (x > 0) & (x < edges[:, -1, None, None]) & (y > -0.3) & (y < 1.05)
        number = torch.searchsorted(edges[:, 1:-1].contiguous(), x.flatten(1), right=True)
        number = number.minimum(p["last"][:, line, None].long())
        left = (edges.gather(1, number) + LEFT) * PITCH
        glyph = ((p["offsets"][:, line].gather(1, number) + left) / CELL[1]).round().long()
        what = torch.where(there, table[glyph].view_as(what), what)
        part = torch.where(there, line + 2, part)
        order = torch.where(there, number.view_as(what), order)
    return what, part, order


def _class(glyph: str) -> int:
    place = CHARACTERS.find(glyph.lower())
    return NOTHING if place < 0 else FIRST + place
