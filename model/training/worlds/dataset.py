"""Worlds as samples for training, drawn when they are asked for."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset

from hico.model._pixels import normalize
from hico.model.processing import IMAGE, VideoChatFlashProcessor
from hico.model.training.collator import TOKENS
from hico.model.training.fitting import Fit
from hico.model.training.media import DataOptions
from hico.model.training.templates import encode

from .spec import WorldSpec
from .world import World

OVERHEAD = 5  # tokens of a turn beside its text
PROBES = 8  # worlds whose texts are looked at


class WorldDataset(Dataset):
    """World i as ids, labels and pixels, the same as VideoChatDataset's samples.

    Several questions of one video are turns of one conversation, and every answer is learned. All
    frames are seen, whatever options say of frames: one left out could hold the answer. After
    set_epoch the worlds are others: epoch e has numbers e * count to (e + 1) * count - 1.

    Args:
        spec: a WorldSpec, or an entry of a data YAML with the key `world`.
        processor: the model's, for its tokenizer and its image_size.
        options: template, time_message, max_length.

    Raises:
        ValueError: as WorldSpec; a template "plain" with several questions; the longest world does
            not fit into max_length with all of its answers.
    """

    def __init__(
        self,
        spec: WorldSpec | Mapping[str, Any],
        processor: Any,
        options: DataOptions | None = None,
    ) -> None:
        self.spec, self.options = WorldSpec.of(spec), options or DataOptions()
        self.tokenizer, self.size = processor.tokenizer, processor.image_size
        self.epoch = 0
        if self.options.template == "plain" and self.spec.questions > 1:
            raise ValueError(
                f"questions: expected 1 with the template plain, got {self.spec.questions}"
            )
        self._fit = Fit(self.tokenizer, self.options.template, self.options.max_length)
        for number in range(PROBES):
            world, said = self.spec.longest(number)
            self._sample(world, said)

    def __len__(self) -> int:
        return self.spec.count

    def set_epoch(self, epoch: int) -> None:
        """Other worlds, never seen in another epoch."""
        self.epoch = epoch

    def world(self, i: int) -> World:
        """World i of this epoch.

        Raises:
            IndexError: there is none.
        """
        return self.spec.make(self._number(i))

    def turns(self, i: int) -> tuple[tuple[str, str], ...]:
        """The conversation of sample i, ("human", text) and ("gpt", text) by turns."""
        return _turns(self.spec.said(self._number(i), self.world(i)))

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Sample i: see VideoChatDataset. Pixels stay on the device where they were drawn.

        Raises:
            IndexError: there is none.
            ValueError: its text is longer than that of the first worlds, and does not fit.
        """
        world = self.world(i)
        said = self.spec.said(self._number(i), world)
        sample = self._sample(world, said)
        pixels = normalize(world.all_frames(self.size, self.spec.device))
        return sample | {"pixel_values_videos": [pixels]}

    def _sample(self, world: World, said: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """A sample with the numbers of its frames for pixels.

        Raises:
            ValueError: it does not fit with all of its answers.
        """
        options, frames = self.options, range(world.frames)
        message = None
        if options.time_message is not None:
            seconds = [frame / world.fps for frame in frames]
            message = VideoChatFlashProcessor.time_message(
                world.duration, seconds, options.time_message
            )
        ids, labels = encode(self.tokenizer, _turns(said), options.template, message)
        sample = {
            "input_ids": ids,
            "labels": labels,
            "pixel_values_videos": [frames],
            "modalities": ["video"],
            "image_grids": [None],
        }
        if len(self._fit(sample)["input_ids"]) < len(ids):
            raise ValueError(
                f"max_length: expected {len(frames)} frames and all answers of {len(said)} "
                f"questions within {options.max_length} tokens, got "
                f"{TOKENS['video'] * len(frames) + len(ids) - 1}"
            )
        return sample

    def _number(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"world {i} of {len(self)}")
        return self.epoch * len(self) + i % len(self)

    @cached_property
    def _text(self) -> int:
        """Tokens of the first sample's text, which those of the others resemble."""
        return sum(
            len(self.tokenizer(text, add_special_tokens=False)["input_ids"]) + OVERHEAD
            for _, text in self.turns(0)
        )

    @property
    def lengths(self) -> list[int]:
        """Tokens that each sample is expected to take: 16 a frame, and those of its text."""
        frames = (self.spec.length(self._number(i)) for i in range(len(self)))
        return [min(TOKENS["video"] * n + self._text, self.options.max_length) for n in frames]

    @property
    def modalities(self) -> list[str]:
        """ "visual" for every sample."""
        return ["visual"] * len(self)


def _turns(said: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Questions and answers as turns, the video in front of the first question."""
    turns = [t for ask, answer in said for t in (("human", ask), ("gpt", answer))]
    turns[0] = ("human", f"{IMAGE}\n{said[0][0]}")
    return tuple(turns)
