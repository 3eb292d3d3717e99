"""make_world: from a few arguments to a whole world, always the same one."""

from dataclasses import replace
from itertools import permutations
from random import Random
from typing import Any

import numpy as np

from hico.ops import _check

from . import counting, grounding, multihop, needle, ordering
from .cards import random_style
from .families import Draft, Rules
from .splits import SPLITS, check_split
from .world import CLIP, Placement, World

KINDS = {
    "needle": needle.draw,
    "multihop": multihop.draw,
    "ordering": ordering.draw,
    "counting": counting.draw,
    "grounding": grounding.draw,
}
CARDS = ("turned", "static", "mixed")
HOPS = (1, 6)
RATES = (0.001, 1000)  # frames a second
TURNED = 0.75  # of the worlds of "mixed"
TURNS = sorted(set(permutations(("front", "front", "back", "back"))))


def make_world(
    kind: str,
    seed: int,
    frames: int,
    split: str = "train",
    *,
    questions: int = 1,
    card: str = "turned",
    cards: int | None = None,
    hops: int | tuple[int, int] = 3,
    density: float = 0.5,
    depth: float | None = None,
    haystack: str = "natural",
    fps: float = 1.0,
) -> World:
    """The world of these arguments: equal arguments give equal worlds, nothing else is read.

    A card fills four frames that begin at a multiple of four, anywhere in the video. All cards of a
    world have one style. A turned card shows its front (shape, colour, word) on two of them and its
    back (number, or the next card) on the other two, in one of six orders, so that no single frame
    tells which front belongs to which back: 64 uniform frames of 1,000 are no better than none. A
    static card shows both sides on all four; whoever sees 64 of 1,000 frames then meets the right
    card one time in four, rules out the wrong ones met, and is right half of the time.

    Args:
        kind: needle, multihop, ordering, counting or grounding.
        seed: not negative.
        frames: of the video; those beyond the last multiple of 4 show no card.
        split: "test" draws combinations, fonts, layouts, videos and wordings that "train" never
            does.
        questions: at most so many, fewer where more would give each other away. The video and the
            first questions are the same for any number.
        card: turned, static, or mixed: three worlds of four turned.
        cards: None = at least 33, or as many as fit where the video is shorter. A needle may also
            ask for 1 to 3, an easy start: then wrong options are not in the video.
        hops: cards of a chain, or the fewest and the most.
        density: at most this share of the video shows cards. The smallest videos hold 4 cards
            (needle), 4 x hops (multihop), 9 (ordering), 16 (grounding), 24 (counting).
        depth: where the first needle of the first question is, 0 = first clip, 1 = last; None =
            anywhere. Not for ordering and grounding, whose answers are places.
        haystack: natural; shipped: the package's own video, in both splits; or a folder of
            videos, of which each split has its own.
        fps: frames a second.

    Raises:
        ValueError: an argument out of range, or fewer frames than the smallest world takes.

    >>> from hico.model.training.worlds import make_world
    >>> world = make_world("needle", seed=1, frames=1000)
    >>> len(world.placements), len(world.questions), world.questions[0].letter in "ABCD"
    (40, 1, True)
    """
    _check.one_of("kind", kind, tuple(KINDS))
    check_split(split)
    _check.one_of("card", card, CARDS)
    _check.integer("seed", seed, 0, 1 << 63)
    _check.integer("frames", frames, 1, 1 << 31)
    _check.integer("questions", questions, 1, 1 << 31)
    if cards is not None:
        _check.integer("cards", cards, 1, 1 << 31)
    _check_shares(kind, density, depth, fps)
    room = int(frames // CLIP * density)
    rules = Rules(split, frames, fps, room, cards, questions, span("hops", hops, *HOPS))
    key = [tuple(KINDS).index(kind), SPLITS.index(split), seed, frames]
    # two streams: how many questions are asked changes nothing about the video
    said, rng = (np.random.Generator(np.random.PCG64([*key, i])) for i in range(2))
    draft = KINDS[kind](said, rules)
    slots = _slots(rng, draft, frames // CLIP, depth)
    if card == "mixed":
        card = "turned" if rng.random() < TURNED else "static"
    style = random_style(Random(int(rng.integers(1 << 62))), split)
    order = np.argsort(slots)
    places = np.argsort(order)
    placements = tuple(
        Placement(
            int(slots[i]) * CLIP,
            draft.cards[i],
            replace(style, seed=int(rng.integers(1 << 31))),
            TURNS[rng.integers(len(TURNS))] if card == "turned" else ("both",) * CLIP,
        )
        for i in order
    )
    return World(
        kind=kind,
        seed=seed,
        split=split,
        card=card,
        frames=frames,
        fps=float(fps),
        placements=placements,
        haystack=str(haystack),
        haystack_seed=int(rng.integers(1 << 31)),
        questions=tuple(question.moved(places.tolist()) for question in draft.questions),
    )


def _slots(rng: np.random.Generator, draft: Draft, clips: int, depth: float | None) -> np.ndarray:
    """The clip of each card; with a depth the first needle changes places with what is there."""
    if draft.slots is not None:
        return np.array(draft.slots)
    slots = rng.choice(clips, len(draft.cards), replace=False)
    if depth is not None and draft.questions and draft.questions[0].needles:
        target, wanted = draft.questions[0].needles[0], round(depth * (clips - 1))
        slots[slots == wanted] = slots[target]
        slots[target] = wanted
    return slots


def span(name: str, given: Any, least: int, most: int) -> tuple[int, int]:
    """Fewest and most, given as one count or as both.

    Raises:
        ValueError: it is neither, or goes beyond least or most.
    """
    pair = given if isinstance(given, list | tuple) else (given, given)
    if len(pair) != 2:
        raise ValueError(f"{name}: expected a count or [fewest, most], got {given!r}")
    for count in pair:
        _check.integer(name, count, least, most)
    if pair[0] > pair[1]:
        raise ValueError(f"{name}: expected the fewest before the most, got {given!r}")
    return pair[0], pair[1]


def _check_shares(kind: str, density: float, depth: float | None, fps: float) -> None:
    if not _is_number(density) or not 0 < density <= 1:
        raise ValueError(f"density: expected a number above 0, at most 1, got {density!r}")
    if not _is_number(fps) or not RATES[0] <= fps <= RATES[1]:
        raise ValueError(f"fps: expected a number from {RATES[0]} to {RATES[1]}, got {fps!r}")
    if depth is None:
        return
    if kind in ("ordering", "grounding"):
        raise ValueError(f"depth: expected none for {kind}, whose answers are places, got {depth}")
    if not _is_number(depth) or not 0 <= depth <= 1:
        raise ValueError(f"depth: expected a number from 0 to 1, got {depth!r}")


def _is_number(given: Any) -> bool:
    return isinstance(given, int | float) and not isinstance(given, bool)
