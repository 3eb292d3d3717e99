"""Guessing without the video: by letter, by value, and by the words of question and options."""

import re
import zlib
from collections import Counter

import numpy as np
import torch

from hico.model.training.worlds import Question

DIMENSIONS = 1 << 12
STEPS, RATE, DECAY = 60, 0.1, 1e-2


def guesses(known: list[Question], asked: list[Question]) -> dict[str, list[bool]]:
    """Which of `asked` each way of guessing gets right, having seen the answers of `known`."""
    return {
        "letter": _by_letter(known, asked),
        "value": _by_value(known, asked),
        "words": _by_words(known, asked),
    }


def _by_letter(known: list[Question], asked: list[Question]) -> list[bool]:
    """The most frequent letter."""
    letter = Counter(question.answer for question in known).most_common(1)[0][0]
    return [question.answer == letter for question in asked]


def _by_value(known: list[Question], asked: list[Question]) -> list[bool]:
    """The option that was right most often among the times it was there."""
    seen: Counter[str] = Counter()
    good: Counter[str] = Counter()
    for question in known:
        seen.update(question.options)
        good[question.options[question.answer]] += 1
    return [
        int(np.argmax([(good[o] + 1) / (seen[o] + 4) for o in question.options])) == question.answer
        for question in asked
    ]


def _by_words(known: list[Question], asked: list[Question]) -> list[bool]:
    """A linear classifier of every option's words, alone and together with the question's."""
    x, xs = _features(known), _features(asked)
    answers = torch.tensor([question.answer for question in known])
    weight = torch.zeros(DIMENSIONS, requires_grad=True)
    optimizer = torch.optim.AdamW([weight], lr=RATE, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(_scores(x, weight), answers).backward()
        optimizer.step()
    with torch.no_grad():
        chosen = _scores(xs, weight).argmax(1).tolist()
    return [a == question.answer for a, question in zip(chosen, asked, strict=True)]


def _scores(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    flat = torch.nn.functional.embedding_bag(x.flatten(0, 1), weight[:, None], mode="sum")
    return flat.view(len(x), 4)


def _features(questions: list[Question]) -> torch.Tensor:
    """int64 [n, 4, k]: numbers of the features of each option, padded with 0."""
    rows = []
    for question in questions:
        prompt = question.text.split("\nOptions:")[0]
        words = sorted(set(re.findall(r"\w+", prompt)))
        options = [re.findall(r"\w+", option) for option in question.options]
        for place, option in enumerate(options):
            found = [f"at {place}", *option, *(f"{w}*{o}" for w in words for o in option)]
            found += [f"in {w}" for w in option if w in words]
            found += [f"shared {sum(w in other for other in options)}" for w in option]
            rows.append([zlib.crc32(f.encode()) % (DIMENSIONS - 1) + 1 for f in found])
    longest = max(map(len, rows))
    flat = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    return flat.view(len(questions), 4, longest)
