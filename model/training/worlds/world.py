"""A synthetic video as a value: what is on which frame, and what is asked about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .cards import Card, Style, render_cards
from .haystack import Haystack, NaturalHaystack, VideoHaystack
from .questions import Question, described

CLIP = 4  # frames that a card is on screen
DRAWN = ("natural", "shipped")  # haystacks that are no folder


@dataclass(frozen=True)
class Placement:
    """A card on four frames.

    Attributes:
        start: its first frame, a multiple of 4: the clips that the model reads.
        sides: which side each frame shows, "front", "back" or "both".
    """

    start: int
    card: Card
    style: Style
    sides: tuple[str, ...] = ("both",) * CLIP


@dataclass(frozen=True)
class World:
    """A video and its questions; `make_world` draws one.

    Attributes:
        kind, seed, split, card: what it was drawn from.
        frames: how many there are; fps: how many a second.
        placements: the cards, first to last.
        haystack: what is between them: "natural", "shipped" or a folder of videos.
        haystack_seed: which stretch of it. Cards are put in between its frames, none is replaced.
        questions: with exact answers; their placements are indices into `placements`.
    """

    kind: str
    seed: int
    split: str
    card: str
    frames: int
    fps: float
    placements: tuple[Placement, ...]
    haystack: str
    haystack_seed: int
    questions: tuple[Question, ...]

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.frames / self.fps

    @cached_property
    def shown(self) -> np.ndarray:
        """int64 [frames], the placement on each frame, -1 = the haystack."""
        found = np.full(self.frames, -1)
        for i, placement in enumerate(self.placements):
            found[placement.start : placement.start + CLIP] = i
        return found

    @cached_property
    def hay(self) -> np.ndarray:
        """int64 [frames], the haystack's frame on each frame that shows it."""
        return np.cumsum(self.shown < 0) - 1

    def render(
        self, indices: Sequence[int] | slice | Tensor, size: int = 224, device: Any = "cpu"
    ) -> Tensor:
        """Frames, drawn now -> uint8 [n, size, size, 3]; memory follows n.

        Args:
            indices: numbers of frames in any order, or a slice.

        Raises:
            ValueError: a frame that is not there.
        """
        at = self._indices(indices)
        out = torch.empty((len(at), size, size, 3), dtype=torch.uint8, device=device)
        owner = self.shown[at]
        hay, cards = np.flatnonzero(owner < 0), np.flatnonzero(owner >= 0)
        if len(hay):
            numbers = torch.from_numpy(self.hay[at[hay]])
            source = haystack_of(self.haystack, self.haystack_seed, self.split)
            out[torch.from_numpy(hay).to(device)] = source.frames(numbers, size, device)
        if len(cards):
            which, place = np.unique(owner[cards], return_inverse=True)
            placed = [self.placements[i] for i in which]
            clips = render_cards(
                [one.card for one in placed],
                [one.style for one in placed],
                size=size,
                frames=CLIP,
                device=device,
                side=[one.sides for one in placed],
            )
            offset = at[cards] - np.array([one.start for one in placed])[place]
            pixels = clips[torch.from_numpy(place), torch.from_numpy(offset)]
            out[torch.from_numpy(cards).to(device)] = pixels
        return out

    def stream(self, size: int = 224, device: Any = "cpu", chunk: int = 64) -> Iterator[Tensor]:
        """All frames in pieces of `chunk`, in bounded memory."""
        for start in range(0, self.frames, chunk):
            yield self.render(slice(start, start + chunk), size, device)

    def all_frames(self, size: int = 224, device: Any = "cpu") -> Tensor:
        """uint8 [frames, size, size, 3], drawn piece by piece."""
        out = torch.empty((self.frames, size, size, 3), dtype=torch.uint8, device=device)
        start, chunk = 0, 64 if out.device.type == "cpu" else 512
        for piece in self.stream(size, device, chunk):
            out[start : start + len(piece)] = piece
            start += len(piece)
        return out

    def description(self) -> str:
        """All cards in their order, in words."""
        return "; ".join(described(one.card) for one in self.placements)

    def _indices(self, indices: Sequence[int] | slice | Tensor) -> np.ndarray:
        if isinstance(indices, slice):
            return np.arange(self.frames)[indices]
        at = np.asarray(indices, dtype=np.int64).reshape(-1)
        if len(at) and not 0 <= at.min() <= at.max() < self.frames:
            raise ValueError(
                f"indices: expected 0 to {self.frames - 1}, got {at.min()} to {at.max()}"
            )
        return at


def haystack_of(name: str, seed: int, split: str) -> Haystack:
    """The haystack of this name: "natural", "shipped" (the package's video), or a folder's videos.

    Those of one folder share what is open and what is read.

    Raises:
        ValueError: neither, or a folder without videos for both splits.
    """
    if name == "natural":
        return NaturalHaystack(seed)
    if not isinstance(name, str) or not (name == "shipped" or Path(name).is_dir()):
        raise ValueError(f"haystack: expected natural, shipped or a folder of videos, got {name!r}")
    return _videos(name, split).seeded(seed)


@lru_cache(maxsize=2)
def _videos(name: str, split: str) -> VideoHaystack:
    if name == "shipped":
        return VideoHaystack(None, 0)
    try:
        return VideoHaystack(name, 0, split)
    except ValueError as error:
        raise ValueError(f"haystack: {error}") from None
