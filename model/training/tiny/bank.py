"""A bank of clips seen once: any number of videos is then put together without painting again."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from hico.model._pixels import normalize
from hico.model.training.worlds import World, make_world
from hico.model.training.worlds.cards import Card, Style, random_style
from hico.model.training.worlds.fonts import FontSet, stroke_fonts
from hico.model.training.worlds.haystack import NaturalHaystack
from hico.model.training.worlds.world import CLIP
from hico.model.vision.clip_modes import clip_tokens

from .easel import TEST, Easel, drafted
from .reading import Lesson, random_way
from .typefaces import training_fonts

VARIED = 0.5
HOPS = (2, 3, 3)  # of every third deck with chains
ALIKE = 0.5  # share of decks whose cards all look alike, as if one program had drawn them
CUT = 3  # every so manieth deck has its cards across two clips each, as videos do that nobody cut
# frames of the first of these clips before the card
LATE = (1, 2, 2, 3)
ROOM = 1000  # frames of the worlds that cards are taken from


@dataclass(frozen=True)
class Deck:
    """The cards of one world.

    Attributes:
        cards: what they say.
        first: the bank's row of the first of them.
        hops: cards of each chain, 1 = there are none.
        parts: rows of each card: 2 = it ends in the clip behind the one that it begins in.
    """

    cards: tuple[Card, ...]
    first: int
    hops: int
    parts: int = 1


@dataclass
class Bank:
    """Features of clips: those of the decks' cards, then those of haystack.

    Attributes:
        features: [clips, tokens, C], ahead of the connector's MLP.
        decks: whose cards the first rows are.
        hay: the first row of haystack.
    """

    features: Tensor
    decks: tuple[Deck, ...]
    hay: int

    def __post_init__(self) -> None:
        cards = sum(len(deck.cards) * deck.parts for deck in self.decks)
        if self.features.ndim != 3 or not cards == self.hay < len(self.features):
            raise ValueError(
                f"features: expected [more than {cards}, tokens, C] for decks of {cards} clips, "
                f"got {list(self.features.shape)} with haystack from {self.hay} on"
            )


def draw_worlds(count: int, split: str = "train", seed: int = 0) -> list[World]:
    """Worlds of about 40 cards each, needles and chains by turns."""
    found = []
    for i in range(count):
        kind = "multihop" if i % 2 else "needle"
        hops = HOPS[i // 2 % len(HOPS)]
        found.append(make_world(kind, (seed << 32) + i, ROOM, split, hops=hops, card="mixed"))
    return found


def decks_of(worlds: Sequence[World]) -> tuple[Deck, ...]:
    """Decks whose cards lie in the bank one world after the other."""
    found, first = [], 0
    for number, world in enumerate(worlds):
        cards = tuple(one.card for one in world.placements)
        hops = world.questions[0].hops if world.kind == "multihop" else 1
        parts = 2 if number // 2 % CUT == CUT - 1 else 1
        found.append(Deck(cards, first, hops, parts))
        first += len(cards) * parts
    return tuple(found)


class Look(NamedTuple):
    """A clip of a card.

    Attributes:
        lesson, style: what is painted; varied: whether as others might, see `vary`.
        sides: of the card, frame by frame; "" is a frame without it.
        around: the frame of haystack that all frames without it are; None = they go on.
    """

    lesson: Lesson
    style: Style
    sides: tuple[str, ...]
    varied: bool
    around: int | None


def looks_of(
    worlds: Sequence[World], decks: Sequence[Deck], varied: float, fonts: FontSet, seed: int
) -> list[Look]:
    """The clips of all cards in the order of the bank's rows."""
    rng = random.Random(f"{seed} looks")
    found = []
    for world, deck in zip(worlds, decks, strict=True):
        alike, look = rng.random() < ALIKE * (varied > 0), None
        around = rng.randrange(1 << 20) * CLIP if alike else None
        for one in world.placements:
            if look is None or not alike:
                look = _random_look(rng, one.style, varied, fonts)
            way, style, differs = look
            late = rng.choice(LATE) if deck.parts > 1 else 0
            sides = one.sides
            if late == CLIP // 2:  # one side in each clip: their order alone says which belong
                sides = tuple(sorted(sides, reverse=rng.random() < 0.5))
            shown = ("",) * late + sides + ("",) * (CLIP * deck.parts - CLIP - late)
            for at in range(0, len(shown), CLIP):
                lesson = Lesson(one.card, False, True, *way)
                found.append(Look(lesson, style, shown[at : at + CLIP], differs, around))
    return found


