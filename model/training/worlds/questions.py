"""Questions in the published style, and their wordings in training and in tests."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .cards import Card

LETTERS = "ABCD"
END = "Only give the best option. Best option: ("
FORMS = ("options", "free", "steps")

# what tests say is made of words that training says as well
CAPTIONS = {
    "train": (
        "{it} with the word {word}",
        "a card that shows {it} and the word {word}",
        "the word {word} and {it}",
        "{it} on the card with the word {word}",
    ),
    "test": (
        "the card with {it} and the word {word}",
        "{it} and the word {word}",
        "a card that shows the word {word} and {it}",
    ),
}
SHORT = {
    "train": ("{it}", "a card that shows {it}", "a card with {it}"),
    "test": ("the card that shows {it}", "{it} on a card"),
}
NUMBERED = {
    "train": ("the number {number}", "a card with the number {number}"),
    "test": ("the card with the number {number}", "a number {number}"),
}
PLAIN = {
    "train": (
        "what is the {it} on the card",
        "what {it} does the card show",
        "which {it} is on the card",
    ),
    "test": ("what {it} is on the card", "which {it} does the card show"),
}
WHAT = {attribute: PLAIN for attribute in ("number", "word", "shape")} | {
    "colour": {
        "train": (
            "what is the color of the shape",
            "what color is the shape on the card",
            "which color is the shape",
        ),
        "test": ("what color is the shape", "which is the color of the shape on the card"),
    }
}
CHAIN = "{find} Locate the final frame based on the instructions in the image, and "
CHAIN_WHAT = "answer the following question based on the final frame: {what}"
CHAIN_CAPTION = "choose the captions that best describe the frame: "
CHAIN_FREE = CHAIN_WHAT.format(what="what does the card show")
ORDER = {
    "train": (
        "in which order do the cards appear",
        "what is the order of the cards in the video",
    ),
    "test": ("what is the order in which the cards appear in the video",),
}
WHEN = {
    "train": ("when does the card appear", "at what time in the video is the card"),
    "test": ("at what time does the card appear", "when in the video does the card appear"),
}
COUNT = {
    "train": ("how many times does it appear", "how many such cards are in the video"),
    "test": ("how many times does such a card appear in the video",),
}
# questions of one answer, without options
BRIEF = " Give a brief answer."
STEPS = " Name every card on the way, then answer."


@dataclass(frozen=True)
class Question:
    """One question of a world, its options and where the answer is.

    Attributes:
        asked: number, word, shape, colour, caption, order, time or count.
        text: the whole prompt with options, as published; it ends in "Best option: (".
        options: four texts in the order of their letters; answer: the right one's place.
        free, free_answer: the same question without options.
        steps: what each card of the chain says, first to last, and the answer; one entry where
            there is no chain.
        named: (attribute, value) of what the question names of its first card.
        needles: placements that hold the answer, in the order of the hops.
        foils: for each option the placement that carries it, -1 = the right one, or none.
    """

    asked: str
    text: str
    options: tuple[str, ...]
    answer: int
    free: str
    free_answer: str
    steps: tuple[str, ...]
    named: tuple[tuple[str, str], ...]
    needles: tuple[int, ...]
    foils: tuple[int, ...]

    @property
    def letter(self) -> str:
        """A, B, C or D."""
        return LETTERS[self.answer]

    @property
    def hops(self) -> int:
        """Cards on the way, the one with the answer included."""
        return max(1, len(self.steps) - 1)

    def turn(self, form: str = "options") -> tuple[str, str]:
        """(question, answer) in one of three forms: options, free, or steps.

        Steps of a question without a chain are its free form.

        Raises:
            ValueError: another form.
        """
        if form == "options":
            return self.text, self.letter
        if form == "free" or (form == "steps" and len(self.steps) == 1):
            return self.free + BRIEF, self.free_answer
        if form == "steps":
            return self.free + STEPS, ", then ".join(self.steps)
        raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")

    def moved(self, places: Sequence[int]) -> "Question":
        """The same with placement i at places[i]; what is counted, first to last."""
        needles = [int(places[i]) for i in self.needles]
        return replace(
            self,
            needles=tuple(sorted(needles) if self.asked == "count" else needles),
            foils=tuple(int(places[i]) if i >= 0 else -1 for i in self.foils),
        )


def pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    """One of several wordings."""
    return texts[int(rng.integers(len(texts)))]


def thing(card: Card) -> str:
    """What is drawn on a card: "a red star", "an orange cross"."""
    return f"{'an' if card.colour[0] in 'aeiou' else 'a'} {card.colour} {card.shape}"


def caption(rng: np.random.Generator, split: str, card: Card, word: bool = True) -> str:
    """A card's front in words, with or without the word on it."""
    texts = (CAPTIONS if word else SHORT)[split]
    return pick(rng, texts).format(it=thing(card), word=card.word)


def described(card: Card) -> str:
    """Both sides of a card: "a red star, river, 47"; of a chain "a red star, river, go to ..."."""
    back = f"go to {card.goto}" if card.goto else card.number
    return f"{thing(card)}, {card.word}, {back}"


def numbered(rng: np.random.Generator, split: str, number: str) -> str:
    """A card's back in words."""
    return pick(rng, NUMBERED[split]).format(number=number)


def both_sides(rng: np.random.Generator, split: str, card: Card) -> str:
    """A card's front and number in words."""
    return f"{caption(rng, split, card)} and the number {card.number}"


def named_of(card: Card) -> list[tuple[str, str]]:
    """What both_sides says of a card."""
    return [(name, getattr(card, name)) for name in ("shape", "colour", "word", "number")]


def find(*captions: str) -> str:
    """How every question begins, for one card or more."""
    if len(captions) == 1:
        return f"Find the frame of {captions[0]}."
    listed = ", ".join(f"{i}. {text}" for i, text in enumerate(captions, 1))
    return f"Find the frames of {listed}."


def choice(
    rng: np.random.Generator,
    asked: str,
    prompt: str,
    options: Sequence[str],
    needles: Sequence[int],
    foils: Sequence[int],
    named: Sequence[tuple[str, str]],
    steps: Sequence[str] = (),
    free: str | None = None,
) -> Question:
    """The question with its options in random order.

    Args:
        prompt: all that stands before the options.
        options: the right one first; foils: placements of the three others, -1 = none.
        steps: what the cards of a chain show.
        free: the prompt of the question without options, None = the same.
    """
    order = rng.permutation(4)
    texts = tuple(options[i] for i in order)
    listed = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, texts, strict=True))
    carried = (-1, *foils)
    return Question(
        asked=asked,
        text=f"{prompt}\nOptions: {listed}\n{END}",
        options=texts,
        answer=int(np.flatnonzero(order == 0)[0]),
        free=f"{prompt if free is None else free}?",
        free_answer=options[0],
        steps=(*steps, options[0]),
        named=tuple(named),
        needles=tuple(int(i) for i in needles),
        foils=tuple(int(carried[i]) for i in order),
    )
