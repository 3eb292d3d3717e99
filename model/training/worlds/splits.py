"""What training never shows: half of all combinations of shape, colour and word."""

from functools import cache
from hashlib import blake2b

from hico.ops import _check

from .cards import COLOURS, SHAPES, WORDS

SPLITS = ("train", "test")
FRONT = ("shape", "colour", "word")
VALUES = {"shape": tuple(SHAPES), "colour": tuple(COLOURS), "word": tuple(WORDS)}


@cache
def bits(attribute: str) -> dict[str, int]:
    """Every value's 0 or 1, half of them each, by the order of their hashes."""

    def order(value: str) -> bytes:
        return blake2b(f"{attribute}:{value}".encode(), digest_size=8).digest()

    return {value: place % 2 for place, value in enumerate(sorted(VALUES[attribute], key=order))}


def with_bit(attribute: str, bit: int) -> list[str]:
    """The values of one half."""
    return [value for value, found in bits(attribute).items() if found == bit]


def held_out(shape: str, colour: str, word: str) -> bool:
    """Whether a combination is shown in tests only: its three hashed bits add up to an even number.

    Half of all combinations are. Every value, and every pair of two values, is in both halves, so
    that no pair tells of the third; and what is left when one attribute changes is again whole
    lines of cards that differ in it alone.

    >>> from hico.model.training.worlds.splits import VALUES, held_out
    >>> shapes, colours, words = VALUES.values()
    >>> found = [held_out(s, c, w) for s in shapes for c in colours for w in words]
    >>> sum(found) / len(found)
    0.5
    """
    return sum(bits(a)[v] for a, v in zip(FRONT, (shape, colour, word), strict=True)) % 2 == 0


def last_bit(split: str, first: int, second: int) -> int:
    """The bit that a third value needs beside those of two others."""
    return (first + second + (split == "train")) % 2


def check_split(split: str) -> str:
    """The name, if it is one.

    Raises:
        ValueError: it is not.
    """
    _check.one_of("split", split, SPLITS)
    return split
