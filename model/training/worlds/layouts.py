"""Where the parts of a card stand: boxes cut out of boxes."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

PARTS = "shape", "number", "word", "lead", "key"
FRONT, BACK = frozenset(("shape", "word")), frozenset(("number", "lead", "key"))

Tree = Any  # a part, "goto", "" for room, or ("rows" or "cols", (weight, tree), ...)
Box = tuple[float, float, float, float]

# name -> width over height, and what stands where
_TRAIN: dict[str, tuple[float, Tree]] = {
    "stack": (0.85, ("rows", (3, "shape"), (2.4, "number"), (1.5, "word"), (1.6, "goto"))),
    "beside": (
        1.2,
        ("rows", (3, ("cols", (1, "shape"), (1, "number"))), (1.5, "word"), (1.5, "goto")),
    ),
    "reverse": (
        1.1,
        ("rows", (1.5, "word"), (3, ("cols", (1, "number"), (1, "shape"))), (1.4, "goto")),
    ),
    "left": (
        1.4,
        ("cols", (2, "shape"), (2.6, ("rows", (2.2, "number"), (1.5, "word"), (1.5, "goto")))),
    ),
    "right": (
        1.4,
        ("cols", (2.6, ("rows", (1.4, "word"), (2.2, "number"), (1.5, "goto"))), (2, "shape")),
    ),
    "headline": (
        1.0,
        ("rows", (2.4, "number"), (2, ("cols", (1, "shape"), (1.7, "word"))), (1.4, "goto")),
    ),
    "corner": (
        1.2,
        (
            "rows",
            (1.4, "goto"),
            (3, ("cols", (2.4, ("rows", (1.2, "word"), (2, "number"))), (1.8, "shape"))),
        ),
    ),
    "footer": (
        0.95,
        ("rows", (3, "shape"), (1.6, ("cols", (1, "number"), (1.7, "word"))), (1.4, "goto")),
    ),
    "flag": (
        1.15,
        ("rows", (1.4, "goto"), (1.4, "word"), (3, ("cols", (1, "shape"), (1, "number")))),
    ),
}
_TEST: dict[str, tuple[float, Tree]] = {
    "ticket": (
        1.4,
        ("cols", (2.1, "number"), (2.4, ("rows", (2.2, "shape"), (1.3, "word"), (1.4, "goto")))),
    ),
    "poster": (0.85, ("rows", (1.4, "word"), (2.8, "shape"), (2.2, "number"), (1.4, "goto"))),
    "signpost": (
        1.1,
        ("rows", (1.5, "goto"), (2.4, "number"), (1.8, ("cols", (1.7, "word"), (1, "shape")))),
    ),
    "diagonal": (
        1.0,
        (
            "rows",
            (2.4, ("cols", (1.4, "shape"), (1, ""))),
            (1.3, "word"),
            (2, ("cols", (1, ""), (1.4, "number"))),
            (1.4, "goto"),
        ),
    ),
}
LAYOUTS = {"train": tuple(_TRAIN), "test": tuple(_TEST)}
_ALL = _TRAIN | _TEST


def leads_across(name: str) -> bool:
    """Whether the way to the next card has the card's whole width."""
    kind, *children = _ALL[name][1]
    return kind == "rows" and any(child == "goto" for _, child in children)


def layout_shape(name: str) -> float:
    """Width over height of the layout's cards."""
    return _ALL[name][0]


@cache
def boxes(name: str, parts: frozenset[str]) -> tuple[Box | None, ...]:
    """Boxes of the parts in the order of `PARTS`, None for those that are not on the card.

    Args:
        name: of `LAYOUTS`.
        parts: what is there to be placed, of `PARTS`; the others leave their room to these.

    Returns:
        (left, top, right, bottom) each, in a card that goes from -1 to 1, y downwards.

    Example:
        >>> boxes("stack", frozenset(("shape", "number")))[0]
        (-1, -1, 1, 0.111...)
    """
    found: dict[str, Box] = {}
    tree = _prune(_ALL[name][1], parts)
    if tree:
        _cut(tree, (-1, -1, 1, 1), found)
    return tuple(found.get(part) for part in PARTS)


def _prune(tree: Tree, parts: frozenset[str]) -> Tree:
    """The tree with these parts only, None where nothing is left but room."""
    if isinstance(tree, str):
        if tree == "goto":
            tree = ("rows", (1, "lead"), (1, "key")) if "lead" in parts else "key"
            return _prune(tree, parts) if "key" in parts else None
        return tree if tree in parts else None
    left = [(weight, _prune(child, parts) if child else "") for weight, child in tree[1:]]
    left = [(weight, child) for weight, child in left if child is not None]
    return (tree[0], *left) if any(child for _, child in left) else None


def _cut(tree: Tree, box: Box, found: dict[str, Box]) -> None:
    if isinstance(tree, str):
        found[tree] = box
        return
    axis = 1 if tree[0] == "rows" else 0
    whole, at = sum(weight for weight, _ in tree[1:]), box[axis]
    for weight, child in tree[1:]:
        end = at + (box[axis + 2] - box[axis]) * weight / whole
        part = list(box)
        part[axis], part[axis + 2] = at, end
        _cut(child, (part[0], part[1], part[2], part[3]), found)
        at = end


def check_parts(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises ValueError for the first name that is not known."""
    known = tuple(known)
    for name in names:
        if name not in known:
            raise ValueError(f"{what}: expected one of {', '.join(known)}, got {name!r}")
