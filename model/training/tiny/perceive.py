"""Stage 0a: every merged token of a clip learns to say all that the clip's card shows.

Then no uniform drop can lose a card, as any one of its tokens is enough. What is hard about it is
to read: so every patch is also asked which character or shape it shows, and what the word, number
or shape that it lies on says; letters are learned in seconds that way, and words from letters.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hico.model._pixels import standardize, statistics
from hico.model.training.worlds.fonts import stroke_fonts

from .easel import Drafts, Easel, Pool, Seen, draft, joined
from .masters import Graphed, Masters, cosine
from .reading import HEADS, NO, TELLS, Heads, accuracy, cells_loss, told_loss
from .typefaces import training_fonts

WORD = list(HEADS).index("word")
HAY = 1 / 8  # share of clips without a card


class Reader:
    """The encoder with its heads, and their loss.

    Args:
        model: whose encoder and merge are used, in bf16 on a GPU.
        heads: on the encoder's device.
    """

    def __init__(self, model: Any, heads: Heads) -> None:
        self.encoder, self.heads = model.encoder, heads
        self.merge = model.model.mm_projector.merge
        self.like = next(model.encoder.parameters())
        self.colours = statistics(self.like.device)
        if self.like.is_cuda:
            self.encoder.compile_blocks()

    def tokens(self, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens of the patches, and merged ones."""
        pixels = standardize(clips, *self.colours).to(self.like.dtype)
        tokens, metric = self.encoder(pixels, return_metric=True)
        return tokens, self.merge(tokens, metric).tokens

    def losses(self, clips: Tensor, told: Tensor, cells: Tensor) -> Tensor:
        """float32 [3]: of merged tokens, of patches for what they lie on, and of their cells."""
        tokens, merged = self.tokens(clips)
        cells = cells.long()
        unasked = (told[:, WORD] == NO)[:, None, None] & (cells[..., 1] == TELLS["word"])
        cells = torch.where(unasked[..., None], NO, cells)
        part = cells[..., 1].amax(-1)
        return torch.stack(
            [
                told_loss(self.heads(merged), told),
                told_loss(self.heads(tokens), told, part),
                cells_loss(self.heads.where(tokens), cells),
            ]
        )

    @torch.no_grad()
    def examined(self, seen: Seen) -> dict[str, float]:
        """What of unseen clips is told rightly."""
        parts = [self.heads(self.tokens(clips)[1]) for clips in seen.clips.split(128)]
        return accuracy({k: torch.cat([one[k] for one in parts]) for k in parts[0]}, seen.told)


def perceive(
    model: Any,
    seconds: float,
    *,
    frames: int = 4,
    batch: int = 256,
    reuse: float = 2.0,
    pool: int = 16_384,
    painted: int = 512,
    tested: int = 512,
    peak: float = 2e-3,
    every: int = 250,
    workers: int = 0,
    seed: int = 0,
    heads: Heads | None = None,
) -> Iterator[dict[str, Any]]:
    """Trains the encoder in place for so many seconds; yields a record now and then.

    Args:
        model: whose encoder and merge are used, in bf16 on a GPU.
        frames: of a clip: 1, which is learned several times as fast, or 4.
        batch: clips of a step; reuse: how often each is seen.
        pool: frames that are kept on the device; painted: at once.
        tested: clips of the other split that every record is about.
        every: steps between two records.
        workers: processes that draw cards ahead.
        heads: None = new ones.

    Yields:
        step, seconds, losses of merged tokens, patches and cells, and for test the share of tokens
        that are right, of each attribute, and of clips by the vote of their tokens.
    """
    encoder = model.encoder
    like = next(encoder.parameters())
    heads = (heads or Heads(encoder.channels)).to(like.device, like.dtype)
    reader = Reader(model, heads)
    matrices = [one for one in encoder.encoder.blocks.parameters() if one.ndim == 2]
    masters = Masters([*encoder.parameters(), *heads.parameters()], peak, 0.05, matrices=matrices)
    fonts = training_fonts()
    easel = Easel(encoder, fonts, compiled=like.is_cuda)
    count = max(1, painted // frames)
    drafts = iter(Drafts(count, frames, "train", fonts, seed).loader(workers))
    held = Pool(max(count, pool // frames))
    rng = random.Random(seed)
    hay = Pool(max(1, pool // frames // 4))
    hay.add(easel.haystack(rng, hay.room, frames, "train"))
    held.add(easel(next(drafts), hay.some(count).clips))
    test = _unseen(encoder, tested, frames)
    empty = max(1, round(batch * HAY))

    def step(*seen: Tensor) -> Tensor:
        losses = reader.losses(*seen)
        losses.sum().backward()
        masters.move()
        return losses.detach()

    def some() -> Seen:
        return joined(held.some(batch - empty), hay.some(empty))

    masters.lr.fill_(0.0)
    run = Graphed(step, some()) if like.is_cuda else step
    start, owed, done = time.perf_counter(), 0.0, 0
    while (elapsed := time.perf_counter() - start) < seconds:
        owed += (batch - empty) / reuse
        while owed > 0:
            held.add(easel(next(drafts), hay.some(count).clips))
            owed -= count
        masters.lr.fill_(cosine(elapsed / seconds, peak))
        losses = run(*some())
        done += 1
        if done % every == 0:
            names = ("merged", "patches", "cells")
            yield {
                "step": done,
                "seconds": round(elapsed, 2),
                "loss": dict(zip(names, losses.tolist(), strict=True)),
                "test": reader.examined(test),
            }


def _unseen(encoder: Any, count: int, frames: int) -> Seen:
    """Cards of the other split, in its fonts and layouts."""
    fonts, rng = stroke_fonts(), random.Random(-1)
    easel = Easel(encoder, fonts)
    hay = easel.haystack(rng, count, frames, "test").clips
    return easel(draft(rng, count, frames, "test", fonts), hay)
