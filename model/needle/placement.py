"""Cards of a synthetic world in other places, and the features of the video that this makes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..training.worlds import Placement, Question, World
from ..training.worlds import questions as wording
from ..training.worlds.world import CLIP
from .features import Haystack, Store


def placed(base: World, frames: int, wanted: Mapping[int, float], haystack_seed: int) -> World:
    """The same cards and questions in a video of so many frames, see WorldTask.

    Args:
        wanted: question -> depth of its first needle.
    """
    clips = frames // CLIP
    rng = np.random.Generator(np.random.PCG64([base.seed, frames, len(base.placements)]))
    slots = rng.choice(clips, len(base.placements), replace=False)
    for index, depth in wanted.items():
        target, slot = base.questions[index].needles[0], round(depth * (clips - 1))
        slots[slots == slot] = slots[target]
        slots[target] = slot
    order = np.argsort(slots)
    places = np.argsort(order).tolist()
    return replace(
        base,
        frames=frames,
        placements=tuple(
            replace(base.placements[i], start=int(slots[i]) * CLIP) for i in order.tolist()
        ),
        questions=tuple(question.moved(places) for question in base.questions),
        haystack_seed=haystack_seed,
    )


def both(world: World, question: Question, rng: np.random.Generator) -> tuple[Question, Question]:
    """A chain's question for the caption of its last card, and the one for a detail of it."""
    last = [
        world.placements[question.needles[-1] if foil < 0 else foil].card for foil in question.foils
    ]
    right = question.answer
    order = [right, *(i for i in range(len(last)) if i != right)]
    begins = wording.CHAIN.format(find=question.text.split(wording.CHAIN.format(find=""))[0])
    what = "number" if question.asked == "caption" else question.asked
    asked = wording.pick(rng, wording.WHAT[what][world.split]).format(it=what)
    detail = begins + wording.CHAIN_WHAT.format(what=asked)
    found = []
    for kind, task, free, texts in (
        (
            "caption",
            begins + wording.CHAIN_CAPTION,
            begins + wording.CHAIN_FREE,
            [wording.thing(card) for card in last],
        ),
        (what, detail, detail, [getattr(card, what) for card in last]),
    ):
        found.append(
            wording.choice(
                rng,
                kind,
                task,
                [texts[i] for i in order],
                question.needles,
                [question.foils[i] for i in order[1:]],
                question.named,
                question.steps[:-1],
                free,
            )
        )
    return found[0], found[1]


def assembled(world: World, hay: Haystack, cards: Callable[[], Tensor]) -> Tensor:
    """[n, D], the features of a world out of those of its haystack's clips and of its cards."""
    clips = world.frames // CLIP
    slots = [one.start // CLIP for one in world.placements]
    rest = torch.ones(clips, dtype=torch.bool)
    rest[slots] = False
    still = hay.clips(clips)[: int(rest.sum())]
    out = still.new_empty(clips, *still.shape[1:])
    out[rest.to(out.device)] = still
    out[torch.tensor(slots, device=out.device)] = cards().to(out)
    return out.flatten(0, 1)


def cards_of(base: World, world: World, store: Store) -> Tensor:
    """[cards, tokens, D], in the world's order; drawn and encoded once for all of its lengths."""
    ordered = sorted(base.placements, key=_key)
    said = hashlib.sha256("".join(map(_key, ordered)).encode()).hexdigest()
    model = store.model
    size = model.encoder.image_size

    def make() -> Tensor:
        row = [replace(one, start=i * CLIP) for i, one in enumerate(ordered)]
        drawn = replace(base, placements=tuple(row), frames=len(row) * CLIP)
        with store.clock("drawing needles"):
            pixels = drawn.all_frames(size, model.device)
        with store.clock("encoding needles"):
            visual = store.encode(pixels)
        return visual.unflatten(0, (len(row), -1))

    found = store.get({"cards": said, "size": size}, make)
    place = {_key(one): i for i, one in enumerate(ordered)}
    return found[[place[_key(one)] for one in world.placements]]


def _key(one: Placement) -> str:
    """A card and its look, wherever it stands."""
    return repr((one.card, one.style, one.sides))
