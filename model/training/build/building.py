"""From a video's events to its training rows, by seed alone."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from .choices import grounding, needle, what, when
from .choosing import Ask, Question, Unclear, either
from .orders import counting, dense, ordering
from .timeline import Video
from .wording import LETTERS

TASKS: dict[str, Ask] = {
    "ordering": ordering,
    "grounding": grounding,
    "counting": counting,
    "dense": dense,
    "needle": needle,
    "choice": either(what, when),
}
ONCE = ("dense",)  # about all events, whichever is tried
TRIES = 10  # events looked at for each row wanted: some cannot be asked about


@dataclass(frozen=True)
class Recipe:
    """What is built: tasks, at most `per_video` rows of each for a video, and the seed."""

    tasks: tuple[str, ...] = tuple(TASKS)
    per_video: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [task for task in self.tasks if task not in TASKS]:
            raise ValueError(f"tasks: expected some of {', '.join(TASKS)}, got {unknown[0]!r}")
        if not self.tasks or len(set(self.tasks)) < len(self.tasks):
            raise ValueError(f"tasks: expected each once, got {', '.join(self.tasks) or 'none'}")
        if self.per_video < 1:
            raise ValueError(f"per_video: expected at least 1, got {self.per_video}")


@dataclass
class Built:
    """The rows of a video: (task, letter of the right option or None, row in published form)."""

    video: str
    rows: list[tuple[str, str | None, dict[str, Any]]] = field(default_factory=list)
    dropped: Counter[tuple[str, str]] = field(default_factory=Counter)  # (task, reason)


def number(*words: object) -> int:
    """64 random bits that depend on the words and nothing else."""
    data = json.dumps([str(word) for word in words]).encode()
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big")


def build(video: Video, recipe: Recipe) -> Built:
    """The rows of one video.

    The events are tried in an order that depends on (seed, video, task); try k has its own
    randomness, of (seed, video, task, k). So the rows of a task do not depend on the other tasks,
    and with a smaller `per_video` they are the first of those with a larger one. Right options
    go through the letters in turn from one that depends on (seed, video, task).
    """
    built = Built(video.name)
    for task in recipe.tasks:
        for k, question in _ask(video, task, recipe, built.dropped):
            turns = [
                {"from": "human", "value": f"<image>\n{question.text}"},
                {"from": "gpt", "value": question.answer},
            ]
            row = {"id": f"{task}/{video.name}/{k}", "video": video.name, "conversations": turns}
            built.rows.append((task, question.letter, row))
    return built


def _ask(
    video: Video, task: str, recipe: Recipe, dropped: Counter[tuple[str, str]]
) -> Iterator[tuple[int, Question]]:
    """(k, question) for each question of the task that is clear, up to the recipe's number."""
    start = random.Random(number(recipe.seed, video.name, task))
    place = start.randrange(len(LETTERS))
    most = 1 if task in ONCE else TRIES * recipe.per_video
    tries = start.sample(video.events, len(video.events))[:most]
    asked = set()
    for k, event in enumerate(tries):
        rng = random.Random(number(recipe.seed, video.name, task, k))
        try:
            question = TASKS[task](video, event, rng, place)
        except Unclear as error:
            dropped[task, str(error)] += 1
            continue
        if question.about in asked:
            dropped[task, "asked already"] += 1
            continue
        asked.add(question.about)
        yield k, question
        if len(asked) == recipe.per_video:
            return
        place = (place + (question.letter is not None)) % len(LETTERS)


def build_all(videos: Sequence[Video], recipe: Recipe) -> Iterator[Built]:
    """The rows of all videos, these in an order that depends on the seed and their names alone.

    So the first rows of the result are a fair sample of it.
    """
    names = {video.name: number(recipe.seed, "order", video.name) for video in videos}
    for video in sorted(videos, key=lambda video: (names[video.name], video.name)):
        yield build(video, recipe)


def is_held_out(video: str, share: float, seed: int) -> bool:
    """Whether the video is of the held-out part: a share of all videos, the same whatever else."""
    return number(seed, "split", video) < share * 2**64
