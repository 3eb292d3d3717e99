"""Worlds as samples for training, drawn when they are asked for."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from torch.utils.data import Dataset

from hico.model._pixels import normalize
from hico.model.processing import IMAGE, VideoChatFlashProcessor
from hico.model.training.media import DataOptions
from hico.model.training.templates import encode

from .spec import WorldSpec
from .world import World

TOKENS, OVERHEAD = 16, 5  # of a frame; of a turn beside its text
PIECE = 64  # frames drawn at a time


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
        ValueError: as WorldSpec; a template "plain" with several questions.
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
        world = self.world(i)
        if self.spec.form == "describe":
            said = [("What do the cards of the video show?", world.description())]
        else:
            forms = self.spec.forms(self._number(i), len(world.questions))
            said = [q.turn(form) for q, form in zip(world.questions, forms, strict=True)]
        said[0] = (f"{IMAGE}\n{said[0][0]}", said[0][1])
        return tuple(t for ask, answer in said for t in (("human", ask), ("gpt", answer)))

    def __getitem__(self, i: int) -> dict[str, Any]:
        """Sample i: see VideoChatDataset. Pixels stay on the device where they were drawn.

        Raises:
            IndexError: there is none.
        """
        world, options = self.world(i), self.options
        message = None
        if options.time_message is not None:
            seconds = [frame / world.fps for frame in range(world.frames)]
            message = VideoChatFlashProcessor.time_message(
                world.duration, seconds, options.time_message
            )
        ids, labels = encode(self.tokenizer, self.turns(i), options.template, message)
        return {
            "input_ids": ids,
            "labels": labels,
            "pixel_values_videos": [normalize(world.all_frames(self.size, self.spec.device))],
            "modalities": ["video"],
            "image_grids": [None],
        }

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
        return [min(TOKENS * n + self._text, self.options.max_length) for n in frames]

    @property
    def modalities(self) -> list[str]:
        """ "visual" for every sample."""
        return ["visual"] * len(self)
