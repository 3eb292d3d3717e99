"""Three cards are named; in which order do they appear?"""

from itertools import combinations, permutations

import numpy as np

from . import questions
from .cards import Card
from .crossing import cross, side_length, spread
from .families import Draft, Rules, latin
from .questions import Question

ORDERS = [", ".join(map(str, order)) for order in permutations((1, 2, 3))]


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """Stretches as in grounding: each shows every front and every number once.

    The three cards are in three different stretches and have three different fronts and numbers.
    A card is named by both its sides; either side alone is in every stretch, so that no glance at
    one side tells when the card appears. The options are the right order and three of the five
    others. Questions of one video share no front and no number.
    """
    k = side_length(rules, smallest=3)
    cards = [card for row in cross(rng, rules.split, k) for card in row]
    stretch = latin(rng, k).ravel()
    slots = spread(rng, stretch, rules.frames // 4)
    free = rng.permutation(k * k).tolist()
    asked: list[Question] = []
    while len(asked) < rules.questions and (three := _three(free, k, stretch)):
        asked.append(_ask(rng, rules.split, cards, three, slots))
        rows, columns = {i // k for i in three}, {i % k for i in three}
        free = [i for i in free if i // k not in rows and i % k not in columns]
    return Draft(cards, asked, slots.tolist())


def _three(free: list[int], k: int, stretch: np.ndarray) -> list[int]:
    """Three of different rows, columns and stretches, or none."""
    for three in combinations(free, 3):
        sides = ([i // k for i in three], [i % k for i in three], stretch[list(three)].tolist())
        if all(len(set(side)) == 3 for side in sides):
            return list(three)
    return []


def _ask(
    rng: np.random.Generator, split: str, cards: list[Card], three: list[int], slots: np.ndarray
) -> Question:
    places = np.argsort(slots[three])
    right = ", ".join(str(i + 1) for i in places)
    wrong = [order for order in ORDERS if order != right]
    seen = [questions.both_sides(rng, split, cards[i]) for i in three]
    return questions.choice(
        rng,
        "order",
        f"{questions.find(*seen)} {questions.pick(rng, questions.ORDER[split])}",
        [right, *(wrong[i] for i in rng.choice(len(wrong), 3, replace=False))],
        [three[i] for i in places],
        [-1, -1, -1],
        questions.named_of(cards[three[0]]),
    )
