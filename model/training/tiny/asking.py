"""What stage 0b asks of some cards of a deck: single cards, chains, and what a card shows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hico.model.training.worlds import questions
from hico.model.training.worlds.cards import NUMBERS, Card
from hico.model.training.worlds.families import apart
from hico.model.training.worlds.multihop import key_text
from hico.model.training.worlds.splits import FRONT, VALUES

from .bank import Deck

FORMS = ("options", "both", "free", "describe")
BOTH = "First say what it is, then give the best option."
ALL = {**VALUES, "number": NUMBERS}
SHOWN = ("what is on the card", "what does the card show", "which things are on the card")
WATCH = "What do the cards of the video show?"


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    Attributes:
        form: options, both (the answer itself, then its letter), free, steps, describe (one card),
            watch (all of them) or choose (an option that the question names).
        hops: cards on the way, the one with the answer included.
    """

    ask: str
    answer: str
    form: str
    hops: int


def watch(cards: Sequence[Card]) -> Turn:
    """All cards in their order."""
    return Turn(WATCH, "; ".join(map(questions.described, cards)), "watch", 1)


def choose(rng: np.random.Generator) -> Turn:
    """A letter alone: the question says which of its options it wants, and nothing is to be seen.

    Of 58,000 such questions a small model learns to find 79% of the letters (128 wide, 6 layers);
    where the text is first to be found among cards, they were at chance after 25,000.
    """
    asked = questions.pick(rng, (*ALL, "caption"))

    def anything() -> str:
        return _any_thing(rng) if asked == "caption" else questions.pick(rng, ALL[asked])

    right = anything()
    options = [right, *_three(right, [], anything)]
    found = questions.choice(rng, asked, f"Which option is {right}?", options, [0], [-1] * 3, [])
    return Turn(found.text, found.letter, "choose", 1)


def ask_one(
    rng: np.random.Generator, cards: Sequence[Card], at: int, form: str, split: str
) -> Turn:
    """About one of the cards that are shown: what it shows beside what is named of it.

    Of a card that leads to another one, all that it shows is asked, whatever the form.
    """
    card, others = cards[at], [one for i, one in enumerate(cards) if i != at]
    asked = ("number", "number", *FRONT)[rng.integers(5)]
    if asked == "number" or not card.number:
        seen = _front(rng, card, others, split)
    else:
        seen = questions.numbered(rng, split, card.number)
    find = questions.find(seen)
    if form == "describe" or not card.number:
        wording = questions.pick(rng, SHOWN)
        return Turn(f"{find} {wording}?", questions.described(card), "describe", 1)
    what = questions.pick(rng, questions.WHAT[asked][split]).format(it=asked)
    options = [getattr(card, asked), *_wrong(rng, card, others, asked)]
    found = questions.choice(rng, asked, f"{find} {what}", options, [0], [-1] * 3, [])
    return _turn(found, form, 1)


def ask_chain(
    rng: np.random.Generator, chains: Sequence[Sequence[Card]], at: int, form: str, split: str
) -> Turn:
    """From a card of a chain to its end, in the wordings of the multi-hop worlds.

    Args:
        chains: those that are shown, of one length; at: the one that is asked.
        form: options, both, free or steps.
    """
    ways = np.arange(1, len(chains[at]) + 1)
    # the longer, the later they are learned
    hops = int(rng.choice(ways, p=ways**2 / (ways**2).sum()))
    way = list(chains[at])[-hops:]
    last, others = way[-1], [chain[-1] for i, chain in enumerate(chains) if i != at]
    asked = ("number", "number", "word", "caption")[rng.integers(4)]
    start = questions.caption(rng, split, way[0], word=False)
    begins = questions.CHAIN.format(find=questions.find(start))
    if asked == "caption":
        task, free = questions.CHAIN_CAPTION, questions.CHAIN_FREE
        right = questions.thing(last)
        shown = [questions.thing(one) for one in others]
        wrong = _three(right, shown, lambda: _any_thing(rng))
    else:
        what = questions.pick(rng, questions.WHAT[asked][split]).format(it=asked)
        task = free = questions.CHAIN_WHAT.format(what=what)
        right, wrong = getattr(last, asked), _wrong(rng, last, others, asked)
    steps = [questions.thing(one) for one in way]
    found = questions.choice(
        rng, asked, begins + task, [right, *wrong], [0], [-1] * 3, [], steps, begins + free
    )
    return _turn(found, "free" if form == "steps" and hops == 1 else form, hops)


def chains_of(deck: Deck) -> list[list[Card]]:
    """The deck's chains, from their first cards on; those of one group follow each other.

    A group's lines differ in one attribute, which is what makes its chains look alike.
    """
    by_key = {key_text((card.shape, card.colour)): card for card in deck.cards}
    led_to = {card.goto for card in deck.cards if card.goto}
    found = []
    for key, card in by_key.items():
        if key in led_to:
            continue
        chain = [card]
        while chain[-1].goto:
            chain.append(by_key[chain[-1].goto])
        found.append(chain)
    return found


def _turn(found: questions.Question, form: str, hops: int) -> Turn:
    """What is asked and answered in a form.

    To choose among options is hard to learn where the answer is never said: then nothing tells
    whether it was found. Of both, the letter is that of what was just said.
    """
    if form != "both":
        return Turn(*found.turn(form), form, hops)
    ask = found.text.removesuffix(questions.END) + BOTH
    return Turn(ask, f"{found.free_answer}\n{found.letter}", form, hops)


def _front(rng: np.random.Generator, card: Card, others: Sequence[Card], split: str) -> str:
    """The card's front in words; at times less of it, where that is enough to know the card."""
    keys = {(one.shape, one.colour) for one in others}
    alone = (card.shape, card.colour) not in keys
    return questions.caption(rng, split, card, word=not alone or rng.random() < 0.5)


def _any_thing(rng: np.random.Generator) -> str:
    shape, colour = questions.pick(rng, VALUES["shape"]), questions.pick(rng, VALUES["colour"])
    return questions.thing(Card(shape, colour, "", ""))


def _wrong(rng: np.random.Generator, card: Card, others: Sequence[Card], asked: str) -> list[str]:
    """Three other values: of the nearest cards half of the time, else of any that are shown."""
    some = [others[i] for i in rng.permutation(len(others))]
    if rng.random() < 0.5:
        some.sort(key=lambda one: apart(one, card))
    shown = [getattr(one, asked) for one in some]
    return _three(getattr(card, asked), shown, lambda: questions.pick(rng, ALL[asked]))


def _three(right: str, shown: Sequence[str], anything: Callable[[], str]) -> list[str]:
    """Three values that are not the right one, of those that are shown if they are enough."""
    found = [value for value in dict.fromkeys(shown) if value not in ("", right)][:3]
    while len(found) < 3:
        value = anything()
        if value not in (right, *found):
            found.append(value)
    return found
