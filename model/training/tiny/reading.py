"""What stage 0a asks of tokens: all that a card says, and what is printed just where they are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hico.model.training.worlds.cards import COLOURS, NUMBERS, SHAPES, WORDS, Card
from hico.model.training.worlds.labels import CLASSES
from hico.model.training.worlds.layouts import PARTS
from hico.model.training.worlds.splits import held_out

NO = -100
LETTERS = 6
LONGEST = 24  # characters of a line
SPELT = ("word", *(f"letter{i}" for i in range(LETTERS)))
FRONT = ("shape", "colour", *SPELT)
BACK = ("tens", "ones", "next_shape", "next_colour")
PLAIN, ODD = 0.35, 0.35  # shares of cards without a shape, and with one of an odd colour
# shares of ways in one line, and of those whose line ends behind the colour
LINE, WRAPPED, LEADS = 0.35, 0.2, ("GO TO ", "GO TO: ", "NEXT: ", "> ")
PART = 0.25  # of the clips show their card in some frames only
# what is told of a card: name -> number of classes
HEADS = {
    "card": 2,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "word": len(WORDS),
    "tens": 10,  # 0 = there is no number
    "ones": 10,
    "next_shape": len(SHAPES) + 1,  # the last = there is no next card
    "next_colour": len(COLOURS) + 1,
    # the word once more, letter by letter: each is seen in many words; 0 = none
    **{f"letter{i}": 27 for i in range(LETTERS)},
}
WEIGHTS = {"card": 0.2} | {f"letter{i}": 0.5 for i in range(LETTERS)}
# the part of a card that tells something, as a number of `stands_where`
TELLS = {
    name: PARTS.index(part) + 1
    for part, names in (
        ("shape", ("shape", "colour")),
        ("number", ("tens", "ones")),
        ("key", ("next_shape", "next_colour")),
        ("word", SPELT),
    )
    for name in names
}
SIDE = 2  # cells of a patch's side, each of which is asked
# what is told of a cell: what, which part, the number in its line
CELLS = {"what": CLASSES, "part": len(PARTS) + 1, "order": LONGEST}


class Heads(nn.Module):
    """[..., C] -> logits of all that is told; only this stage has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.card = nn.Linear(channels, sum(HEADS.values()))
        self.cells = nn.Linear(channels, SIDE**2 * sum(CELLS.values()))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Of a card."""
        parts = self.card(x).float().split(list(HEADS.values()), -1)
        return dict(zip(HEADS, parts, strict=True))

    def where(self, x: Tensor) -> dict[str, Tensor]:
        """Of the cells of each patch: [..., 4, classes]."""
        logits = self.cells(x).float().unflatten(-1, (SIDE**2, -1))
        return dict(zip(CELLS, logits.split(list(CELLS.values()), -1), strict=True))


class Lesson(NamedTuple):
    """A card to be read.

    Attributes:
        card: whose shape may be "", none.
        odd: whether its shape has a colour without a name.
        spelt: whether its word is asked for.
        lead: if not "", the way to the next card is printed behind this, in one line.
        wrapped: or in two, the colour in the first of them.
    """

    card: Card
    odd: bool = False
    spelt: bool = True
    lead: str = ""
    wrapped: bool = False

    @property
    def painted(self) -> Card:
        """The card as it is to be planned: one line is the number's."""
        if not self.lead or not self.card.goto:
            return self.card
        way = self.lead + self.card.goto
        if self.wrapped:
            return replace(self.card, goto="\n".join(way.rsplit(" ", 1)))
        return replace(self.card, number=way, goto=None)


def random_lesson(rng: random.Random, split: str) -> Lesson:
    """A card of the split; one in three names the next one instead of a number.

    Of a shape and a colour together it could be told which words are for testing only, and words
    be guessed rather than read, wrongly so in tests. So where training asks for a word the shape is
    missing or of a colour that has no name, and otherwise it asks for no word.
    """
    shape, colour = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLOURS))
    lot = rng.random() if split == "train" else 1.0
    whole = lot >= PLAIN + ODD
    word = rng.choice(WORDS)
    while whole and held_out(shape, colour, word) != (split == "test"):
        word = rng.choice(WORDS)
    shape = "" if lot < PLAIN else shape
    if rng.random() < 1 / 3:
        goto = f"{rng.choice(tuple(COLOURS))} {rng.choice(tuple(SHAPES))}"
        card = Card(shape, colour, "", word, goto)
    else:
        card = Card(shape, colour, rng.choice(NUMBERS), word)
    odd, spelt = PLAIN <= lot < PLAIN + ODD, not whole or split == "test"
    return Lesson(card, odd, spelt, *(random_way(rng) if split == "train" else ()))


