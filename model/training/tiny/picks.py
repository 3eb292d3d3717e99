"""Which cards a video shows: any of a deck, or those that are hard to tell apart."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hico.model.training.worlds.cards import Card

LINE = 8  # cards at most that a word alone tells apart


class Kept(NamedTuple):
    """A card, and the bank's row of its first clip."""

    card: Card
    row: int


def word_lines(rng: np.random.Generator, kept: Sequence[Sequence[Kept]], most: int) -> list[Kept]:
    """Up to `most` cards of any decks, in lines of up to LINE of one shape and colour.

    A deck's few words meet each other alone, and a model that has to find a card by its word then
    takes one in a hundred for another one, however short the video: here any two words may meet.

    Args:
        kept: by shape and colour, two or more of each.
    """
    found: list[Kept] = []
    for at in rng.permutation(len(kept)).tolist():
        line: list[Kept] = []
        taken = {one.card.number for one in found}
        for i in rng.permutation(len(kept[at])).tolist():
            one = kept[at][i]
            if one.card.number in taken or one.card.word in {own.card.word for own in line}:
                continue
            line.append(one)
            taken.add(one.card.number)
            if len(line) == min(LINE, most - len(found)):
                break
        found += line
        if len(found) == most:
            break
    return found


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
