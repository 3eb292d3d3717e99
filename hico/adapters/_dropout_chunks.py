"""Norms and MLPs a few thousand rows at a time, so that memory follows the rows alone."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# an MLP of 18,944 channels then takes 0.5 GB beside its rows
CHUNK = 4096


def row_modules(base: Any) -> Iterator[nn.Module]:
    """What a decoder does to each row by itself and in more memory than the row."""
    for layer in base.layers:
        for name in ("input_layernorm", "post_attention_layernorm", "mlp"):
            part = getattr(layer, name, None)
            if isinstance(part, nn.Module):
                yield part


def in_chunks(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same, of x [B, N, C], a chunk of rows at a time, where no gradient is wanted."""

    @functools.wraps(forward)
    def chunked(x: Tensor, *rest: Any, **named: Any) -> Tensor:
        alone = not rest and not named and isinstance(x, Tensor) and x.ndim == 3
        if not alone or torch.is_grad_enabled() or x.shape[0] * x.shape[1] <= CHUNK:
            return forward(x, *rest, **named)
        out, step = torch.empty_like(x), max(1, CHUNK // x.shape[0])
        for start in range(0, x.shape[1], step):
            done = forward(x[:, start : start + step])
            same = isinstance(done, Tensor) and done.dtype == x.dtype
            if not same or done.shape[::2] != x.shape[::2]:
                return forward(x)  # not what a norm or an MLP gives: leave it to itself
            out[:, start : start + step] = done
        return out

    chunked.by_rows = True  # type: ignore[attr-defined]
    return chunked
