"""Needles in synthetic worlds: cards among others, each encoded once, at the depths of a grid."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .._opening import encode
from ..training.worlds import Question, World, make_world
from ..training.worlds.world import CLIP
from ..training.worlds.write import write_video
from .asking import THEN, Ask, Cell, Film
from .features import Haystack, Store
from .haystacks import video_settings
from .placement import assembled, both, cards_of, placed

BASE = 1000  # frames of the world that a longer one has its cards and questions of
READ = 8  # frames of which the reader of videos takes a multiple
MOST = 64  # questions that a world is asked at most
KINDS = ("needle", "multihop")
SOURCES = ("features", "pixels", "mp4")
Video = tuple[int, list[tuple[int, Cell, int]]]  # world, its questions: index, cell, number


@dataclass(frozen=True)
class WorldTask:
    """Questions of worlds, spread over the cells of a grid.

    World number w of a seed has the cards and questions of make_world at min(frames, 1000) frames.
    In a video of another length or for other depths its cards get other clips: all are drawn
    anew, then the first needle of each question changes places with what is at its depth, clip
    round(depth * (clips - 1)). One video is asked once at every depth, each time for another card:
    so all depths share its prefill. Chains stand where they were drawn, and every one is asked
    twice, for the caption and for a detail of its last card.

    Attributes:
        kind: needle or multihop.
        needles: questions, or chains, of each cell.
        depths: of a needle; a chain has none.
        seed, split, card, hops, haystack: as in make_world; all videos have one haystack.
        source: "features", where clips that were encoded once are put together, or "pixels" or
            "mp4", where every video is drawn, and written, read and encoded by itself.
    """

    kind: str
    needles: int
    depths: tuple[float, ...] = ()
    seed: int = 0
    split: str = "test"
    card: str = "turned"
    hops: int = 3
    haystack: str = "natural"
    source: str = "features"
    _drawn: dict[tuple[int, int], World] = field(default_factory=dict, repr=False, compare=False)

    @property
    def single(self) -> bool:
        """Whether it has depths."""
        return self.kind == "needle"

    @property
    def haystack_seed(self) -> int:
        """Of a haystack that no world of make_world has: theirs are below 2**31."""
        return (1 << 31) + self.seed

    def settings(self) -> dict[str, Any]:
        """All that cells depend on."""
        names = ("kind", "needles", "seed", "split", "card", "hops", "haystack", "source")
        found: dict[str, Any] = {"world" if n == "kind" else n: getattr(self, n) for n in names}
        found |= {"depths": list(self.depths)} if self.single else {}
        return found | video_settings(self.haystack, self.split)

    def check(self, frames: Sequence[int]) -> None:
        """Raises ValueError where a grid has a length that worlds cannot have."""
        for count in frames:
            places = [round(depth * (count // CLIP - 1)) for depth in self.depths]
            if self.single and len(set(places)) < len(places):
                raise ValueError(
                    f"--depths: expected a clip of its own for each of {len(places)} depths, "
                    f"got {count // CLIP} clips in {count} frames"
                )
            if self.source == "mp4" and count % READ:
                raise ValueError(
                    f"--frames: expected multiples of {READ} with --source mp4, as the reader "
                    f"takes all frames of such alone, got {count}"
                )
            self.drawn(0, count)

    def drawn(self, number: int, frames: int) -> World:
        """World `number` as make_world gives it."""
        frames = min(frames, BASE)
        if (number, frames) not in self._drawn:
            self._drawn[number, frames] = make_world(
                self.kind,
                (self.seed << 32) + number,
                frames,
                self.split,
                questions=len(self.depths) if self.single else MOST,
                card=self.card,
                hops=self.hops,
                haystack=self.haystack,
            )
        return self._drawn[number, frames]

    def cells(self, frames: int) -> list[Cell]:
        """Those of a length, which are done together."""
        return [(frames, depth) for depth in self.depths] if self.single else [(frames, None)]

    def groups(self, frames: Sequence[int]) -> list[list[Cell]]:
        """All cells; those of a group share videos."""
        return [self.cells(count) for count in frames]

    def videos(self, frames: int) -> list[Video]:
        """The worlds that fill all cells of a length, and what each is asked."""
        found: list[Video] = []
        every = self.cells(frames)
        filled = dict.fromkeys(every, 0)
        number = 0
        while any(filled[cell] < self.needles for cell in every):
            asked = []
            for i in range(len(self.drawn(number, frames).questions)):
                cell = every[(i + number) % len(every)]
                if filled[cell] < self.needles:
                    asked.append((i, cell, filled[cell]))
                    filled[cell] += 1
            if asked:
                found.append((number, asked))
            number += 1
        return found

    def count(self, cells: Sequence[Cell]) -> int:
        """Questions of these cells of one length."""
        return len(cells) * self.needles * (1 if self.single else 2)

    def films(self, cells: Sequence[Cell], hay: Haystack, store: Store) -> Iterator[Film]:
        """The videos that fill these cells of one length."""
        for number, every in self.videos(cells[0][0]):
            asked = [one for one in every if one[1] in cells]
            if not asked:
                continue
            base = self.drawn(number, cells[0][0])
            wanted = {i: cell[1] for i, cell, _ in every if cell[1] is not None}
            world = placed(base, cells[0][0], wanted, self.haystack_seed)
            features = self._features(world, base, hay, store)
            pixels = _pixels(world, hay)
            asks = [ask for one in asked for ask in self._asks(world, store.per_clip, *one)]
            yield Film(world.frames, world.fps, features, pixels, tuple(asks))

    def _asks(self, world: World, per_clip: int, index: int, cell: Cell, number: int) -> list[Ask]:
        question = world.questions[index]
        if self.single:
            return [_ask(world, per_clip, question, cell, "needle", number)]
        rng = np.random.default_rng([world.seed, index])
        caption, detail = both(world, question, rng)
        return [
            _ask(world, per_clip, caption, cell, "caption", number),
            _ask(world, per_clip, detail, cell, "qa", number),
        ]

    def _features(
        self, world: World, base: World, hay: Haystack, store: Store
    ) -> Callable[[], Tensor]:
        if self.source == "features":
            return lambda: assembled(world, hay, lambda: cards_of(base, world, store))
        if self.source == "pixels":
            return lambda: store.encode(_each(world, hay))
        return lambda: _from_mp4(world, store, hay.size)


def _ask(
    world: World, per_clip: int, question: Question, cell: Cell, kind: str, number: int
) -> Ask:
    chain = THEN.join(question.steps)
    steps = (question.turn("steps")[0], question.free_answer, chain) if question.hops > 1 else None
    starts = tuple(world.placements[i].start // CLIP * per_clip for i in question.needles)
    free = (question.turn("free")[0], (question.free_answer,))
    return Ask(cell, kind, number, question.text, question.letter, free, steps, starts)


def _pixels(world: World, hay: Haystack) -> Callable[[Sequence[int]], Tensor]:
    return lambda numbers: world.render(list(numbers), hay.size, hay.model.device)


def _each(world: World, hay: Haystack) -> Iterator[Tensor]:
    for piece in world.stream(hay.size, hay.model.device):
        yield from piece


def _from_mp4(world: World, store: Store, size: int) -> Tensor:
    """What the model sees of the world as a file."""
    from ..processing import VideoChatFlashProcessor

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "world.mp4"
        with store.clock("writing mp4"):
            write_video(path, world, size, store.model.device)
        options = {"keyframes": "exact"}
        visual, _, _ = encode(
            store.model, VideoChatFlashProcessor, str(path), world.frames, False, **options
        )
    return visual