def random_way(rng: random.Random) -> tuple[str, bool]:
    """A lesson's lead, and whether it is wrapped: of the way to the next card, if there is one."""
    way = rng.random()
    return (rng.choice(LEADS) if way < LINE + WRAPPED else ""), way >= LINE


def random_sides(rng: random.Random, frames: int) -> tuple[str, ...]:
    """One side of a single frame, or both; clips show all, half of them turned over meanwhile.

    One clip in four begins before its card is there, or ends after it, as videos that nobody cut
    to clips will: "" is a frame without it.
    """
    if frames == 1:
        return (rng.choice(("front", "back", "both")),)
    sides = ["both"] * frames
    if rng.random() < 0.5:
        sides = ["front", "back"] * (frames // 2)
        rng.shuffle(sides)
    if rng.random() < PART:
        hidden = rng.randrange(1, frames)
        sides = sides[hidden:] + [""] * hidden
        sides = sides[::-1] if rng.random() < 0.5 else sides
    return tuple(sides)


def targets(lessons: Sequence[Lesson | None], sides: Sequence[Sequence[str]]) -> np.ndarray:
    """int64 [n, heads], NO for what is not asked; None = haystack, of which only that is told."""
    found = np.full((len(lessons), len(HEADS)), NO)
    shapes, colours, names = tuple(SHAPES), tuple(COLOURS), list(HEADS)
    for row, lesson, seen in zip(found, lessons, sides, strict=True):
        row[0] = int(lesson is not None)
        if lesson is None:
            continue
        card = lesson.card
        colour, shape = card.goto.split() if card.goto else ("", "")
        row[1:] = (
            shapes.index(card.shape) if card.shape else NO,
            colours.index(card.colour) if card.shape and not lesson.odd else NO,
            WORDS.index(card.word),
            int(card.number[0]) if card.number else 0,
            int(card.number[1]) if card.number else NO,
            shapes.index(shape) if shape else len(shapes),
            colours.index(colour) if colour else len(colours),
            *(ord(letter) - ord("a") + 1 for letter in card.word),
            *[0] * (LETTERS - len(card.word)),
        )
        hidden = [] if lesson.spelt else [*SPELT]
        if "both" not in seen and not {"front", "back"} <= set(seen):
            hidden += BACK if "front" in seen else FRONT
        row[[names.index(name) for name in hidden]] = NO
    return found


def told_loss(logits: dict[str, Tensor], told: Tensor, part: Tensor | None = None) -> Tensor:
    """Sum of the attributes' cross-entropies over tokens, [B, N, classes] each.

    Args:
        told: int64 [B, heads].
        part: int64 [B, N], the part that each token lies on: it is asked for what that part tells
            alone; None = all are asked for everything.
    """
    found = told.new_zeros((), dtype=torch.float32)
    for i, (name, one) in enumerate(logits.items()):
        wanted = told[:, i, None].expand(one.shape[:2])
        if part is not None:
            if name not in TELLS:
                continue
            wanted = torch.where(part == TELLS[name], wanted, NO)
        found = found + WEIGHTS.get(name, 1.0) * cross_entropy(one, wanted)
    return found


def cells_loss(logits: dict[str, Tensor], cells: Tensor) -> Tensor:
    """Sum of the cross-entropies of cells: the mean where something is, and 0.3 of that elsewhere.

    Args:
        logits: [B, N, 4, classes] each.
        cells: int64 [B, N, 4, 3], NO for what is not asked.
    """
    there = cells[..., 1].flatten() > 0
    some = there.sum().clamp(min=1)
    weight = torch.where(there, 1 / some, 0.3 / (there.numel() - some).clamp(min=1))
    found = cells.new_zeros((), dtype=torch.float32)
    for i, one in enumerate(logits.values()):
        each = F.cross_entropy(one.flatten(0, -2), cells[..., i].flatten(), reduction="none")
        found = found + (each * weight).sum()
    return found


def cross_entropy(logits: Tensor, wanted: Tensor) -> Tensor:
    """The mean over all that is not NO; 0 if nothing else is there."""
    total = F.cross_entropy(
        logits.flatten(0, -2), wanted.flatten(), ignore_index=NO, reduction="sum"
    )
    return total / (wanted != NO).sum().clamp(min=1)


@torch.no_grad()
def accuracy(logits: dict[str, Tensor], told: Tensor) -> dict[str, float]:
    """Share of tokens that are right, of each attribute, and of clips by the tokens' vote."""
    found = {}
    for i, (name, one) in enumerate(logits.items()):
        known = told[:, i] != NO
        right = one.argmax(-1)[known] == told[known, i, None]
        vote = one.mean(1).argmax(-1)[known] == told[known, i]
        found[name] = round(right.float().mean().item(), 4)
        found[f"{name}_vote"] = round(vote.float().mean().item(), 4)
    return found
