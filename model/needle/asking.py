"""What is asked of a video with needles in it, and when an answer is right."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

EDGES = " \t\n.,;:!?\"'()[]"
THEN = ", then "  # between the steps of a chain
OPTION = re.compile(r"\(([A-Z])\) (.*)")

Cell = tuple[int, float | None]


@dataclass(frozen=True)
class Ask:
    """One question.

    Attributes:
        cell: frames, and depth or None.
        kind: "needle", or of a chain "caption" or "qa".
        number: of the question within its cell; caption and qa of one chain share it.
        text: with options, ending in "Best option: ("; letter: the right one.
        free: (question, answers that are right) to be answered in words.
        steps: (question, answer, whole chain) where every step is to be told; None = no chain.
        needles: first visual token of each hop's needle, in the order of the hops.
    """

    cell: Cell
    kind: str
    number: int
    text: str
    letter: str
    free: tuple[str, tuple[str, ...]]
    steps: tuple[str, str, str] | None
    needles: tuple[int, ...]


@dataclass(frozen=True)
class Film:
    """A video with needles and all that is asked of it.

    Attributes:
        frames: how many; fps: how many a second, None = the prompt says nothing about time.
        features: gives its visual tokens [n, D].
        pixels: gives frames by number, uint8 [n, S, S, 3].
    """

    frames: int
    fps: float | None
    features: Callable[[], Tensor]
    pixels: Callable[[Sequence[int]], Tensor]
    asks: tuple[Ask, ...]


def is_letter(said: str, letter: str) -> bool:
    """Whether the one token that was said is the letter, as published: case and brackets aside.

    >>> from hico.model.needle.asking import is_letter
    >>> is_letter("(b)", "B"), is_letter(" B", "B")
    (True, False)
    """
    return said.lower().replace("(", "").replace(")", "") == letter.lower()


def normal(text: str) -> str:
    """An answer without case, without punctuation at its ends, with single spaces.

    >>> from hico.model.needle.asking import normal
    >>> normal(" A  red Star. ")
    'a red star'
    """
    return " ".join(text.casefold().split()).strip(EDGES)


def is_free(said: str, answers: Sequence[str]) -> bool:
    """Whether an answer in words is one of those that are right, once both are normal."""
    return normal(said) in {normal(answer) for answer in answers}


def steps_right(said: str, answer: str, chain: str) -> tuple[bool, bool]:
    """Whether the last of the steps told is the answer, and whether all of them are right.

    >>> from hico.model.needle.asking import steps_right
    >>> steps_right("a red star, then 47", "47", "a blue star, then 47")
    (True, False)
    """
    last = said.casefold().split(THEN)[-1]
    return normal(last) == normal(answer), normal(said) == normal(chain)


def letter_answers(text: str, letter: str) -> tuple[str, ...]:
    """What may be said in words to a question with options: the letter, its option, or both.

    >>> from hico.model.needle.asking import letter_answers
    >>> letter_answers("Which? Options: (A) red\\n(B) blue\\nBest option: (", "B")
    ('B', 'B) blue', 'blue')
    """
    option = dict(OPTION.findall(text)).get(letter.upper(), "").strip()
    return (letter, f"{letter}) {option}", option) if option else (letter,)


class Prompts:
    """A processor whose prompts are those of the published needle test: the video, then the words.

    No line break and no sentence about time stand between them.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.ids = processor.ids

    def prompt(self, question: str, history: Any = (), message: Any = None) -> str:
        """The conversation up to where the answer begins."""
        return self.processor.prompt(f"<image>{question}", history)
