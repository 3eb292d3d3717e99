"""What a language model gets in order to see: pixels to tokens, and tokens into its prompt."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from hico.adapters._dropout_rows import IMAGE_TOKEN
from hico.model._embed import Embedded, side_of, splice
from hico.model._pixels import normalize
from hico.model._visual import entries, image_features
from hico.model.vision import image_tiles, tile_grid
from hico.model.vision.clip_modes import MODES, clip_tokens
from hico.ops import _check

logger = logging.get_logger(__name__)
CHUNK = 64  # clips in one pass of the encoder


class Seeing:
    """For a causal language model whose base has `vision_tower` and `mm_projector`."""

    model: Any
    config: Any
    get_input_embeddings: Callable

    @property
    def encoder(self) -> Any:
        """The vision encoder."""
        return self.model.vision_tower.vision_tower

    @torch.no_grad()
    def encode_video(
        self,
        frames: Tensor | Iterable[Tensor],
        chunk: int = CHUNK,
        progress: Callable[[int], object] | None = None,
        mode: str = "similarity",
    ) -> Tensor:
        """Frames -> [16 * T, D], the visual tokens of a video, clip by clip as frames arrive.

        Memory follows the chunk and the tokens, not the frames.

        Args:
            frames: uint8 [S, S, 3] or normalised floating [3, S, S] each, in one tensor or as they
                come; T in all, a multiple of the clip's length.
            chunk: clips in one pass of the encoder.
            progress: called after each pass with its number of frames, such as a tqdm's update.
            mode: how a clip's tokens become fewer, one of hico.model.vision.clip_modes.MODES;
                "frames" and "none" leave all of them.

        Raises:
            ValueError: no frames, a count that is no multiple, an unknown mode, or another shape or
                dtype.
        """
        _check.integer("chunk", chunk, 1, 1 << 31)
        clip, done, then = self.encoder.num_frames, [], self._connecting(mode)
        if isinstance(frames, Tensor):
            self._check_count(len(frames))
        for group in _groups(frames, chunk * clip):
            self._check_count(len(group))
            clips = self._pixels(group).unflatten(0, (-1, clip))
            done.append(self.encoder.encode(clips, chunk, then))
            if progress is not None:
                progress(len(group))
        if not done:
            self._check_count(0)
        return torch.cat(done).flatten(0, 1)

    @torch.no_grad()
    def encode_images(self, images: Sequence[Tensor], chunk: int = CHUNK) -> list[Tensor]:
        """uint8 [H, W, 3] each -> [n, D] each: 64 tokens for the whole and for each of its tiles.

        Raises:
            ValueError: another shape or dtype.
        """
        size, found = self.encoder.image_size, []
        for image in images:
            tiles = self._pixels(image_tiles(image, size))[:, None]
            tokens = self.encoder.encode(tiles, chunk, self.model.mm_projector)
            grid = tile_grid(image.shape[0], image.shape[1], size)
            found.append(image_features(tokens, grid, self._flat))
        return found

    def embed(
        self,
        input_ids: Tensor,
        visual: Sequence[Tensor] = (),
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        padding_side: str | None = None,
    ) -> Embedded:
        """Ids [B, L] -> embeddings [B, N, D], each -200 replaced by the next of visual [n, D].

        Args:
            input_ids, attention_mask, labels: as in forward.
            visual: in the order of the -200, row by row.
            padding_side: None = where attention_mask pads, else config.tokenizer_padding_side.

        Returns:
            inputs_embeds, attention_mask (None = no padding), visual_spans, labels.

        Raises:
            ValueError: another count of -200 than of visual, or another shape.
        """
        if not isinstance(input_ids, Tensor) or input_ids.ndim != 2 or not len(input_ids):
            got = list(input_ids.shape) if isinstance(input_ids, Tensor) else type(input_ids)
            raise ValueError(f"input_ids: expected [B, L], got {got}")
        side = padding_side or side_of(attention_mask, self.config.tokenizer_padding_side)
        table = self.get_input_embeddings()
        embedded = splice(table, input_ids, visual, attention_mask, labels, side)
        self._note_length(embedded.inputs_embeds.shape[1])
        return embedded

    def visual_features(
        self,
        pixel_values_videos: Any = None,
        visual_features: Any = None,
        modalities: Sequence[str] | None = None,
        image_grids: Sequence[Any] | None = None,
    ) -> list[Tensor]:
        """[n, D] for each video or image of a batch, with gradients where they are on.

        Raises:
            ValueError: pixels as well as features, or as in forward.
        """
        if visual_features is not None:
            if pixel_values_videos is not None:
                raise ValueError("visual_features: expected these or pixel_values_videos, got both")
            whole = isinstance(visual_features, Tensor) and visual_features.ndim == 2
            return [visual_features] if whole else list(visual_features)
        if pixel_values_videos is None:
            return []
        encoder = self.encoder
        seen = entries(
            pixel_values_videos, encoder.num_frames, encoder.image_size, modalities, image_grids
        )
        tokens = _together(self._merged, [entry.frames for entry in seen])
        return [
            image_features(t, entry.grid, self._flat) for t, entry in zip(tokens, seen, strict=True)
        ]

    def _merged(self, frames: Tensor) -> Tensor:
        """[B, T, 3, S, S] -> [B, 64, D]."""
        encoder, merge = self.encoder, self.model.mm_projector
        if not torch.is_grad_enabled():
            return encoder.encode(frames, CHUNK, merge)
        device = self._device
        parts = (encoder(part.to(device), return_metric=True) for part in frames.split(CHUNK))
        return torch.cat([merge(*part) for part in parts])

    def _connecting(self, mode: str) -> Callable[[Tensor, Tensor], Tensor]:
        """From a clip's tokens and metric to what the language model gets."""
        connector, clip = self.model.mm_projector, self.encoder.num_frames
        _check.one_of("mode", mode, MODES)
        if mode == "similarity":
            return connector
        count = connector.tokens_per_clip
        return lambda x, metric: connector.mlp(clip_tokens(x, metric, mode, count, clip))

    def _pixels(self, group: Tensor) -> Tensor:
        """What the encoder takes: uint8 [..., S, S, 3] normalised on its device; floats as is."""
        return group if group.is_floating_point() else normalize(group, self._device)

    @property
    def _device(self) -> torch.device:
        return next(self.encoder.parameters()).device

    @property
    def _flat(self) -> bool:
        return self.config.mm_patch_merge_type == "flat"

    def _check_count(self, count: int) -> None:
        clip = self.encoder.num_frames
        if not count or count % clip:
            raise ValueError(
                f"frames: expected a multiple of {clip}, the length of a clip, got {count}"
            )

    def _note_length(self, length: int) -> None:
        rope = self.config.rope_parameters or {}
        known = rope.get("original_max_position_embeddings") or 0
        longest = max(self.config.max_position_embeddings, int(known * rope.get("factor", 1)))
        if length > longest:
            logger.warning_once(
                f"the prompt has {length} tokens, the model was made for {longest}: nothing is cut "
                "off, but answers may suffer (rope_scaling or dropout of visual tokens may help)"
            )


def _together(encode: Callable[[Tensor], Tensor], frames: Sequence[Tensor]) -> list[Tensor]:
    """encode of each [B, T, ...]; those of one T in one go, as a few clips leave a GPU waiting."""
    found: dict[int, Tensor] = {}
    kinds = [(one.shape[1], one.device) for one in frames]
    for kind in dict.fromkeys(kinds):
        alike = [i for i, other in enumerate(kinds) if other == kind]
        whole = encode(torch.cat([frames[i] for i in alike]) if alike[1:] else frames[alike[0]])
        found |= zip(alike, whole.split([len(frames[i]) for i in alike]), strict=True)
    return [found[i] for i in range(len(frames))]


def has_images(input_ids: Tensor | None) -> bool:
    """Whether ids hold -200; a single one is a step of decoding, for which nothing waits."""
    if input_ids is None or input_ids.shape[-1] == 1:
        return False
    return bool((input_ids == IMAGE_TOKEN).any())


def _groups(frames: Tensor | Iterable[Tensor], size: int) -> Iterator[Tensor]:
    if isinstance(frames, Tensor):
        yield from frames.split(size)
        return
    coming = iter(frames)
    while group := list(islice(coming, size)):
        yield torch.stack(group)
