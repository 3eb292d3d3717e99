"""Stage 0a: every merged token of a clip learns to say all that the clip's card shows.

Then no uniform drop can lose a card, as any one of its tokens is enough.
"""

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hico.model._pixels import normalize
from hico.model.training.worlds.cards import (
    COLOURS,
    NUMBERS,
    SHAPES,
    WORDS,
    Card,
    random_style,
    render_cards,
)
from hico.model.training.worlds.haystack import NaturalHaystack
from hico.model.training.worlds.splits import held_out
from hico.model.training.worlds.world import CLIP

from .masters import Masters, cosine

NO = -100
TEST = 1 << 20  # seed of the haystack that training never sees
EVERY = 20  # steps between two paintings: small batches paint slowly
LETTERS = 6
# what heads tell of a clip: name -> number of classes
HEADS = {
    "card": 2,
    "shape": len(SHAPES),
    "colour": len(COLOURS),
    "word": len(WORDS),
    "tens": 10,  # 0 = there is no number
    "ones": 10,
    "next_shape": len(SHAPES) + 1,  # the last = there is no next card
    "next_colour": len(COLOURS) + 1,
    # the word once more, letter by letter: each is seen in many words; 0 = none
    **{f"letter{i}": 27 for i in range(LETTERS)},
}
WEIGHTS = {"card": 0.2} | {f"letter{i}": 0.5 for i in range(LETTERS)}


class Heads(nn.Module):
    """[..., C] -> logits of each attribute; only this stage has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleDict({name: nn.Linear(channels, n) for name, n in HEADS.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: head(x) for name, head in self.heads.items()}


def random_card(rng: random.Random, split: str) -> Card:
    """Any combination of the split; one card in three names the next one instead of a number."""
    shape, colour = rng.choice(tuple(SHAPES)), rng.choice(tuple(COLOURS))
    word = rng.choice(WORDS)
    while held_out(shape, colour, word) != (split == "test"):
        word = rng.choice(WORDS)
    if rng.random() < 1 / 3:
        goto = f"{rng.choice(tuple(COLOURS))} {rng.choice(tuple(SHAPES))}"
        return Card(shape, colour, "", word, goto)
    return Card(shape, colour, rng.choice(NUMBERS), word)


def random_sides(rng: random.Random) -> tuple[str, ...]:
    """Both sides all the time in half of the clips, turned over in the others."""
    if rng.random() < 0.5:
        return ("both",) * CLIP
    sides = ["front", "front", "back", "back"]
    rng.shuffle(sides)
    return tuple(sides)


def targets(cards: list[Card | None]) -> np.ndarray:
    """int64 [n, heads]; None = a clip of haystack, of which only that is told."""
    found = np.full((len(cards), len(HEADS)), NO)
    shapes, colours = tuple(SHAPES), tuple(COLOURS)
    for row, card in zip(found, cards, strict=True):
        row[0] = int(card is not None)
        if card is None:
            continue
        colour, shape = card.goto.split() if card.goto else ("", "")
        row[1:] = (
            shapes.index(card.shape),
            colours.index(card.colour),
            WORDS.index(card.word),
            int(card.number[0]) if card.number else 0,
            int(card.number[1]) if card.number else NO,
            shapes.index(shape) if shape else len(shapes),
            colours.index(colour) if colour else len(colours),
            *(ord(letter) - ord("a") + 1 for letter in card.word),
            *[0] * (LETTERS - len(card.word)),
        )
    return found


def draw(rng: random.Random, count: int, split: str, device: Any, size: int) -> tuple:
    """uint8 [count, 4, size, size, 3] and their targets; seven of eight are cards, and first."""
    hay = count // 8
    cards = count - hay
    drawn = [random_card(rng, split) for _ in range(cards)]
    styles = [random_style(rng, split) for _ in range(cards)]
    clips = render_cards(
        drawn,
        styles,
        size=size,
        frames=CLIP,
        device=device,
        side=[random_sides(rng) for _ in range(cards)],
    )
    if hay:
        starts = torch.tensor([rng.randrange(1 << 20) * CLIP for _ in range(hay)])
        at = (starts[:, None] + torch.arange(CLIP)).flatten()
        seed = rng.randrange(1 << 16) if split == "train" else TEST
        found = NaturalHaystack(seed).frames(at, size, device)
        clips = torch.cat([clips, found.unflatten(0, (hay, CLIP))])
    return clips, torch.from_numpy(targets([*drawn, *[None] * hay])).to(device)


@dataclass
class Pool:
    """Clips on the device, each seen a few times before a new one takes its place."""

    clips: Tensor
    told: Tensor
    filled: int = 0
    next: int = 0

    @classmethod
    def of(cls, room: int, device: Any, size: int) -> "Pool":
        clips = torch.empty((room, CLIP, size, size, 3), dtype=torch.uint8, device=device)
        return cls(clips, torch.empty((room, len(HEADS)), dtype=torch.int64, device=device))

    def add(self, clips: Tensor, told: Tensor) -> None:
        at = (torch.arange(len(clips)) + self.next) % len(self.clips)
        self.clips[at.to(clips.device)], self.told[at.to(clips.device)] = clips, told
        self.next = (self.next + len(clips)) % len(self.clips)
        self.filled = min(self.filled + len(clips), len(self.clips))

    def some(self, count: int) -> tuple[Tensor, Tensor]:
        at = torch.randint(self.filled, (count,), device=self.clips.device)
        return self.clips[at], self.told[at]


def loss_of(logits: dict[str, Tensor], told: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Sum of the attributes' cross-entropies, every one of the 64 tokens asked all."""
    parts = {}
    for i, (name, one) in enumerate(logits.items()):
        wanted = told[:, i, None].expand(one.shape[:2])
        parts[name] = F.cross_entropy(one.float().flatten(0, 1), wanted.flatten())
    total = torch.stack([WEIGHTS.get(name, 1.0) * part for name, part in parts.items()]).sum()
    return total, parts


