"""Cards: pictures that say something, in endless looks."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import torch

from .fonts import TEST, TRAIN, FontSet, check_split, glyph_ids, stroke_fonts
from .layouts import LAYOUTS, check_parts
from .natural import paint_scenes
from .painting import Numbers, finish, frames_at_once, paint_cards, pictures
from .placing import plan
from .shapes import COLOURS, SHAPES
from .vocabulary import NUMBERS, PAPERS, SIDES, WORDS
from .writing import LONGEST, Card, Plan, Style

__all__ = [
    "COLOURS",
    "FONTS",
    "LAYOUTS",
    "NUMBERS",
    "PAPERS",
    "SHAPES",
    "SIDES",
    "WORDS",
    "Card",
    "Style",
    "random_style",
    "render_cards",
]

FONTS = {"train": tuple(TRAIN), "test": tuple(TEST)}


def random_style(rng: random.Random, split: str = "train", fonts: FontSet | None = None) -> Style:
    """A look with fonts and layouts of one part: "train", "test" or "all".

    Args:
        rng: asked for four numbers.
        fonts: to choose from; ours if None.

    Raises:
        ValueError: an unknown part, or one without a font.
    """
    check_split(split)
    names = fonts.part(split) if fonts else _part(FONTS, split)
    if not names:
        raise ValueError(f"fonts: expected one for {split!r} at least, got none")
    return Style(
        rng.choice(names),
        rng.choice(_part(LAYOUTS, split)),
        rng.choice(PAPERS),
        rng.getrandbits(62),
    )


def render_cards(
    cards: Sequence[Card],
    styles: Sequence[Style],
    size: int = 224,
    frames: int = 4,
    device: str | torch.device = "cpu",
    motion: bool = True,
    side: str | Sequence[str] | Sequence[Sequence[str]] = "both",
    background: torch.Tensor | None = None,
    fonts: FontSet | None = None,
) -> torch.Tensor:
    """Paint a clip of every card: uint8 [n, frames, size, size, 3].

    Args:
        cards, styles: n each: what they say and how they look.
        size: pixels of a frame's side.
        frames: of a clip.
        device: where to paint. Devices differ by at most a grey level or two; the same card and
            style give the same pixels whatever else is in the batch.
        motion: move card, surroundings and light a little from frame to frame.
        side: "both": all is on one side; "front": shape and word, "back": number and way to the
            next card. One for all, one a frame, or one for every frame of every card.
        background: uint8 [n, frames, size, size, 3], what is around the cards; a scene of the
            style's own if None.
        fonts: what the styles' fonts are from; ours if None.

    Raises:
        ValueError: other numbers of styles than cards, an unknown shape, colour, font, layout,
            paper or side, a text too long or with characters that fonts do not have, a seed of
            more than 64 bits, a size or number of frames below 1.

    Example:
        >>> card, style = Card("star", "red", "47", "lemon"), Style("plain", "stack", "lined", 1)
        >>> render_cards([card], [style], size=32).shape
        torch.Size([1, 4, 32, 32, 3])
    """
    device = torch.device(device)
    fonts = fonts or stroke_fonts()
    _check(cards, styles, size, frames, fonts)
    sides = _sides(side, len(cards), frames)
    if background is not None:
        _check_background(background, (len(cards), frames, size, size, 3))
    if not cards:
        return torch.zeros(0, frames, size, size, 3, dtype=torch.uint8, device=device)
    planned = plan(cards, styles, sides, motion, fonts)
    step = max(1, frames_at_once(size, device) // frames)
    seen = pictures(size, device, fonts)
    done = []
    for i in range(0, len(cards), step):
        numbers = on_device(planned, slice(i, i + step), device)
        if background is None:
            seeds, time = (planned[k][i : i + step].reshape(-1) for k in ("behind", "time"))
            behind = paint_scenes(seeds, time, size, device)
        else:
            behind = background[i : i + step].to(device).flatten(0, 1).permute(0, 3, 1, 2) / 255
        done.append(finish(numbers, paint_cards(numbers, behind, seen), seen.grain))
    return torch.cat(done).reshape(len(cards), frames, size, size, 3)


def on_device(planned: Plan, rows: slice, device: torch.device) -> Numbers:
    """Numbers of some clips as float32 (integers as int64), frames in one dimension."""
    found = {}
    for name, array in planned.items():
        part = np.ascontiguousarray(array[rows]).reshape(-1, *array.shape[2:])
        kind = np.int64 if part.dtype.kind in "iu" else np.float32
        found[name] = torch.from_numpy(part.astype(kind)).to(device)
    return found


def _part(names: dict[str, tuple[str, ...]], split: str) -> tuple[str, ...]:
    return names["train"] + names["test"] if split == "all" else names[split]


def _sides(side: object, cards: int, frames: int) -> np.ndarray:
    """int64 [cards, frames], numbers of `SIDES`."""
    given = np.asarray(side)
    check_parts(given.reshape(-1).tolist(), SIDES, "side")
    if given.ndim > 2 or given.shape not in ((), (frames,), (cards, frames)):
        raise ValueError(
            f"side: expected one name, {frames} or {cards} x {frames}, got {list(given.shape)}"
        )
    numbers = np.array([SIDES.index(name) for name in given.reshape(-1).tolist()], np.int64)
    return np.broadcast_to(numbers.reshape(given.shape), (cards, frames))


def _check(
    cards: Sequence[Card], styles: Sequence[Style], size: int, frames: int, fonts: FontSet
) -> None:
    if len(cards) != len(styles):
        raise ValueError(f"styles: expected one a card, {len(cards)}, got {len(styles)}")
    for what, value in (("size", size), ("frames", frames)):
        if value < 1:
            raise ValueError(f"{what}: expected at least 1, got {value}")
    check_parts((card.shape for card in cards), ("", *SHAPES), "shape")
    check_parts((card.colour for card in cards), COLOURS, "colour")
    check_parts((style.font for style in styles), fonts.names, "font")
    check_parts((style.layout for style in styles), _part(LAYOUTS, "all"), "layout")
    check_parts((style.paper for style in styles), PAPERS, "paper")
    for style in styles:
        if not -(2**63) <= style.seed < 2**63:
            raise ValueError(f"seed: expected an integer of 64 bits, got {style.seed}")
    for text in {text for card in cards for text in (card.number, card.word, card.goto or "")}:
        glyph_ids(text)
        if len(text) > LONGEST:
            raise ValueError(f"text: expected at most {LONGEST} characters, got {text!r}")


def _check_background(background: torch.Tensor, shape: tuple[int, ...]) -> None:
    if background.dtype != torch.uint8 or background.shape != shape:
        raise ValueError(
            f"background: expected uint8 {list(shape)}, got {background.dtype} "
            f"{list(background.shape)}"
        )
