"""Masks, positions and caches of layers that hold a different number of rows."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from hico.adapters._dropout_again import Prefix
from hico.adapters._dropout_rows import Plan


def check(cache: Any) -> None:
    """The cache lets each layer have its own length."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    from hico.adapters._dropout_growing import GrowingLayer

    if cache is None:
        return
    known = (DynamicLayer, GrowingLayer)
    layers = {type(layer).__name__ for layer in cache.layers if type(layer) not in known}
    if not isinstance(cache, DynamicCache) or layers:
        got = ", ".join([type(cache).__name__, *sorted(layers)])
        raise ValueError(
            "past_key_values: expected a DynamicCache, whose layers may hold a different number of "
            f"rows, got {got}"
        )


def grow(cache: Any) -> None:
    """Lets an empty cache write new rows behind its old ones; see GrowingLayer."""
    from hico.adapters import _dropout_growing

    _dropout_growing.grow(cache)


def refusing_chunks(prefill: Callable) -> Callable:
    """generate's prefill, but for chunks: each would be taken for the whole prompt."""

    @functools.wraps(prefill)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for given in (*args, *kwargs.values()):
            size = getattr(given, "prefill_chunk_size", None)
            if size is not None:
                raise ValueError(
                    "prefill_chunk_size: expected None, as a drop needs the whole prompt, "
                    f"got {size}"
                )
        return prefill(*args, **kwargs)

    return checked


@dataclass
class Held:
    """What the layers' caches hold of the prompts so far.

    Attributes:
        layers: those before which there was a drop.
        keys: for each stage [B, N] bool, which rows are tokens; None = all.
        ahead: [B, 1] int64, how far the positions of the model's own go beyond the count of tokens;
            None = not at all, or there is no padding.
        prefix: what another question may begin with, if there is to be one.
        rewound: the cache holds the prefix and nothing else.
    """

    layers: tuple[int, ...] = ()
    keys: list[Tensor | None] = field(default_factory=list)
    ahead: Tensor | None = None
    prefix: Prefix | None = None
    rewound: bool = False

    def extended(self, cache: Any, tail: Tensor | None, batch: int, count: int) -> "Held":
        """With count new rows, those of tail [B, count] that are tokens; None: all."""
        keys: list[Tensor | None] = []
        for layer, old in zip((0, *self.layers), self.keys, strict=not self.rewound):
            if old is not None and len(old) != batch:
                raise ValueError(
                    f"past_key_values: expected the prompt's batch of {len(old)}, got {batch}"
                )
            if old is None and tail is None:
                keys.append(None)
                continue
            device = old.device if tail is None else tail.device  # type: ignore[union-attr]
            known = torch.ones(batch, 0, dtype=torch.bool, device=device) if old is None else old
            cached = cache.get_seq_length(layer)
            # cut to what a cache that was cropped still has
            known = F.pad(known[:, :cached], (0, max(0, cached - known.shape[1])), value=True)
            new = known.new_ones(batch, count) if tail is None else tail
            keys.append(torch.cat([known, new], 1))
        return Held(self.layers, keys, self.ahead, self.prefix)


def held(cache: Any, plan: Plan) -> Held:
    """What a cache holds that was filled with these drops, or without any."""
    known = getattr(cache, "dropout", Held())
    if known.keys and known.layers != plan.layers:
        raise ValueError(
            "past_key_values: expected a prompt that was shortened before layers "
            f"{list(plan.layers)}, got one before {list(known.layers)}"
        )
    if known.rewound and known.prefix is not None and known.prefix.plan != plan:
        raise ValueError(
            f"past_key_values: expected {known.prefix.plan}, as when it was filled, got {plan}"
        )
    return known


def ahead(mask: Tensor | None, place: Tensor | None) -> Tensor | None:
    """How far the last position of each row is beyond its count of tokens."""
    if mask is None or place is None:
        return None
    last = place.expand(len(mask), -1).masked_fill(~mask, -1).amax(1, keepdim=True)
    return last + 1 - mask.sum(1, keepdim=True)


def new_tokens(mask: Tensor | None, count: int, device: torch.device) -> Tensor | None:
    """[B, count] bool, which of the new rows are tokens; None: all."""
    if mask is None or count == 1 or mask.shape[1] < count or bool(mask[:, -count:].all()):
        return None
    return mask[:, -count:].to(device)


def causal_mask(config: Any, hidden: Tensor, keys: Tensor | None, cache: Any, layer: int) -> Any:
    """What the attention implementation takes for a mask, sized after this layer's own cache."""
    from transformers.masking_utils import create_causal_mask

    return create_causal_mask(
        config=config,
        inputs_embeds=hidden,
        attention_mask=keys,
        past_key_values=cache,
        position_ids=None,
        layer_idx=layer,
    )


def positions(
    keys: Tensor | None,
    count: int,
    device: torch.device,
    ahead: Tensor | None = None,
    past: int = 0,
) -> Tensor:
    """[B or 1, count]: how many tokens a layer holds before each new one; past if all are."""
    if keys is None:
        return torch.arange(past, past + count, device=device)[None]
    place = (keys.cumsum(1) - 1).clamp(min=0)[:, -count:]
    return place if ahead is None else place + ahead
