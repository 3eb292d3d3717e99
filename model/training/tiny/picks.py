"""Which cards of a deck a video shows: any, or those that are hard to tell apart."""

from collections.abc import Sequence

import numpy as np

from hico.model.training.worlds.cards import Card


def some_cards(
    rng: np.random.Generator, cards: Sequence[Card], most: int, hard: float
) -> list[int]:
    """Numbers of 1 to `most` cards: any, or, in a share `hard`, neighbours of each other.

    Neighbours come as whole cubes, faces and edges, so that every card has as many as any other.
    """
    most = min(most, len(cards))
    if rng.random() >= hard:
        count = int(rng.integers(max(1, most // 2), most + 1))
        return rng.permutation(len(cards))[:count].tolist()
    cubes = cubes_of(cards)
    order = rng.permutation(len(cubes))
    if most >= 8:
        return [i for c in order[: most // 8] for i in cubes[c]][:most]
    found = cubes[order[0]]
    for name in rng.permutation(["shape", "colour", "word"]).tolist():
        if len(found) > most:
            value = getattr(cards[found[rng.integers(len(found))]], name)
            found = [i for i in found if getattr(cards[i], name) == value]
    return found


def cubes_of(cards: Sequence[Card]) -> list[list[int]]:
    """Cards that are all combinations of a few shapes, colours and words."""
    by_word: dict[str, list[int]] = {}
    for i, card in enumerate(cards):
        by_word.setdefault(card.word, []).append(i)
    found: dict[frozenset, list[int]] = {}
    for own in by_word.values():
        found.setdefault(frozenset((cards[i].shape, cards[i].colour) for i in own), []).extend(own)
    return list(found.values())
