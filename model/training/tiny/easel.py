"""Cards for stage 0a: planned by many processes, painted by one device in one compiled pass."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hico.model.training.worlds.cards import Style, on_device, random_style
from hico.model.training.worlds.fonts import FontSet, stroke_fonts
from hico.model.training.worlds.haystack import NaturalHaystack
from hico.model.training.worlds.labels import stands_where
from hico.model.training.worlds.natural import paint_scene, scene_numbers
from hico.model.training.worlds.painting import (
    Numbers,
    Pictures,
    finish,
    frames_at_once,
    paint_cards,
    pictures,
)
from hico.model.training.worlds.placing import plan
from hico.model.training.worlds.vocabulary import SIDES
from hico.model.training.worlds.writing import Plan

from .ahead import made_ahead
from .reading import SIDE, Lesson, random_lesson, random_sides, targets
from .variety import vary

BEHIND = "behind "  # before the names of what scenes are painted from
TEST = 1 << 20  # seed of the haystack that training never sees


class Draft(NamedTuple):
    """Clips to be painted, in few tensors, as each takes its time from process to process.

    Attributes:
        packed: float32 [n * T, K], see `fields`.
        told: int64 [n, heads], targets.
        shown: bool [n, T], the frames with the card; the others are to be of haystack.
    """

    packed: Tensor
    told: Tensor
    shown: Tensor


class Seen(NamedTuple):
    """Painted clips.

    Attributes:
        clips: uint8 [n, T, S, S, 3]; told: int64 [n, heads], what they say.
        cells: uint8 [n, T * L, 4, 3], the numbers of `stands_where` for each patch's four cells.
    """

    clips: Tensor
    told: Tensor
    cells: Tensor


class Field(NamedTuple):
    """A part of `Draft.packed`: its name, shape, and whether it is an integer."""

    name: str
    shape: tuple[int, ...]
    whole: bool


def draft(rng: random.Random, count: int, frames: int, split: str, fonts: FontSet) -> Draft:
    """So many random cards of a split."""
    lessons = [random_lesson(rng, split) for _ in range(count)]
    styles = [random_style(rng, split, fonts) for _ in range(count)]
    sides = [random_sides(rng, frames) for _ in range(count)]
    varied = np.full(count, split == "train")
    return drafted(rng, lessons, styles, sides, fonts, varied)


def drafted(
    rng: random.Random,
    lessons: Sequence[Lesson],
    styles: Sequence[Style],
    sides: Sequence[Sequence[str]],
    fonts: FontSet,
    varied: np.ndarray,
) -> Draft:
    """Cards in these looks, n each.

    Args:
        sides: of each frame, "" where the card is not there.
        varied: bool [n], whose looks are to be those of others, see `vary`.
    """
    seen = np.array([[SIDES.index(side or "both") for side in each] for each in sides])
    planned = plan([one.painted for one in lessons], styles, seen, True, fonts)
    if varied.any():
        other = vary(planned, lessons, np.random.default_rng(rng.getrandbits(60)))
        for name, one in planned.items():
            some = varied.reshape(-1, *[1] * (one.ndim - 1))
            planned[name] = np.where(some, other[name], one)
    parts = [one.float().reshape(len(one), -1) for _, one in sorted(_numbers(planned).items())]
    shown = torch.tensor([[bool(side) for side in each] for each in sides])
    return Draft(torch.cat(parts, 1), torch.from_numpy(targets(lessons, sides)), shown)


def _numbers(planned: Plan) -> Numbers:
    """Of cards and of what is behind them."""
    cpu = torch.device("cpu")
    seeds, times = (planned.pop(name).reshape(-1) for name in ("behind", "time"))
    scenes = {f"{BEHIND}{k}": one for k, one in scene_numbers(seeds, times, cpu).items()}
    return on_device(planned, slice(None), cpu) | scenes


def fields() -> list[Field]:
    """What lies one after the other in `Draft.packed`."""
    rng, fonts = random.Random(0), stroke_fonts()
    card, style = random_lesson(rng, "test").painted, random_style(rng, "test", fonts)
    numbers = _numbers(plan([card], [style], np.zeros((1, 1), np.int64), True, fonts))
    return [
        Field(name, tuple(one.shape[1:]), not one.is_floating_point())
        for name, one in sorted(numbers.items())
    ]


def unpacked(packed: Tensor, parts: list[Field]) -> tuple[Numbers, Numbers]:
    """Numbers of the cards, and of what is behind them."""
    cards: Numbers = {}
    behind: Numbers = {}
    at = 0
    for name, shape, whole in parts:
        size = math.prod(shape)
        one = packed[:, at : at + size].reshape(len(packed), *shape)
        place = behind if name.startswith(BEHIND) else cards
        place[name.removeprefix(BEHIND)] = one.long() if whole else one
        at += size
    return cards, behind


class Drafts(IterableDataset):
    """Drafts without end."""

    def __init__(self, count: int, frames: int, split: str, fonts: FontSet, seed: int) -> None:
        self.given, self.seed = (count, frames, split, fonts), seed

    def __iter__(self) -> Iterator[Draft]:
        info = torch.utils.data.get_worker_info()
        rng = random.Random(f"{self.seed} {info.id if info else 0}")
        while True:
            yield draft(rng, *self.given)

    def loader(self, workers: int) -> DataLoader:
        """Drafts made ahead by so many processes, 0 = by this one."""
        return made_ahead(self, workers, each=8, pin=torch.cuda.is_available())


class Easel:
    """Paints drafts on the device of an encoder.

    Args:
        encoder: whose size and patches are meant.
        fonts: what drafts are planned with.
        compiled: several times as fast on a GPU, for drafts of one length.
    """

    def __init__(self, encoder: Any, fonts: FontSet, compiled: bool = False) -> None:
        size, patch = encoder.image_size, encoder.patch_size
        device = next(encoder.parameters()).device
        self.size, self.cells, self.device = size, SIDE * size // patch, device
        self.fields, self.seen = fields(), pictures(size, device, fonts)
        self.run = torch.compile(paint, dynamic=False) if compiled else paint

    @torch.no_grad()
    def __call__(self, draft: Draft, hay: Tensor) -> Seen:
        """Paints them; hay: uint8 [n, T, S, S, 3], whose frames are seen where no card is."""
        packed = draft.packed.to(self.device, non_blocking=True)
        frames, cells = self.run(packed, self.fields, self.seen, self.size, self.cells)
        shown = draft.shown.to(self.device, non_blocking=True)
        clips = torch.where(shown[..., None, None, None], frames.view_as(hay), hay)
        there = cells.unflatten(0, shown.shape) * shown[..., None, None, None]
        return Seen(clips, draft.told.to(self.device, non_blocking=True), there.flatten(1, 2))

    @torch.no_grad()
    def clips(self, draft: Draft) -> Tensor:
        """The pictures alone, uint8 [n, T, S, S, 3], of the cards in every frame."""
        pieces = draft.packed.to(self.device).split(frames_at_once(self.size, self.device))
        given = [unpacked(one, self.fields) for one in pieces]
        done = torch.cat([picture(*numbers, self.seen, self.size) for numbers in given])
        return done.unflatten(0, draft.shown.shape)

    def haystack(self, rng: random.Random, count: int, frames: int, split: str) -> Seen:
        """Clips without a card."""
        starts = torch.tensor([rng.randrange(1 << 22) * frames for _ in range(count)])
        at = (starts[:, None] + torch.arange(frames)).flatten()
        seed = rng.randrange(1 << 16) if split == "train" else TEST
        clips = NaturalHaystack(seed).frames(at, self.size, self.device)
        told = torch.from_numpy(targets([None] * count, [("both",)] * count))
        patches = frames * (self.cells // SIDE) ** 2
        cells = torch.zeros(count, patches, SIDE**2, 3, dtype=torch.uint8, device=self.device)
        return Seen(clips.unflatten(0, (count, frames)), told.to(self.device), cells)


def paint(
    packed: Tensor, parts: list[Field], seen: Pictures, size: int, cells: int
) -> tuple[Tensor, Tensor]:
    """Frames uint8 [B, S, S, 3], and what stands where: uint8 [B, patches, 4, 3]."""
    p, behind = unpacked(packed, parts)
    there = torch.stack(stands_where(p, cells), -1).clamp(max=255).to(torch.uint8)
    rows = there.unflatten(2, (-1, SIDE)).unflatten(1, (-1, SIDE)).transpose(2, 3)
    return picture(p, behind, seen, size), rows.reshape(len(there), -1, SIDE**2, 3)


def picture(numbers: Numbers, behind: Numbers, seen: Pictures, size: int) -> Tensor:
    """Frames uint8 [B, S, S, 3]."""
    image = paint_cards(numbers, paint_scene(behind, seen.noise, size), seen)
    return finish(numbers, image, seen.grain)


class Pool:
    """Clips on the device, each seen a few times before a new one takes its place."""

    def __init__(self, room: int) -> None:
        self.room, self.filled, self.next = room, 0, 0
        self.kept: list[Tensor] = []

    def add(self, new: Seen) -> None:
        """The oldest make way."""
        if not self.kept:
            self.kept = [one.new_empty(self.room, *one.shape[1:]) for one in new]
        at = (torch.arange(len(new.told), device=new.told.device) + self.next) % self.room
        for kept, one in zip(self.kept, new, strict=True):
            kept[at] = one
        self.next = (self.next + len(at)) % self.room
        self.filled = min(self.filled + len(at), self.room)

    def some(self, count: int) -> Seen:
        """Any of them."""
        at = torch.randint(self.filled, (count,), device=self.kept[0].device)
        return Seen(*(one[at] for one in self.kept))


def joined(*parts: Seen) -> Seen:
    """All clips of several."""
    return Seen(*map(torch.cat, zip(*parts, strict=True)))
