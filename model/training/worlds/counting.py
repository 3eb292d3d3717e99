"""A card is named; how often does one like it appear?"""

from itertools import combinations

import numpy as np

from . import questions
from .families import HARD, Draft, Rules, card, fronts, latin, number_line

SIDE, HIGHEST, MOST = 4, 6, 48
COUNTS = list(combinations(range(HIGHEST + 1), SIDE))


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """Four fronts and four numbers; each pair as often as a Latin square of four counts says.

    The four counts are the options, and as many pairs have each. Every front is in the video as
    often as every other, and every number too: only who sees which front goes with which number
    can count. One question a video, as every count tells of the others.
    """
    counts = _counts(rng, rules)
    square = np.array(counts)[latin(rng, SIDE)].ravel()
    numbers = number_line(rng, SIDE)
    found = fronts(rng, rules.split, SIDE)
    kinds = [card(front, number) for front in found for number in numbers]
    pairs = np.repeat(np.arange(SIDE**2), square)
    target = int(rng.integers(SIDE**2))
    right = int(square[target])
    wrong = [str(count) for count in counts if count != right]
    seen = questions.both_sides(rng, rules.split, kinds[target])
    asked = questions.choice(
        rng,
        "count",
        f"{questions.find(seen)} {questions.pick(rng, questions.COUNT[rules.split])}",
        [str(right), *wrong],
        np.flatnonzero(pairs == target).tolist(),
        [-1, -1, -1],
        questions.named_of(kinds[target]),
    )
    return Draft([kinds[i] for i in pairs], [asked][: rules.questions])


def _counts(rng: np.random.Generator, rules: Rules) -> tuple[int, ...]:
    """Four counts whose cards fit, HARD to MOST in all where there is room."""
    sizes = {counts: SIDE * sum(counts) for counts in COUNTS}
    if rules.cards is None:
        rules.need(min(sizes.values()))
        room = min(rules.room, MOST)
        least = min(HARD, max(size for size in sizes.values() if size <= room))
    else:
        rules.need(rules.cards)
        room = least = rules.cards
    fitting = [counts for counts, size in sizes.items() if least <= size <= room]
    if not fitting:
        known = ", ".join(map(str, sorted(set(sizes.values()))))
        raise ValueError(f"cards: expected one of {known}, got {rules.cards}")
    return fitting[rng.integers(len(fitting))]
