"""Sets of cards in which nobody stands out: every card has neighbours that differ in one thing.

A target with distractors around it would be their centre, and the centre would give it away. So
cards come as whole lines (all differ in one attribute), grids and cubes, where every card looks the
same from its place, and any of them can be the target.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import product

import numpy as np

from .cards import Card
from .questions import Question
from .splits import FRONT, last_bit, with_bit

Front = tuple[str, str, str]
HARD = 33  # a target and 32 distractors


@dataclass(frozen=True)
class Rules:
    """What a world is drawn by.

    Attributes:
        split: train or test.
        frames, fps: of the video.
        room: cards that fit.
        cards: how many are wanted, None = at least HARD where they fit.
        questions: at most this many.
        hops: fewest and most cards of a chain.
    """

    split: str
    frames: int
    fps: float
    room: int
    cards: int | None = None
    questions: int = 1
    hops: tuple[int, int] = (3, 3)

    def need(self, cards: int) -> None:
        """Raises ValueError where fewer cards fit than the smallest world of a kind has."""
        if self.room < cards:
            raise ValueError(
                f"frames: expected room for {cards} cards, got {self.frames} frames that hold "
                f"{self.room} (a card takes 4 frames, and a share of `density` of all frames may "
                "show cards)"
            )


@dataclass(frozen=True)
class Draft:
    """The cards of a world, what is asked of them, and for some kinds where they go.

    Attributes:
        slots: the clip that each card takes; None = anywhere.
    """

    cards: list[Card]
    questions: list[Question]
    slots: list[int] | None = None


def grid(
    rng: np.random.Generator, split: str, sizes: tuple[int, ...], without: Collection[str] = ()
) -> list[Front]:
    """All combinations of so many shapes, colours and words, every one of them of the split.

    Args:
        sizes: how many values of each attribute.
        without: words that are taken.
    """
    first, second = (int(bit) for bit in rng.integers(2, size=2))
    halves = (first, second, last_bit(split, first, second))
    chosen = []
    for i, attribute in enumerate(FRONT):
        half, size = halves[i], sizes[i]
        values = [value for value in with_bit(attribute, half) if value not in without]
        chosen.append([values[n] for n in rng.choice(len(values), size, replace=False)])
    return [(shape, colour, word) for shape, colour, word in product(*chosen)]


def fronts(rng: np.random.Generator, split: str, count: int) -> list[Front]:
    """3 to 6 fronts in a line or a grid, one or two attributes apart."""
    forms = [(count, 1, 1), (1, 1, count)]
    if count <= 4:
        forms.append((1, count, 1))
    if count in (4, 6):
        forms += [(count // 2, 2, 1), (count // 2, 1, 2), (1, 2, count // 2), (2, 1, count // 2)]
    return grid(rng, split, forms[rng.integers(len(forms))])


def number_line(rng: np.random.Generator, count: int) -> list[str]:
    """Up to 9 two-digit numbers that share one digit."""
    if rng.integers(2):
        return [f"{tens}{digit}" for digit in [rng.integers(10)] for tens in _some(rng, 1, count)]
    return [f"{tens}{digit}" for tens in [rng.integers(1, 10)] for digit in _some(rng, 0, count)]


def numbers(rng: np.random.Generator, count: int) -> list[str]:
    """Different two-digit numbers."""
    return [str(n) for n in rng.choice(np.arange(10, 100), count, replace=False)]


def latin(rng: np.random.Generator, size: int) -> np.ndarray:
    """int [size, size], each of 0..size-1 once in every row and column."""
    square = np.add.outer(np.arange(size), np.arange(size)) % size
    square = square[rng.permutation(size)][:, rng.permutation(size)]
    return rng.permutation(size)[square]


def card(front: Front, number: str, goto: str | None = None) -> Card:
    """The card with this front and back."""
    shape, colour, word = front
    return Card(shape=shape, colour=colour, number=number, word=word, goto=goto)


def apart(one: Card, other: Card, attributes: Iterable[str] = FRONT) -> int:
    """In how many attributes two cards differ."""
    return sum(getattr(one, a) != getattr(other, a) for a in attributes)


def _some(rng: np.random.Generator, low: int, count: int) -> list[int]:
    return list(low + rng.choice(10 - low, count, replace=False))
