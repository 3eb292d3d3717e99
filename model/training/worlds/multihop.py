"""Chains of cards: each names the next, and the last one holds the answer."""

import numpy as np

from . import questions
from .cards import Card
from .families import HARD, Draft, Rules, numbers
from .questions import Question
from .splits import VALUES, bits, last_bit, with_bit

BESIDE = 4  # chains of one group: a right one and three full-length distractors
TRIES = 1000
Key = tuple[str, str]  # shape, colour


def draw(rng: np.random.Generator, rules: Rules) -> Draft:
    """Groups of four chains of one length, and no card that is not part of one.

    At every hop the four cards of a group differ in their shape alone or in their colour alone, the
    first ones, of which the question names one, as well as the last ones, which carry the options.
    A card's front is its key: no two cards of a video have both shape and colour in common.
    """
    hops = _hops(rng, rules)
    size = BESIDE * hops
    groups = _groups(rules, size)
    lines = pack(rng, groups * hops)
    spelt = iter(_words(rng, rules.split, lines))
    words = [[next(spelt) for _ in line] for line in lines]
    values = iter(numbers(rng, groups * BESIDE))
    cards: list[Card] = []
    for i, line in enumerate(lines):
        last = i % hops == hops - 1
        for j, (shape, colour) in enumerate(line):
            goto = None if last else key_text(lines[i + 1][j])
            number = next(values) if last else ""
            cards.append(Card(shape, colour, number, words[i][j], goto))
    asked = [
        _ask(rng, rules.split, cards, group * size, hops)
        for group in rng.permutation(groups)[: rules.questions].tolist()
    ]
    return Draft(cards, asked)


def key_text(key: Key) -> str:
    """What stands after GO TO.

    >>> from hico.model.training.worlds.multihop import key_text
    >>> key_text(("star", "red"))
    'red star'
    """
    return f"{key[1]} {key[0]}"


def pack(rng: np.random.Generator, count: int) -> list[list[Key]]:
    """So many lines of four keys, in random order, that have no key in common."""
    shapes, colours = VALUES["shape"], VALUES["colour"]
    for _ in range(TRIES):
        free = np.ones((len(shapes), len(colours)), bool)
        lines: list[list[Key]] = []
        for _ in range(TRIES):
            if len(lines) == count:
                return lines
            across = bool(rng.integers(2))
            table = free.T if across else free
            row = int(rng.integers(len(table)))
            places = np.flatnonzero(table[row])
            if len(places) >= BESIDE:
                places = rng.choice(places, BESIDE, replace=False)
                table[row, places] = False
                cells = [(i, row) if across else (row, i) for i in places]
                lines.append([(shapes[i], colours[j]) for i, j in cells])
    raise ValueError(f"cards: expected chains of fewer cards, got {count * BESIDE} different keys")


def _hops(rng: np.random.Generator, rules: Rules) -> int:
    low, high = rules.hops
    rules.need(BESIDE * low)
    return int(rng.integers(low, min(high, rules.room // BESIDE) + 1))


def _groups(rules: Rules, size: int) -> int:
    if rules.cards is None:
        return max(1, min(-(-HARD // size), rules.room // size))
    if rules.cards % size or rules.cards < size:
        raise ValueError(f"cards: expected a multiple of {size} (4 x hops), got {rules.cards}")
    rules.need(rules.cards)
    return rules.cards // size


def _words(rng: np.random.Generator, split: str, lines: list[list[Key]]) -> list[str]:
    """A word for every key, such that the card is of the split; all different where they last."""
    left: dict[int, list[str]] = {0: [], 1: []}
    found = []
    for shape, colour in (key for line in lines for key in line):
        half = last_bit(split, bits("shape")[shape], bits("colour")[colour])
        if not left[half]:
            left[half] = rng.permutation(with_bit("word", half)).tolist()
        found.append(left[half].pop())
    return found


def _ask(
    rng: np.random.Generator, split: str, cards: list[Card], begin: int, hops: int
) -> Question:
    """A question on one chain of the group that begins there, cards hop by hop and four a hop."""
    order = rng.permutation(BESIDE).tolist()
    chain = [begin + hop * BESIDE + order[0] for hop in range(hops)]
    last = [begin + (hops - 1) * BESIDE + i for i in order]
    first = cards[chain[0]]
    what = ("number", "number", "word", "caption")[rng.integers(4)]
    seen = questions.caption(rng, split, first, word=False)
    begins = questions.CHAIN.format(find=questions.find(seen))
    if what == "caption":
        options = [questions.thing(cards[i]) for i in last]
        task, free = questions.CHAIN_CAPTION, questions.CHAIN_FREE
    else:
        options = [getattr(cards[i], what) for i in last]
        asked = questions.pick(rng, questions.WHAT[what][split]).format(it=what)
        task = free = questions.CHAIN_WHAT.format(what=asked)
    return questions.choice(
        rng,
        what,
        begins + task,
        options,
        chain,
        last[1:],
        [("shape", first.shape), ("colour", first.colour)],
        [questions.thing(cards[i]) for i in chain],
        begins + free,
    )
