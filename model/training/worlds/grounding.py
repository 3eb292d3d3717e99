"""One card is named; when does it appear?"""

import numpy as np

from . import questions
from .cards import Card
from .crossing import bounds, cross, side_length, spread
from .families import Draft, Rules, latin
from .questions import Question


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """As many stretches of equal length as fronts; each shows every front and every number once.

    A card is named by both its sides, and every stretch among the options has one card with the
    same front and another with the same number, so that either side alone says nothing. A stretch
    that was the answer to one question is not among the options of the next.
    """
    k = side_length(rules, smallest=4)
    cards = [card for row in cross(rng, rules.split, k) for card in row]
    stretch = latin(rng, k).ravel()
    slots = spread(rng, stretch, rules.frames // 4)
    edges = bounds(rules.frames // 4, k)
    times = [_times(edges[i], edges[i + 1], rules.fps) for i in range(k)]
    asked: list[Question] = []
    open_stretches = list(range(k))
    for target in rng.permutation(k * k).tolist():
        enough = len(asked) < rules.questions and len(open_stretches) >= 4
        if enough and stretch[target] in open_stretches:
            asked.append(_ask(rng, rules.split, cards, target, stretch, open_stretches, times))
            open_stretches.remove(stretch[target])
    return Draft(cards, asked, slots.tolist())


def _times(first: int, stop: int, fps: float) -> str:
    """A stretch of clips in seconds.

    >>> from hico.model.training.worlds.grounding import _times
    >>> _times(0, 25, 1.0)
    'from 0 to 100 seconds'
    """
    return f"from {_seconds(first * 4 / fps)} to {_seconds(stop * 4 / fps)} seconds"


def _seconds(moment: float) -> str:
    """Four digits of it, and whatever stands before two decimals.

    >>> from hico.model.training.worlds.grounding import _seconds
    >>> _seconds(0.032), _seconds(41.5), _seconds(12345.678), _seconds(10000.0)
    ('0.032', '41.5', '12345.68', '10000')
    """
    return f"{moment:.4g}" if moment < 100 else f"{moment:.2f}".rstrip("0").rstrip(".")


def _ask(
    rng: np.random.Generator,
    split: str,
    cards: list[Card],
    target: int,
    stretch: np.ndarray,
    among: list[int],
    times: list[str],
) -> Question:
    own = stretch[target]
    wrong = rng.permutation([i for i in among if i != own])[:3]
    k = len(times)
    same_front = np.arange(k * k) // k == target // k
    foils = [int(np.flatnonzero((stretch == i) & same_front)[0]) for i in wrong]
    seen = questions.both_sides(rng, split, cards[target])
    return questions.choice(
        rng,
        "time",
        f"{questions.find(seen)} {questions.pick(rng, questions.WHEN[split])}",
        [times[own], *(times[i] for i in wrong)],
        [target],
        foils,
        questions.named_of(cards[target]),
    )
