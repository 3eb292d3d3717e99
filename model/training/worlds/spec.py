"""Many worlds by a few settings: an entry of a data YAML, or the arguments of `hico world`."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from hico.ops import _check

from .make import CARDS, KINDS, make_world, span
from .splits import check_split
from .world import CLIP, World, haystack_of

FORMS = ("options", "free", "steps", "describe", "mixed")
MIXED = (0.6, 0.3, 0.1)  # options, free, steps
DESCRIBE = "What do the cards of the video show?"


@dataclass(frozen=True)
class WorldSpec:
    """Worlds number 0, 1, ...: each of its own seed, all by the same settings.

    Attributes:
        world: kind, see make_world, as split, questions, card, cards, hops, density, haystack, fps.
        seed: two of them share no world, below 2**30.
        frames: of each video, or the fewest and the most: multiples of 4, as the model reads clips.
        count: worlds of an epoch.
        form: what is asked and answered: options (the letter), free (the answer itself), steps
            (every card of the chain, then the answer), mixed (six, three and one in ten), or
            describe: no question, but all cards in their order.
        device: where frames are drawn, cpu or cuda.

    Raises:
        ValueError: values that no world can be made of.

    >>> from hico.model.training.worlds.spec import WorldSpec
    >>> WorldSpec.of({"world": "needle", "seed": 3, "frames": [64, 256]}).make(7).frames
    96
    """

    world: str
    seed: int = 0
    frames: int | tuple[int, int] = 1000
    count: int = 1024
    split: str = "train"
    questions: int = 1
    form: str = "options"
    card: str = "turned"
    cards: int | None = None
    hops: int | tuple[int, int] = 3
    density: float = 0.5
    haystack: str = "natural"
    fps: float = 1.0
    device: str = "cpu"

    def __post_init__(self) -> None:
        _check.one_of("world", self.world, tuple(KINDS))
        _check.one_of("form", self.form, FORMS)
        _check.one_of("card", self.card, CARDS)
        check_split(self.split)
        _check.integer("seed", self.seed, 0, (1 << 30) - 1)
        _check.integer("count", self.count, 1, 1 << 31)
        for frames in self.span:
            if frames % CLIP:
                raise ValueError(f"frames: expected multiples of {CLIP}, got {self.frames}")
        _check_device(self.device)
        haystack_of(self.haystack, 0, self.split)
        # the smallest world tells of all else that does not fit
        self._world(self.span[0], 0)

    @classmethod
    def of(cls, entry: "WorldSpec | Mapping[str, Any]") -> "WorldSpec":
        """The settings of a data YAML's entry.

        Raises:
            ValueError: an unknown key, or as above.
        """
        if isinstance(entry, WorldSpec):
            return entry
        known = [field.name for field in fields(cls)]
        unknown = [key for key in entry if key not in known]
        if unknown or "world" not in entry:
            got = unknown[0] if unknown else "no world"
            raise ValueError(f"world: expected keys of {', '.join(known)}, got {got!r}")
        pairs = {k: tuple(v) for k, v in entry.items() if isinstance(v, list)}
        return cls(**dict(entry) | pairs)

    @property
    def span(self) -> tuple[int, int]:
        """Fewest and most frames."""
        return span("frames", self.frames, 1, 1 << 31)

    def length(self, number: int) -> int:
        """Frames of a world."""
        low, high = self.span
        steps = (high - low) // CLIP
        rng = np.random.default_rng([self.seed, number, 1])
        return low + CLIP * int(rng.integers(steps + 1)) if steps else low

    def make(self, number: int) -> World:
        """World number `number`, below 2**32; the same for ever."""
        _check.integer("number", number, 0, (1 << 32) - 1)
        return self._world(self.length(number), (self.seed << 32) + number)

    def forms(self, number: int, turns: int) -> list[str]:
        """The form of each of a world's questions."""
        if self.form != "mixed":
            return [self.form] * turns
        rng = np.random.default_rng([self.seed, number, 2])
        return [str(form) for form in rng.choice(FORMS[:3], turns, p=MIXED)]

    def said(self, number: int, world: World) -> list[tuple[str, str]]:
        """(question, answer) of each of a world's questions, or of its one description."""
        if self.form == "describe":
            return [(DESCRIBE, world.description())]
        forms = self.forms(number, len(world.questions))
        return [question.turn(form) for question, form in zip(world.questions, forms, strict=True)]

    def longest(self, number: int) -> tuple[World, list[tuple[str, str]]]:
        """World number `number` with most frames, and what is said in the longest form."""
        world = self._world(self.span[1], (self.seed << 32) + number)
        if self.form != "mixed":
            return world, self.said(number, world)
        turns = ([question.turn(form) for form in FORMS[:3]] for question in world.questions)
        return world, [max(forms, key=lambda turn: len("".join(turn))) for forms in turns]

    def _world(self, frames: int, seed: int) -> World:
        return make_world(
            self.world,
            seed,
            frames,
            self.split,
            questions=self.questions,
            card=self.card,
            cards=self.cards,
            hops=self.hops,
            density=self.density,
            haystack=self.haystack,
            fps=self.fps,
        )


def _check_device(name: str) -> None:
    try:
        found = torch.device(name)
    except (RuntimeError, TypeError):
        found = torch.device("meta")
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"device: expected cpu or cuda, got {name!r}")
    there = torch.cuda.device_count() if found.type == "cuda" else 1
    if (found.index or 0) >= there:
        raise ValueError(f"device: expected one of {there} {found.type} devices, got {name!r}")
