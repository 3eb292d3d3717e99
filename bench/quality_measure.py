"""Asks the questions of one method, film by film, and adds up what comes of it."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from hico.bench.quality_methods import Method, dropout_of, seen_share
from hico.bench.quality_tally import Tally
from hico.bench.record import Row
from hico.model.needle.answering import Answerer
from hico.model.needle.asking import Ask, Film, is_letter
from hico.model.needle.features import Haystack, Store, fingerprint
from hico.model.needle.haystacks import open_haystack
from hico.model.needle.running import SAMPLED
from hico.model.needle.timing import Clock
from hico.model.needle.worlds import WorldTask
from hico.model.stats import measured
from hico.model.vision.clip_modes import tokens_left

CLIP = 4  # frames
TIMED = 64  # clips that are encoded in order to time it


@dataclass
class Subject:
    """A model, and its features of haystacks in one clip mode at a time.

    Attributes:
        name: what its rows are called after.
        model, processor: as hico.model.load gives them.
        cache: the folder of features.
        prompt: as in Answerer.
        least, most: frames of adaptive sampling.
    """

    name: str
    model: Any
    processor: Any
    cache: Path
    prompt: str = "ask"
    least: int = 64
    most: int = 512
    _hay: dict[tuple, Haystack] = field(default_factory=dict, repr=False)
    _rates: dict[str, float] = field(default_factory=dict, repr=False)

    @cached_property
    def weights(self) -> str:
        """A hash of the weights and the config."""
        return fingerprint(self.model)

    @property
    def patches(self) -> int:
        """Tokens of an unmerged clip."""
        encoder = self.model.encoder
        return encoder.num_frames * (encoder.image_size // encoder.patch_size) ** 2

    @property
    def depth(self) -> int:
        """Layers of the language model."""
        return self.model.config.num_hidden_layers

    def settings(self) -> Row:
        """What of it an outcome depends on."""
        return {
            "weights": self.weights,
            "dtype": str(self.model.dtype).removeprefix("torch."),
            "device": self.model.device.type,
            "prompt": self.prompt,
        }

    def haystack(self, task: WorldTask, mode: str) -> Haystack:
        """The task's, in this mode; those of other modes leave the memory."""
        key = (mode, task.haystack, task.haystack_seed, task.split)
        if key not in self._hay:
            self._hay.clear()
            store = Store(self.cache, self.model, Clock(self.model.device), mode)
            self._hay[key] = open_haystack(*key[1:], store)
        return self._hay[key]

    def too_long(self, method: Method, frames: int) -> str | None:
        """Why a video without any merge does not fit, None if it does."""
        count = frames // CLIP * tokens_left(self.patches, method.clip)
        most = self.model.config.max_position_embeddings
        if method.clip != "none" or count <= most:
            return None
        return f"not run: {count:,} visual tokens, the model was made for {most:,}"

    @torch.no_grad()
    def encoding(self, mode: str, clips: int) -> float:
        """Seconds of so many clips, at the rate of 64 of them (8 on a CPU)."""
        if mode not in self._rates:
            device = self.model.device
            count = TIMED if device.type == "cuda" else TIMED // 8
            shape = (count * CLIP, *2 * (self.model.encoder.image_size,), 3)
            pixels = torch.zeros(shape, dtype=torch.uint8, device=device)
            for _ in range(3):  # the first ones build kernels
                with measured("encoding", device) as stage:
                    self.model.encode_video(pixels, mode=mode)
            self._rates[mode] = stage.seconds / count
        return self._rates[mode] * clips


def measure(
    subject: Subject,
    task: WorldTask,
    frames: int,
    method: Method,
    tally: Tally,
    until: float,
    done: Callable[[int], object] = lambda count: None,
) -> None:
    """Asks all films of a length that the tally does not have, until the time is up.

    Args:
        until: no new film after this time.perf_counter().
        done: called with each film's number of questions.
    """
    (cells,) = task.groups([frames])
    hay = subject.haystack(task, method.clip)
    for number, film in enumerate(task.films(cells, hay, hay.store)):
        if number < tally.films:
            continue
        if time.perf_counter() > until:
            return
        after = copy.deepcopy(tally)  # a film that is ended in its middle leaves no trace
        _ask_all(subject, film, method, number, hay.store, after)
        vars(tally).update(vars(after))
        done(len(film.asks))
    tally.complete = True


@torch.no_grad()
def _ask_all(
    subject: Subject, film: Film, method: Method, number: int, store: Store, tally: Tally
) -> None:
    """One film."""
    device = subject.model.device
    before = torch.cuda.memory_allocated(device) if device.type == "cuda" else None
    answerer = Answerer(
        subject.model, subject.processor, dropout_of(subject.model, method, number), subject.prompt
    )
    numbers = method.frames(
        film.frames, film.fps or 1, subject.patches, subject.least, subject.most
    )
    session, watching = None, None
    if method.baseline is None:
        visual = _features(film, numbers, store)
        with measured("watching", device) as watching:
            session = answerer.watch(visual, film, len(numbers))
    elif method.baseline != "blind":
        session = answerer.sampled(film, SAMPLED[method.baseline])
    letter, seconds = session.letter if session else answerer.blind, []
    for ask in film.asks:
        with measured("question", device) as stage:
            said = letter(ask.text)
        seconds.append(stage.seconds)
        tally.noted(stage, before)
        tally.answered(ask, is_letter(said, ask.letter))
        if method.baseline is None:
            tally.survived(_left(session, ask, answerer, numbers, store))
    tally.tokens = session.tokens if session else [0]
    tally.layers = list(answerer.dropout.layers)
    if watching is not None:
        tally.noted(watching, before)
        tally.watching.append(round(watching.seconds, 6))
        tally.frames = len(numbers)
    tally.question.append(round(mean(seconds), 6))
    tally.films += 1


def _features(film: Film, numbers: Tensor, store: Store) -> Tensor:
    """The visual tokens of these frames: put together of cached clips where it is all of them."""
    if torch.equal(numbers, torch.arange(film.frames)):
        return film.features()
    return store.encode(film.pixels(numbers.tolist()))


def _left(session: Any, ask: Ask, answerer: Answerer, numbers: Tensor, store: Store) -> list[Row]:
    """What was left of each needle: of its frames, or in each stage of its tokens."""
    stages: list[Row] = []
    clips = [start // store.per_clip for start in ask.needles]
    shares = seen_share(numbers, clips)
    stages.append({"stage": "frames", "hops": shares})
    if answerer.stages():
        dropped = session.survivors(ask.needles, store.per_clip)
        stages += [
            stage | {"hops": hops} for stage, hops in zip(answerer.stages(), dropped, strict=True)
        ]
    return stages
