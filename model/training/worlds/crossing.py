"""Every front with every number: cards that only both of their sides tell apart."""

import numpy as np

from .cards import Card
from .families import Rules, card, fronts, number_line

USUAL = 6


def side_length(rules: Rules, smallest: int) -> int:
    """How many fronts and as many numbers there are.

    Raises:
        ValueError: not even the smallest square fits, or `cards` is no square of 3 to 6.
    """
    if rules.cards is None:
        rules.need(smallest**2)
        return min(USUAL, int(rules.room**0.5))
    length = round(rules.cards**0.5)
    if length**2 != rules.cards or not smallest <= length <= USUAL:
        sizes = ", ".join(str(n**2) for n in range(smallest, USUAL + 1))
        raise ValueError(f"cards: expected one of {sizes}, got {rules.cards}")
    rules.need(rules.cards)
    return length


def cross(rng: np.random.Generator, split: str, length: int) -> list[list[Card]]:
    """[length][length] cards: fronts in rows, numbers in columns, both one step apart."""
    numbers = number_line(rng, length)
    return [[card(front, n) for n in numbers] for front in fronts(rng, split, length)]


def bounds(clips: int, stretches: int) -> list[int]:
    """The first clip of each of so many stretches of a video, and the end.

    >>> from hico.model.training.worlds.crossing import bounds
    >>> bounds(250, 4)
    [0, 62, 125, 188, 250]
    """
    return [round(i * clips / stretches) for i in range(stretches + 1)]


def spread(rng: np.random.Generator, stretch: np.ndarray, clips: int) -> np.ndarray:
    """int64 [cards], a clip of its own for each card, anywhere in the card's stretch."""
    edges = bounds(clips, int(stretch.max()) + 1)
    slots = np.zeros(len(stretch), np.int64)
    for i in range(len(edges) - 1):
        own = stretch == i
        slots[own] = rng.choice(np.arange(edges[i], edges[i + 1]), own.sum(), replace=False)
    return slots
