"""What all tasks share: a question with one right answer, and the search for wrong ones."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

from .timeline import Event, Video, alike
from .wording import LETTERS, bare, with_options


class Unclear(Exception):
    """This cannot be asked with exactly one right answer; the text says why."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, and what it is about; `letter` of the right option, if it has any."""

    text: str
    answer: str
    about: Hashable
    letter: str | None = None


# (video, subject, the row's own randomness, where the right option goes) -> question
Ask = Callable[[Video, Event, random.Random, int], Question]


def multiple(
    text: str, right: str, wrong: Sequence[str], about: Hashable, rng: random.Random, place: int
) -> Question:
    """The question with the right option at `place` and three wrong ones around it, shuffled."""
    options = rng.sample(wrong, len(wrong))
    options.insert(place, right)
    letter = LETTERS[place]
    return Question(with_options(text, options), f"({letter}) {right}", about, letter)


def wrong_captions(pool: Iterable[Event], true: Sequence[Event]) -> list[str]:
    """The first three captions of the pool that are like none of `true` nor each other.

    Args:
        pool: events that are not what is asked for, the preferred ones first.
        true: all events that would be a right answer, or might be.

    Raises:
        Unclear: there are fewer than three.
    """
    taken: list[Event] = []
    for event in pool:
        if not any(alike(event, other) for other in (*true, *taken)):
            taken.append(event)
        if len(taken) == len(LETTERS) - 1:
            return [bare(event.caption) for event in taken]
    raise Unclear("fewer than three wrong options")


def check_unique(video: Video, *events: Event) -> None:
    """Raise Unclear if the video has another event with a caption like that of one of these."""
    if not all(video.unique(event) for event in events):
        raise Unclear("another event has a caption much like it")


def either(*forms: Ask) -> Ask:
    """An Ask that tries the forms in random order and returns the first question that is clear."""

    def ask(video: Video, event: Event, rng: random.Random, place: int) -> Question:
        unclear = Unclear("no form of the question")
        for form in rng.sample(forms, len(forms)):
            try:
                return form(video, event, rng, place)
            except Unclear as error:
                unclear = error
        raise unclear

    return ask
