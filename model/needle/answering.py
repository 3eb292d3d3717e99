"""A model that is asked about needles: one prefill a video, then any questions of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..session import NONE, VideoSession
from ..settings import DropoutSettings
from .asking import Film, Prompts
from .timing import Clock

TOKENS = 64  # of a needle
SPARE = 8  # tokens that an answer in words may have beyond those of the right one


class NeedleSession(VideoSession):
    """A VideoSession that also tells the next letter, and which needle tokens were dropped.

    Example:
        session = NeedleSession(model, processor, visual)
        letter = session.letter(question)
        shares = session.survivors([640, 1280])  # of that question's prompt
    """

    kept: Sequence[Tensor] = ()

    @torch.no_grad()
    def logits(self, question: str) -> Tensor:
        """[vocabulary], of the token that follows the prompt: what teacher forcing looks at."""
        ids = self._ids(question, ())
        with self._dropping() as run:
            try:
                out = self.model(input_ids=ids, past_key_values=self._cache, logits_to_keep=1)
                self.kept = run.kept
            finally:
                run.rewind(self._cache, batch=1)
        return out.logits[0, -1]

    def letter(self, question: str) -> str:
        """The token that the model would say first, as text."""
        return self.processor.tokenizer.decode([int(self.logits(question).argmax())])

    def survivors(self, needles: Sequence[int], tokens: int = TOKENS) -> list[list[float]]:
        """The share of each needle's tokens that every stage left of the last letter's prompt.

        Args:
            needles: the first visual token of each.
            tokens: that each has.
        """
        first, found = self._span[0], []
        rows: Tensor | None = None
        for index in self.kept:
            rows = index[0] if rows is None else rows[index[0]]
            starts = torch.tensor(needles, device=rows.device)[:, None] + first
            inside = (rows >= starts) & (rows < starts + tokens)
            found.append((inside.sum(1) / tokens).tolist())
        return found


class Answerer:
    """Opens films for a model; what is asked of needles is asked through this.

    Args:
        model, processor: as hico.model.load gives them.
        dropout: None = nothing is dropped.
        prompt: "published" or "ask", the prompt of `hico ask` with its sentence about time.
        clock: notes what everything took.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        dropout: DropoutSettings | None = None,
        prompt: str = "ask",
        clock: Clock | None = None,
    ) -> None:
        self.model, self.processor = model, processor
        self.dropout, self.prompt = dropout or NONE, prompt
        self.clock = clock or Clock(model.device)

    def open(self, film: Film) -> NeedleSession:
        """The session of a whole film."""
        with self.clock("features"):
            visual = film.features()
        with self.clock("watching"):
            return self.watch(visual, film)

    def sampled(self, film: Film, count: int) -> NeedleSession:
        """The session of so many uniform frames of a film; one frame alone makes a still clip."""
        clip = self.model.encoder.num_frames
        count = min(count, film.frames)
        numbers = [int((i + 0.5) * film.frames / count) for i in range(count)]
        numbers = numbers * clip if count == 1 else numbers[: count - count % clip]
        visual = self.model.encode_video(film.pixels(numbers))
        return self.watch(visual, film, len(numbers) if count > 1 else 1)

    def watch(self, visual: Tensor, film: Film, frames: int | None = None) -> NeedleSession:
        """The session of what is seen of a film, so many frames; None = all of them."""
        processor, message = self.processor, None
        if self.prompt == "published":
            processor = Prompts(processor)
        elif film.fps is not None:
            shown = film.frames if frames is None else frames
            message = processor.time_message(film.frames / film.fps, range(shown))
        return NeedleSession(self.model, processor, visual, message, self.dropout)

    @torch.no_grad()
    def blind(self, question: str) -> str:
        """The first token that is said to the question alone."""
        text = self.processor.prompt(question, visual=False)
        ids = self.processor.ids(text).to(self.model.device)
        return self.processor.tokenizer.decode([int(self.model(ids).logits[0, -1].argmax())])

    def room(self, answer: str) -> int:
        """How many tokens to wait for an answer: one that goes on for longer is wrong anyway."""
        return len(self.processor.tokenizer(answer)["input_ids"]) + SPARE

    def stages(self) -> list[dict[str, float]]:
        """The layer and the share of each stage of dropout."""
        pairs = zip(self.dropout.layers, self.dropout.ratios[1:], strict=True)
        return [{"layer": layer, "ratio": ratio} for layer, ratio in pairs]