def _random_look(
    rng: random.Random, own: Style, varied: float, fonts: FontSet
) -> tuple[tuple, Style, bool]:
    """How a card is drawn: the way, the style, and whether others might have drawn it."""
    if rng.random() >= varied:
        return (), own, False
    return random_way(rng), random_style(rng, "train", fonts), True


def paint_bank(
    model: Any,
    worlds: int,
    hay: int,
    split: str = "train",
    seed: int = 0,
    batch: int = 512,
    mode: str = "similarity",
    varied: float = VARIED,
) -> Bank:
    """Draws worlds and haystack, and sees each of their clips once, on the model's device.

    Args:
        model: whose encoder is used, as it is.
        worlds: how many of about 40 cards each; hay: clips of haystack.
        batch: clips painted at once: below 512 a GPU is mostly idle.
        mode: how the tokens of a clip become fewer, as in clip_tokens; "none" keeps them all.
        varied: share of the cards that look as others might draw them; of the split "test" none.
    """
    device, size = next(model.encoder.parameters()).device, model.encoder.image_size
    drawn = draw_worlds(worlds, split, seed)
    decks, varied = decks_of(drawn), varied if split == "train" else 0.0
    rng, fonts = random.Random(seed), training_fonts() if varied else stroke_fonts()
    easel, looks = Easel(model.encoder, fonts), looks_of(drawn, decks, varied, fonts, seed)
    starts = [rng.randrange(1 << 20) * CLIP for _ in range(hay)]
    haystack = NaturalHaystack(rng.randrange(1 << 16) if split == "train" else TEST)

    def cards(at: range) -> Tensor:
        lessons, styles, sides, differ, around = zip(*looks[at.start : at.stop], strict=True)
        draft = drafted(rng, lessons, styles, sides, fonts, np.array(differ))
        clips, bare = easel.clips(draft), ~draft.shown
        numbers = rng.randrange(1 << 20) * CLIP + torch.arange(bare.numel()).view_as(bare)
        for row, number in enumerate(around):
            if number is not None:
                numbers[row] = number
        clips[bare.to(device)] = haystack.frames(numbers[bare], size, device)
        return clips

    def scenes(at: range) -> Tensor:
        numbers = torch.tensor(starts[at.start : at.stop])[:, None] + torch.arange(CLIP)
        return haystack.frames(numbers.flatten(), size, device).unflatten(0, (-1, CLIP))

    seen = [
        *_seen(model, cards, len(looks), batch, "cards", mode),
        *_seen(model, scenes, hay, batch, "haystack", mode),
    ]
    return Bank(torch.cat(seen), decks, len(looks))


@torch.no_grad()
def _seen(
    model: Any, paint: Callable[[range], Tensor], count: int, batch: int, name: str, mode: str
) -> list[Tensor]:
    """Features of clips, painted batch by batch."""
    encoder, count_left = model.encoder, model.model.mm_projector.tokens_per_clip
    like, found = next(encoder.parameters()), []
    for i in tqdm(range(0, count, batch), desc=name, disable=None):
        for clips in paint(range(i, min(i + batch, count))).split(128):
            pixels = normalize(clips, like.device).to(like.dtype)
            tokens, metric = encoder(pixels, return_metric=True)
            found.append(clip_tokens(tokens, metric, mode, count_left, CLIP))
    return found
