"""Three cards are named; in which order do they appear?"""

from itertools import permutations

import numpy as np

from . import questions
from .cards import Card
from .crossing import cross, side_length
from .families import Draft, Rules
from .questions import Question

ORDERS = [", ".join(map(str, order)) for order in permutations((1, 2, 3))]


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """Every front with every number, once each, anywhere.

    A card is named by both its sides. Each side alone is on six cards, so that a glance at one side
    hardly tells where the card is. The options are the right order and three of the five others.
    Questions of one video share no card.
    """
    k = side_length(rules, smallest=3)
    cards = [card for row in cross(rng, rules.split, k) for card in row]
    slots = rng.choice(rules.frames // 4, k * k, replace=False)
    free = rng.permutation(k * k).tolist()
    asked: list[Question] = []
    while len(asked) < rules.questions and (three := _three(free, k)):
        free = [i for i in free if i not in three]
        asked.append(_ask(rng, rules.split, cards, three, slots))
    return Draft(cards, asked, slots.tolist())


def _three(free: list[int], k: int) -> list[int]:
    """The first three of different rows and columns, or none."""
    found: list[int] = []
    for i in free:
        if all(i // k != j // k and i % k != j % k for j in found):
            found.append(i)
        if len(found) == 3:
            return found
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
