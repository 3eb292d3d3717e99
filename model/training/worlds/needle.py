"""One card is asked about; its nearest neighbours carry the wrong options."""

from collections import Counter

import numpy as np

from . import questions
from .cards import Card
from .families import HARD, Draft, Rules, apart, card, grid, number_line, numbers
from .questions import Question
from .splits import FRONT

CUBE, LINE = 8, 4


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """Cubes of eight cards, each one attribute from three others; where not even one fits, a line.

    Asked is the number of a card whose front is named, and the wrong options are the numbers of
    cards one attribute away; or shape, colour or word of a card whose number is named, and the
    wrong options are those of cards whose numbers share a digit, each as frequent in the video as
    the right one. No card serves two questions of a video, or one would help with the other.
    """
    cards = _deck(rng, rules)
    shown = min(len(cards), rules.cards or len(cards))
    asked: list[Question] = []
    used: set[int] = set()
    for target in rng.permutation(shown).tolist():
        if len(asked) == rules.questions:
            break
        what = "number" if rng.integers(2) else FRONT[rng.integers(3)]
        foils = _foils(rng, cards, target, what, used) if target not in used else []
        if not foils and target not in used:
            what = "number"
            foils = _foils(rng, cards, target, what, used)
        if foils:
            used |= {target, *foils}
            asked.append(_ask(rng, rules.split, cards, target, foils, what, shown))
    return Draft(cards[:shown], asked)


def _deck(rng: np.random.Generator, rules: Rules) -> list[Card]:
    most = 10 * CUBE
    wanted = rules.cards
    if wanted is None:
        rules.need(LINE)
        wanted = min(-(-HARD // CUBE), rules.room // CUBE) * CUBE or LINE
    if wanted > most or wanted < 1 or (wanted > LINE and wanted % CUBE):
        raise ValueError(f"cards: expected 1 to 4 or a multiple of 8 to {most}, got {wanted}")
    rules.need(wanted)
    if wanted <= LINE:
        forms = ((LINE, 1, 1), (1, LINE, 1), (1, 1, LINE))
        found = grid(rng, rules.split, forms[rng.integers(3)])
        backs = number_line(rng, LINE)
    else:
        found = []
        for _ in range(wanted // CUBE):
            found += grid(rng, rules.split, (2, 2, 2), {word for *_, word in found})
        backs = numbers(rng, wanted)
    order = rng.permutation(len(found))
    return [card(found[i], backs[i]) for i in order]


def _foils(
    rng: np.random.Generator, cards: list[Card], target: int, what: str, used: set[int]
) -> list[int]:
    """Three cards for the wrong options, none if there are not as many."""
    own = cards[target]
    others = [i for i in rng.permutation(len(cards)).tolist() if i != target and i not in used]
    if what == "number":
        near = [i for i in others if apart(cards[i], own) == 1]
        return near[:3] if len(near) >= 3 else []
    seen = Counter(getattr(card, what) for card in cards)
    value = getattr(own, what)
    found: dict[str, int] = {}
    for i in others:
        other = getattr(cards[i], what)
        digits = zip(cards[i].number, own.number, strict=True)
        if other != value and seen[other] == seen[value] and any(a == b for a, b in digits):
            found.setdefault(other, i)
    return list(found.values())[:3] if len(found) >= 3 else []


def _ask(
    rng: np.random.Generator,
    split: str,
    cards: list[Card],
    target: int,
    foils: list[int],
    what: str,
    shown: int,
) -> Question:
    own = cards[target]
    if what == "number":
        seen = questions.caption(rng, split, own)
        named = [(a, getattr(own, a)) for a in FRONT]
    else:
        seen, named = questions.numbered(rng, split, own.number), [("number", own.number)]
    asked = questions.pick(rng, questions.WHAT[what][split]).format(it=what)
    return questions.choice(
        rng,
        what,
        f"{questions.find(seen)} {asked}",
        [getattr(cards[i], what) for i in (target, *foils)],
        [target],
        [i if i < shown else -1 for i in foils],
        named,
    )
