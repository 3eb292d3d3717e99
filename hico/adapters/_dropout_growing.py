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
        if not self._has_room(held + new):
            self._whole = self._make(key_states, held + new), self._make(value_states, held + new)
            if held:
                for whole, old in zip(self._whole, (self.keys, self.values), strict=True):
                    whole[:, :, :held] = old
        assert self._whole is not None
        keys, values = self._whole
        keys.narrow(2, held, new).copy_(key_states)
        values.narrow(2, held, new).copy_(value_states)
        self.keys, self.values = keys.narrow(2, 0, held + new), values.narrow(2, 0, held + new)
        self._heads = self.keys, self.values
        return self._heads

    def _has_room(self, rows: int) -> bool:
        """Whether keys and values are still the head of what holds them, with room for more."""
        whole = self._whole
        if whole is None or whole[0].shape[2] < rows:
            return False
        if whole[0].is_inference() and not torch.is_inference_mode_enabled():
            return False  # not to be written any more
        if self.keys is self._heads[0] and self.values is self._heads[1]:
            return True
        return all(
            part.data_ptr() == own.data_ptr() and part.shape[0] == own.shape[0]
            for part, own in zip((self.keys, self.values), whole, strict=True)
        )

    def _make(self, like: Tensor, rows: int) -> Tensor:
        shape = (*like.shape[:2], rows + ROOM, like.shape[3])
        return torch.empty(shape, dtype=like.dtype, device=like.device)


def grow(cache: Any) -> None:
    """Lets the layers of an empty DynamicCache have room."""
    cache.layers[:] = [GrowingLayer() if type(at) is DynamicLayer else at for at in cache.layers]
    if cache.layer_class_to_replicate is DynamicLayer:
        cache.layer_class_to_replicate = GrowingLayer
