"""VideoSession: one video, read and encoded once, and any questions about it."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor
from transformers import StoppingCriteria, StoppingCriteriaList, TextStreamer

from hico.budget import keep_count
from hico.model._opening import encode, encoded_image, is_picture
from hico.model.processing import IMAGE
from hico.model.settings import DropoutSettings
from hico.model.stats import Stage, measured

ANSWER_TOKENS = 1024  # as published
NONE = DropoutSettings((), (1.0,))

History = Sequence[tuple[str, str]]


class VideoSession:
    """Answers questions about one video; each runs only what the question has a say in.

    The video is not decoded or encoded again, and its rows run again only from the first layer on
    that ranks them by the question's attention. The answers are those of fresh runs.

    Args:
        model: a VideoChatFlashForConditionalGeneration.
        processor: its VideoChatFlashProcessor.
        visual: [n, D], what encode_video or encode_images gave.
        message: the processor's time_message of a video; None for an image.
        dropout: which visual tokens the layers drop; None = as the model's config says.

    Attributes:
        stages: what has been measured: of the video, then of the last question.
        tokens: visual tokens, then what each stage of dropout leaves of them.

    Example:
        session = VideoSession.open(model, processor, "film.mp4")
        print(session.ask("Who enters the room?"))
        print(session.ask("What does she carry?"))
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        visual: Tensor,
        message: str | None = None,
        dropout: DropoutSettings | None = None,
    ) -> None:
        settings = DropoutSettings.from_config(model.config) if dropout is None else dropout
        self.model, self.processor, self.message = model, processor, message
        self.dropout = NONE if settings is None else settings
        self.stages: list[Stage] = []
        count = len(visual)
        self.tokens = [count, *(keep_count(count, r) for r in self.dropout.ratios[1:])]
        self._watch(visual)

    @classmethod
    def open(
        cls,
        model: Any,
        processor: Any,
        video: str | os.PathLike[str] | Tensor,
        frames: int = 512,
        dropout: DropoutSettings | None = None,
        start: float | None = None,
        end: float | None = None,
        keyframes: str = "exact",
        backend: str = "auto",
        progress: bool = False,
    ) -> "VideoSession":
        """Reads and encodes a video or an image, clip by clip as frames arrive.

        Args:
            video: a file, a folder of images, or uint8 frames [T, H, W, 3] of one second each.
            frames: most frames to look at; a video shorter than so many seconds gives about one a
                second, at least 64 (or `frames`, if that is less), as published.
            start, end, keyframes, backend: as hico.model.video.read_clip.
            progress: show a bar on stderr.

        Raises:
            ValueError, OSError, ModuleNotFoundError: as hico.model.video.open_video.
        """
        if is_picture(video):
            visual, message, stages = encoded_image(model, video)
        else:
            options = {"start": start, "end": end, "keyframes": keyframes, "backend": backend}
            visual, message, stages = encode(model, processor, video, frames, progress, **options)
        session = cls(model, processor, visual, message, dropout)
        session.stages[:0] = stages
        return session

    def ask(self, question: str, history: History = (), **options: Any) -> str:
        """The answer to a question, as text.

        Args:
            question: what is asked.
            history: (question, answer) of earlier turns.
            options: for generate, such as max_new_tokens or do_sample.

        Raises:
            ValueError: `<image>` in the question, or as generate.
        """
        ids = self._answer(self._ids(question, history), options)
        return self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()

    def stream(self, question: str, history: History = (), **options: Any) -> Iterator[str]:
        """The answer piece by piece, as it is made; arguments as in ask.

        Closing the iterator ends the answer.
        """
        ids = self._ids(question, history)
        pieces: SimpleQueue[str | BaseException | None] = SimpleQueue()
        stop = threading.Event()
        streamer = _Pieces(self.processor.tokenizer, pieces)

        def work() -> None:
            try:
                self._answer(ids, options | {"streamer": streamer}, stop)
                pieces.put(None)
            except BaseException as error:  # noqa: B036 - it is raised where the text is read
                pieces.put(error)

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
        finally:
            stop.set()
            worker.join()

    @torch.no_grad()
    def _watch(self, visual: Tensor) -> None:
        """Everything up to the end of the video, as far as no question has a say in it."""
        head, _ = self._split("", ())
        table = self.model.get_input_embeddings()
        device = table.weight.device
        with measured("watching", device) as stage:
            text = table(torch.tensor([head], device=device))
            rows = torch.cat([text, visual[None].to(device, text.dtype)], 1)
            self._rows, self._span = rows.shape[1], (len(head), rows.shape[1])
            with self._dropping() as run:
                self._cache = run.watch(rows)
            stage.tokens = rows.shape[1]
        self.stages.append(stage)

    def _dropping(self) -> Any:
        return self.dropout.use(self.model, [self._span])

    def _split(self, question: str, history: History) -> tuple[list[int], list[int]]:
        """The ids before and behind the video."""
        texts = [question, *(text for turn in history for text in turn)]
        if any(IMAGE in text for text in texts):
            raise ValueError(f"question: expected no {IMAGE}, as there is one video, got one")
        before, behind = self.processor.prompt(question, history, self.message).split(IMAGE)
        return self.processor.ids(before)[0].tolist(), self.processor.ids(behind)[0].tolist()

    def _ids(self, question: str, history: History) -> Tensor:
        _, behind = self._split(question, history)
        return torch.tensor([behind], device=self.model.get_input_embeddings().weight.device)

    def _answer(
        self, ids: Tensor, options: dict[str, Any], stop: threading.Event | None = None
    ) -> Tensor:
        """The ids of an answer."""
        many = max(options.get("num_beams") or 1, options.get("num_return_sequences") or 1)
        mask = torch.ones(1, self._rows + ids.shape[1], dtype=torch.int64, device=ids.device)
        first = _First(ids.device, stop)
        with measured("decoding", ids.device) as decoding, self._dropping() as run:
            try:
                if many > 1:
                    self._cache.batch_repeat_interleave(many)
                out = self.model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    past_key_values=self._cache,
                    stopping_criteria=StoppingCriteriaList([first]),
                    **self._defaults() | options,
                )
            finally:
                run.rewind(self._cache, batch=1)
        answer = out[0, ids.shape[1] :]
        early = Stage("first token", first.seconds, 1, decoding.peak)
        decoding.seconds, decoding.tokens = decoding.seconds - first.seconds, len(answer) - 1
        video = [stage for stage in self.stages if stage.name not in (early.name, decoding.name)]
        self.stages = [*video, early, decoding]
        return answer

    def _defaults(self) -> dict[str, Any]:
        """As published, where neither the user nor the model's own generation config says."""
        tokenizer, own = self.processor.tokenizer, self.model.generation_config
        end = own.eos_token_id
        if end is None:
            special = {str(token): i for i, token in tokenizer.added_tokens_decoder.items()}
            found = {special.get("<|im_end|>"), tokenizer.eos_token_id}
            end = sorted(i for i in found if i is not None) or None
        pad = own.pad_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        # the last eos will do for padding, of which one answer has none
        pad = pad if pad is not None else (end[-1] if isinstance(end, list) else end)
        return {
            "max_new_tokens": ANSWER_TOKENS,
            "do_sample": False,
            "eos_token_id": end,
            "pad_token_id": pad,
        }


class _First(StoppingCriteria):
    """Notes when the first token is there, and ends the answer when asked to."""

    def __init__(self, device: torch.device, stop: threading.Event | None) -> None:
        self.device, self.stop = device, stop
        self.start, self.seconds = time.perf_counter(), 0.0

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        if not self.seconds:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds = time.perf_counter() - self.start
        done = self.stop is not None and self.stop.is_set()
        return torch.full((len(input_ids),), done, device=input_ids.device)


class _Pieces(TextStreamer):
    """generate's streamer, into a queue."""

    def __init__(self, tokenizer: Any, pieces: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.pieces = pieces

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self.pieces.put(text)
