"""Worlds in numbers: many of a kind, who is a target, and what a cue is worth."""

from functools import cache

import numpy as np

from hico.model.training.worlds import make_world

KINDS = ("needle", "multihop", "ordering", "counting", "grounding")


@cache
def worlds(kind, count=60, split="train", frames=1000, **more):
    """The first worlds of a kind."""
    return [make_world(kind, seed, frames, split, **more) for seed in range(count)]


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
