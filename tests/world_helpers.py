"""Worlds in numbers: many of a kind, who is a target, and what a cue is worth."""

from functools import cache

import numpy as np

from hico.model.training.worlds import make_world

KINDS = ("needle", "multihop", "ordering", "counting", "grounding")


def worlds(kind, count=60, split="train", frames=1000, **more):
    """The first worlds of a kind, each drawn once."""
    drawn = _drawn(kind, split, frames, *more.items())
    while len(drawn) < count:
        drawn.append(make_world(kind, len(drawn), frames, split, **more))
    return drawn[:count]


@cache
def _drawn(*_):
    return []


def front(card):
    return card.shape, card.colour, card.word


def differing(one, other, names=("shape", "colour", "word")):
    return sum(getattr(one, name) != getattr(other, name) for name in names)


def auc(targets, others):
    """The chance that a target's number is above another's, ties counted half, and its spread."""
    targets, others = np.asarray(targets, float), np.asarray(others, float)
    values = np.concatenate([targets, others])
    ranks = np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in targets])
    n, m = len(targets), len(others)
    area = (ranks.sum() - n * (n + 1) / 2) / (n * m)
    return area, np.sqrt((n + m + 1) / (12 * n * m))
