"""Attention scores, written out: all logits, masks, softmax, two reductions."""

import torch
from torch import Tensor

from hico.reference.match import accumulator


def rotate(k: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """k * cos + (-second half, first half) * sin in fp32 (or float64), rounded to k's dtype."""
    acc = accumulator(k.dtype)
    first, second = k.to(acc).chunk(2, -1)
    turned = torch.cat([-second, first], -1)
    if cos.shape[-1] < k.shape[-1]:
        cos, sin = torch.cat([cos, cos], -1), torch.cat([sin, sin], -1)
    cos, sin = (t.to(acc).unsqueeze(-3) for t in (cos, sin))  # the same for every head
    return (k.to(acc) * cos + turned * sin).to(k.dtype)


def attended(
    shape: tuple[int, int, int],
    query_positions: Tensor | None,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    lengths: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Whether row m attends key n: bool [B, M, N] for shape (B, M, N)."""
    n = torch.arange(shape[2], device=device)
    allowed = torch.ones(shape, dtype=torch.bool, device=device)
    if query_positions is not None:
        allowed = allowed & (n <= query_positions[:, :, None])
    if query_mask is not None:
        allowed = allowed & query_mask[:, :, None]
    if key_mask is not None:
        allowed = allowed & key_mask[:, None, :]
    if lengths is not None:
        allowed = allowed & (n < lengths[:, None, None])
    return allowed


def attention_score(
    q: Tensor,
    k: Tensor,
    query_positions: Tensor | None,
    query_mask: Tensor | None,
    key_mask: Tensor | None,
    lengths: Tensor | None,
    cos: Tensor | None,
    sin: Tensor | None,
    lse: Tensor | None,
    start: int,
    stop: int,
    scale: float | None,
    reduce_heads: str,
    reduce_queries: str,
) -> Tensor:
    """Softmax over all attended keys, keys start..stop - 1 reduced over rows, then over heads."""
    acc, (batch, heads, rows, dim), kv_heads, n = accumulator(q.dtype), q.shape, *k.shape[1:3]
    if cos is not None and sin is not None:
        k = rotate(k, cos, sin)
    scale = dim**-0.5 if scale is None else scale
    grouped = q.to(acc).reshape(batch, kv_heads, heads // kv_heads * rows, dim)
    logits = (grouped @ k.to(acc).mT * scale).reshape(batch, heads, rows, n)
    allowed = attended((batch, rows, n), query_positions, query_mask, key_mask, lengths, q.device)
    logits = logits.masked_fill(~allowed[:, None], -torch.inf)
    p = logits.softmax(-1) if lse is None else (logits - lse.to(acc).unsqueeze(-1)).exp()
    p = torch.where(logits == -torch.inf, 0, p)[..., start:stop]

    score = p.amax(2) if reduce_queries == "max" and rows else p.sum(2)
    if reduce_queries == "mean":
        count = torch.full((batch,), rows, device=q.device)
        count = count if query_mask is None else query_mask.sum(1)
        score = score / count.clamp(min=1)[:, None, None]
    if reduce_heads == "kv":
        return score.reshape(batch, kv_heads, heads // kv_heads, stop - start).mean(2)
    if reduce_heads == "max":
        return score.amax(1)
    return score.mean(1) if reduce_heads == "mean" else score.sum(1)
