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
