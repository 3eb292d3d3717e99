"""From words and pixels to what the model takes."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from hico.adapters._dropout_rows import IMAGE_TOKEN
from hico.model._pixels import normalize
from hico.model._tower import image_size as tower_size
from hico.model.configuration import VideoChatFlashConfig
from hico.model.video.resize import resize_frames
from hico.model.vision import image_tiles, square_image, tile_grid
from hico.ops import _check

IMAGE = "<image>"
SYSTEM = "You are a helpful assistant."
HUB = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token")


class VideoChatFlashProcessor(ProcessorMixin):
    """Prompts as published, ids with -200 for `<image>`, and normalised pixels.

    Args:
        tokenizer: the model's own.
        image_size: pixels of a frame's side, what the encoder takes.

    Source: VideoChat-Flash (arXiv 2501.00574) and its published conversation "qwen_2".

    >>> from hico.model import VideoChatFlashProcessor
    >>> VideoChatFlashProcessor.time_message(12.3, range(64))
    '\\nThe video lasts for 12.30 seconds, and 64 frames are uniformly sampled from it. '
    """

    def __init__(self, tokenizer: Any, image_size: int = 224, chat_template: Any = None) -> None:
        _check.integer("image_size", image_size, 1, 1 << 31)
        self.image_size = image_size
        super().__init__(tokenizer, chat_template=chat_template)

    @classmethod
    def from_pretrained(cls, path: Any, *args: Any, **kwargs: Any) -> Any:
        """The processor of an official folder or of one that save_pretrained wrote.

        Raises:
            OSError, ValueError: no tokenizer there, or no sizes.
        """
        return super().from_pretrained(path, *args, **kwargs | {"trust_remote_code": False})

    @classmethod
    def get_processor_dict(cls, path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """As in transformers; an official folder has no file of a processor, but a config."""
        found, rest = super().get_processor_dict(path, **kwargs)
        if "image_size" not in found and "image_size" not in kwargs:
            hub = {name: kwargs[name] for name in HUB if name in kwargs}
            found["image_size"] = tower_size(VideoChatFlashConfig.from_pretrained(path, **hub))
        return found, rest

    @staticmethod
    def time_message(duration: float, seconds: Any, style: str = "short") -> str:
        """The sentence about a video's length and frames, as published, with its own white space.

        Args:
            duration: seconds.
            seconds: of each frame.
            style: "short", or "list" to name the seconds.
        """
        _check.one_of("style", style, ("short", "list"))
        times = seconds.tolist() if isinstance(seconds, Tensor) else list(seconds)
        at = "from it"
        if style == "list":
            at = f"at {', '.join(str(round(float(t), 1)) for t in times)} seconds"
        head = f"\nThe video lasts for {float(duration):.2f} seconds, and {len(times)} frames"
        return f"{head} are uniformly sampled {at}. "

    @staticmethod
    def prompt(
        question: str,
        history: Sequence[tuple[str, str]] = (),
        message: str | None = None,
        visual: bool = True,
    ) -> str:
        """The conversation up to where the answer begins, with `<image>` ahead of its first turn.

        Args:
            question: what is asked now.
            history: (question, answer) of the turns before.
            message: time_message of a video; None for an image.
            visual: False = of text alone.
        """
        asked = [*(turn[0] for turn in history), question]
        if visual and not any(IMAGE in text for text in asked):
            told = f"{message.strip()} " if message else ""
            asked[0] = f"{IMAGE}\n{told}{asked[0]}"
        turns = [("system", SYSTEM)]
        for text, (_, answer) in zip(asked, history, strict=False):
            turns += [("user", text), ("assistant", answer)]
        turns.append(("user", asked[-1]))
        told = "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns)
        return f"{told}<|im_start|>assistant\n"

    def ids(self, text: str) -> Tensor:
        """Text -> int64 [1, L]: pieces around `<image>` tokenised apart, -200 between them."""
        return torch.tensor([token_ids(self.tokenizer, text)], dtype=torch.int64)

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        images: Any = None,
        padding: bool | str = True,
        padding_side: str | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """What forward and generate take, for one text or a batch.

        Args:
            text: whole prompts, with `<image>` where a video or an image goes.
            videos: uint8 [T, H, W, 3], or a list of them in the order of `<image>`, prompt by
                prompt; a list may also hold images [H, W, 3].
            images: uint8 [H, W, 3], or a list of them, where there are no videos. One image of a
                prompt is cut into tiles, several are each padded to a square, as published.
            padding: False = texts of one length only.
            padding_side: None = the tokenizer's.
            return_tensors: "pt".

        Returns:
            input_ids and attention_mask [B, L]; with anything to see also pixel_values_videos (a
            list of float32 [T, 3, S, S]), modalities and image_grids.

        Raises:
            ValueError: another count of `<image>` than of videos and images, other shapes.
        """
        _check.one_of("return_tensors", return_tensors, ("pt", None))
        if kwargs or text is None:
            raise ValueError(f"text: expected it with videos or images alone, got {sorted(kwargs)}")
        texts = [text] if isinstance(text, str) else list(text)
        given = self._given(videos, images)
        counts = [t.count(IMAGE) for t in texts]
        if sum(counts) != len(given):
            raise ValueError(
                f"text: expected one {IMAGE} for each of {len(given)} videos or images, "
                f"got {sum(counts)}"
            )
        shared = [count > 1 for count in counts for _ in range(count)]
        seen = [self._pixels(*pair) for pair in zip(given, shared, strict=True)]
        data = self._padded([self.ids(t)[0] for t in texts], padding, padding_side)
        if seen:
            names = ("pixel_values_videos", "modalities", "image_grids")
            data |= dict(zip(names, map(list, zip(*seen, strict=True)), strict=True))
        return BatchFeature(data)

    def _padded(self, rows: list[Tensor], padding: bool | str, side: str | None) -> dict[str, Any]:
        side = side or self.tokenizer.padding_side
        _check.one_of("padding_side", side, ("left", "right"))
        width = max(map(len, rows))
        if padding in (False, "do_not_pad") and min(map(len, rows)) < width:
            raise ValueError("padding: expected True for texts of different length, got False")
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), width), self.tokenizer.eos_token_id if pad is None else pad)
        mask = torch.zeros_like(ids)
        for row, to, real in zip(rows, ids, mask, strict=True):
            at = slice(width - len(row), None) if side == "left" else slice(len(row))
            to[at], real[at] = row, 1
        return {"input_ids": ids, "attention_mask": mask}

    @staticmethod
    def _given(videos: Any, images: Any) -> list[Tensor]:
        """What is seen, one by one."""
        if videos is not None and images is not None:
            raise ValueError(
                f"images: expected them in videos, one list in the order of {IMAGE}, got both"
            )
        given = videos if images is None else images
        if isinstance(given, Tensor):
            given = [given] if given.ndim == (4 if images is None else 3) else list(given)
        for pixels in given or ():
            shape = getattr(pixels, "shape", type(pixels).__name__)
            if not isinstance(pixels, Tensor) or pixels.ndim not in (3, 4):
                raise ValueError(f"videos: expected uint8 [T, H, W, 3] or [H, W, 3], got {shape}")
        return list(given or ())

    def _pixels(self, pixels: Tensor, shared: bool) -> tuple[Tensor, str, Any]:
        """Pixels, modality and grid of one; shared = its prompt shows others as well."""
        size = self.image_size
        if pixels.ndim == 4:
            return normalize(resize_frames(pixels, (size, size))), "video", None
        if shared:
            return normalize(square_image(pixels, size))[None], "image", None
        grid = tile_grid(pixels.shape[0], pixels.shape[1], size)
        return normalize(image_tiles(pixels, size)), "image", grid


def token_ids(tokenizer: Any, text: str) -> list[int]:
    """Ids of text: pieces around `<image>` tokenised apart, -200 between them."""
    found: list[int] = []
    for i, piece in enumerate(text.split(IMAGE)):
        found += [IMAGE_TOKEN] if i else []
        if piece:
            found += tokenizer(piece, add_special_tokens=False)["input_ids"]
    return found