@torch.no_grad()
def accuracy(logits: dict[str, Tensor], told: Tensor) -> dict[str, float]:
    """Share of tokens that are right, of each attribute, and of clips by the tokens' vote."""
    found = {}
    for i, (name, one) in enumerate(logits.items()):
        known = told[:, i] != NO
        right = one.argmax(-1)[known] == told[known, i, None]
        vote = one.float().mean(1).argmax(-1)[known] == told[known, i]
        found[name] = right.float().mean().item()
        found[f"{name}_vote"] = vote.float().mean().item()
    return found


def perceive(
    model: Any,
    seconds: float,
    *,
    batch: int = 384,
    fresh: int = 96,
    pool: int = 24_000,
    tested: int = 512,
    peak: float = 1e-3,
    every: int = 250,
    seed: int = 0,
    heads: Heads | None = None,
) -> Iterator[dict[str, Any]]:
    """Trains the encoder in place for so many seconds; yields a record now and then.

    Args:
        model: whose encoder and merge are used, in bf16 on a GPU.
        batch, fresh: clips of a step, and of these new ones.
        pool: clips that are kept on the device.
        tested: clips of the other split that every record is about.
        every: steps between two records.
        heads: None = new ones.

    Yields:
        step, seconds, of these for painting, loss, test_loss, and for test and train the share of
        tokens that are right, of each attribute, and of clips by the vote of their tokens.
    """
    encoder, connector = model.encoder, model.model.mm_projector
    like = next(encoder.parameters())
    device, size = like.device, encoder.image_size
    heads = (heads or Heads(encoder.channels)).to(device, like.dtype)
    masters = Masters([*encoder.parameters(), *heads.parameters()], peak, 0.05)
    rng, held = random.Random(seed), Pool.of(pool, device, size)
    test_clips, test_told = draw(random.Random(-1), tested, "test", device, size)

    def run(clips: Tensor) -> dict[str, Tensor]:
        tokens, metric = encoder(normalize(clips, device).to(like.dtype), return_metric=True)
        return heads(connector.merge(tokens, metric).tokens)

    start, step, painting = time.perf_counter(), 0, 0.0
    while held.filled < min(pool, 4096):
        held.add(*draw(rng, min(pool, 1024), "train", device, size))
    while (elapsed := time.perf_counter() - start) < seconds:
        if step % EVERY == 0:
            began = time.perf_counter()
            held.add(*draw(rng, min(pool, fresh * EVERY), "train", device, size))
            painting += time.perf_counter() - began
        clips, told = held.some(batch)
        total, _ = loss_of(run(clips), told)
        total.backward()
        masters.step(cosine(elapsed / seconds, peak))
        step += 1
        if step % every == 0:
            with torch.no_grad():
                seen = [run(part) for part in test_clips.split(128)]
                trained = run(clips)
            merged = {name: torch.cat([one[name] for one in seen]) for name in seen[0]}
            yield {
                "step": step,
                "seconds": elapsed,
                "painting": painting,
                "loss": total.item(),
                "test_loss": loss_of(merged, test_told)[0].item(),
                "test": accuracy(merged, test_told),
                "train": accuracy(trained, told),
            }
