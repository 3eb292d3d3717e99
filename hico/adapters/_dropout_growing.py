"""A cache layer with room behind its rows; imports transformers, so imported where it is used."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

# rows of room, so that decoding copies a cache of any length once in so many tokens
ROOM = 256


class GrowingLayer(DynamicLayer):
    """transformers' DynamicLayer, but new rows are written behind the old ones where there is room.

    The stock layer copies all of its rows for every new token, into memory of another size each
    time. keys and values are the same tensors to read; whatever else replaces them (crop, beams)
    ends the room, and the next rows make a new one.
    """

    keys: Any
    values: Any
    _layer_type = None  # or transformers would make its own caches of it

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._whole: tuple[Tensor, Tensor] | None = None
        self._heads: tuple[Any, Any] = (None, None)  # keys and values as update left them

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The rows held so far and these: [B, H, N, D] keys and values."""
        if key_states.requires_grad or value_states.requires_grad:
            self._whole = None  # a graph may need the rows as they are
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held, new = self.keys.shape[-2] if self.keys.numel() else 0, key_states.shape[-2]
        rows, whole = held + new, self._whole
        if whole is None or whole[0].shape[2] < rows or not self._is_head(whole):
            whole = self._whole = self._make(key_states, rows), self._make(value_states, rows)
            if held:
                for own, old in zip(whole, (self.keys, self.values), strict=True):
                    own[:, :, :held] = old
        self.keys = _write(whole[0], held, key_states)
        self.values = _write(whole[1], held, value_states)
        self._heads = self.keys, self.values
        return self._heads

    def _is_head(self, whole: tuple[Tensor, Tensor]) -> bool:
        """Whether keys and values are still the head of what holds them, to be written to."""
        if whole[0].is_inference() and not torch.is_inference_mode_enabled():
            return False
        if self.keys is self._heads[0] and self.values is self._heads[1]:
            return True
        return all(
            part.data_ptr() == own.data_ptr() and part.shape[0] == own.shape[0]
            for part, own in zip((self.keys, self.values), whole, strict=True)
        )

    def _make(self, like: Tensor, rows: int) -> Tensor:
        shape = (*like.shape[:2], rows + ROOM, like.shape[3])
        return torch.empty(shape, dtype=like.dtype, device=like.device)


def _write(whole: Tensor, start: int, rows: Tensor) -> Tensor:
    """Rows [B, H, n, D] to whole[:, :, start : start + n]; whole up to there.

    By as_strided and not narrow: decoding waits for the host, and every layer pays four of them.
    """
    batch, heads, count, dim = shape = rows.shape
    strides = whole.stride()
    whole.as_strided(shape, strides, start * strides[2]).copy_(rows)
    return whole.as_strided((batch, heads, start + count, dim), strides)


def grow(cache: Any) -> None:
    """Lets the layers of an empty DynamicCache have room."""
    cache.layers[:] = [GrowingLayer() if type(at) is DynamicLayer else at for at in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
