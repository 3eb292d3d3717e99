"""Attention of a shortened, padded or continued sequence without a mask of its rows by its rows."""

import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

NAME = "hico_sdpa"
# from so much work on, rows x rows x heads x their width, cuDNN's kernel gains more than the 60 ms
# it needs for each new length: 16,384 rows of Qwen2-7B, 61,000 of hico-tiny
LONG = 16384**2 * 28 * 128
ORDER = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
# elements of the largest mask that rows behind a cache get at once
MASKED = 1 << 28


class _Switch:
    """torch's switch of cuDNN's attention, one for all threads: off as long as any wants it off."""

    def __init__(self) -> None:
        self.lock, self.users, self.before = threading.Lock(), 0, True

    def off(self) -> None:
        cuda = torch.backends.cuda
        with self.lock:
            self.users += 1
            if self.users == 1:
                self.before = cuda.cudnn_sdp_enabled()
                others = cuda.flash_sdp_enabled() and cuda.mem_efficient_sdp_enabled()
                cuda.enable_cudnn_sdp(self.before and not others)

    def back(self) -> None:
        with self.lock:
            self.users -= 1
            if not self.users:
                torch.backends.cuda.enable_cudnn_sdp(self.before)


_CUDNN = _Switch()


@contextmanager
def unplanned() -> Iterator[None]:
    """Attention without cuDNN's kernel meanwhile, which plans for every new length: 40 to 150 ms.

    It stays where the caller left not both of the other fast ones: flash, which takes no masks, and
    the memory-efficient one, which takes no grouped heads. Entered where a pass is traced, if it is
    compiled: its backend is chosen then.
    """
    _CUDNN.off()
    try:
        yield
    finally:
        _CUDNN.back()


class Tokens:
    """Which keys are tokens and not padding: mask [B, N] bool, some of it False."""

    def __init__(self, mask: Tensor) -> None:
        self.mask = mask

    @cached_property
    def runs(self) -> list[tuple[int, int]] | None:
        """(start, stop) of each row's tokens; None if some row has padding between them."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        stop = torch.where(self.mask, place + 1, 0).amax(1)
        count = self.mask.sum(1)
        start = torch.where(self.mask, place, len(place)).amin(1).minimum(stop)
        found = torch.stack([start, stop, count]).tolist()  # one wait for the device a stage
        if any(last - first != n for first, last, n in zip(*found, strict=True)):
            return None
        return list(zip(found[0], found[1], strict=True))


def tokens(*_: Any, attention_mask: Tensor | None = None, kv_length: int, **__: Any) -> Any:
    """transformers' mask interface: what `attend` gets for a mask."""
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return Tokens(attention_mask[:, :kv_length])


def register() -> None:
    """Makes NAME known to transformers; a second time changes nothing."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface

    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, tokens)


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tokens | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' attention interface: [B, Hq, M, D] over [B, Hkv, N, D] gives [B, M, Hq, D].

    The last of M rows stands at the last of N keys. Rows of padding give finite values.
    """
    out = _attend(query, key, value, attention_mask, scaling, dropout)
    return out.transpose(1, 2).contiguous(), None


def _attend(
    q: Tensor, k: Tensor, v: Tensor, held: Tokens | None, scale: float | None, dropout: float
) -> Tensor:
    """[B, Hq, M, D]."""
    prompt = q.shape[2] == k.shape[2]
    if prompt and held is None:
        return _causal(q, k, v, scale, dropout)
    if prompt and held.runs is not None:  # type: ignore[union-attr]
        out = torch.zeros_like(q)
        for b, (start, stop) in enumerate(held.runs):  # type: ignore[union-attr]
            one = [t[b : b + 1, :, start:stop] for t in (q, k, v)]
            out[b : b + 1, :, start:stop] = _causal(one[0], one[1], one[2], scale, dropout)
        return out
    with _backends(long=False):
        if q.shape[2] == 1 and held is None:
            return F.scaled_dot_product_attention(
                q, k, v, dropout_p=dropout, scale=scale, enable_gqa=True
            )
        if held is None and _splits_keys(q, k, v, dropout):
            return _behind(q, k, v, scale, dropout)
        return _masked(q, k, v, held, scale, dropout)


def _splits_keys(q: Tensor, k: Tensor, v: Tensor, dropout: float) -> bool:
    """Whether flash attention takes these rows: it shares the keys of few rows out.

    The memory-efficient kernel, which takes masks, goes through all keys one block after another.
    """
    if not q.is_cuda or torch.compiler.is_compiling():
        return False
    return can_use_flash_attention(SDPAParams(q, k, v, None, dropout, False, True))


def _behind(q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float) -> Tensor:
    """Rows behind a cache, the last of them at the last key."""
    from torch.nn.attention.bias import causal_lower_right  # it brings sympy, and its warnings

    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=causal_lower_right(q.shape[2], k.shape[2]), dropout_p=dropout,
        scale=scale, enable_gqa=True,
    )  # fmt: skip


def _backends(long: bool) -> AbstractContextManager:
    """What computes attention; compiled code has no say in it."""
    if torch.compiler.is_compiling():
        return nullcontext()
    if long and torch.backends.cuda.cudnn_sdp_enabled():
        return sdpa_kernel(ORDER, set_priority=True)
    return unplanned()


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float | None, dropout: float) -> Tensor:
    _, heads, rows, width = q.shape
    with _backends(long=q.is_cuda and rows * rows * heads * width >= LONG):
        return F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scale, enable_gqa=True
        )


def _masked(
    q: Tensor, k: Tensor, v: Tensor, held: Tokens | None, scale: float | None, dropout: float
) -> Tensor:
    """Rows behind a cache. Heads that share a key are laid out as rows: so no key is copied."""
    batch, heads, count, dim = q.shape
    kv_heads, n = k.shape[1:3]
    group, device = heads // kv_heads, q.device
    step = max(1, MASKED // max(1, batch * group * n))
    keys, out = torch.arange(n, device=device), torch.empty_like(q)
    for start in range(0, count, step):
        rows = torch.arange(start, min(start + step, count), device=device) + n - count
        seen = (keys <= rows[:, None])[None]
        if held is not None:
            # a row of padding sees itself, as over nothing there is no softmax
            seen = seen & held.mask[:, None] | (keys == rows[:, None])
        mask = seen[:, None, None].expand(-1, 1, group, -1, -1).flatten(2, 3)
        part = q[:, :, start : start + step].reshape(batch, kv_heads, -1, dim)
        part = F.scaled_dot_product_attention(
            part, k, v, attn_mask=mask, dropout_p=dropout, scale=scale
        )
        out[:, :, start : start + step] = part.reshape(batch, heads, -1, dim)
    return out
