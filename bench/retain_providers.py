"""Ours and plain PyTorch for the retention cases: callables of the shape and one input set.

The published form follows VideoChat-Flash (arXiv 2501.00574, progressive visual dropout): the last
token ranks all tokens by the attention that it would pay them in the next layer.
"""

from typing import NamedTuple

import torch
from torch import Tensor

import hico
from hico.bench.retain_inputs import EPS, KEEP, Layer, Queries, Ranking, Scores


class Kept(NamedTuple):
    """tokens [B, k, C], their rows [B, k], score [B, N], and from ours the keys [B, Hkv, N, D]."""

    tokens: Tensor
    rows: Tensor
    score: Tensor
    keys: Tensor | None = None


# ---- ours


def keep(
    hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, lengths: Tensor | None = None
) -> Kept:
    """LayerScorer, select, compact."""
    score, keys = hico.LayerScorer(layer)(hidden, (cos, sin), lengths=lengths)
    index = hico.select(score, ratio=KEEP, lengths=lengths)
    assert isinstance(index, Tensor)
    (tokens,) = hico.compact(index, hidden, dims=1)
    return Kept(tokens, index, score, keys)


def ours(s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor) -> Kept:
    """One row."""
    return keep(hidden, cos, sin, layer)


def ours_ragged(
    s: Ranking,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    lengths: Tensor,
    *row: Tensor,
) -> Kept:
    """A padded batch."""
    return keep(hidden, cos, sin, layer, lengths)


def one_row(
    s: Ranking,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    lengths: Tensor,
    *row: Tensor,
) -> Kept:
    """Ours on one row with as many tokens as the batch has."""
    hidden, cos, sin = row
    return keep(hidden, cos, sin, layer)


def keys(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> Tensor:
    """Of ours, the norm and K projection."""
    return hico.LayerScorer(layer).keys(hidden)


def keys_and_score(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> tuple[Tensor, Tensor]:
    """Of ours, all but select and compact."""
    return hico.LayerScorer(layer)(hidden, (cos, sin))


def select(s: Scores, score: Tensor) -> Tensor:
    """The indices of the best, ascending."""
    index = hico.select(score, s.k)
    assert isinstance(index, Tensor)
    return index


def column_means(s: Queries, q: Tensor, k: Tensor) -> Tensor:
    """Attention that each key gets on average."""
    return hico.attention_score(q, k)


# ---- plain PyTorch


def floor(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> tuple[Tensor, Tensor]:
    """The least that has to be done: cuBLAS' K projection of what is there, a gather of a k."""
    x = hidden[0]
    return torch.mm(x, layer.self_attn.k_proj.weight.mT), x.index_select(0, some)


def lean(s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor) -> Kept:
    """Only what is needed: keys of all, one query, attention without repeated keys, one gather."""
    score = lean_score(s, hidden, cos, sin, layer)
    index = best(score, s.kept[0])
    return Kept(hidden[0].index_select(0, index[0])[None], index, score)


def lean_score(s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer) -> Tensor:
    """[1, N] fp32."""
    x, attention = layer.input_layernorm(hidden), layer.self_attn
    k = rotate(split(attention.k_proj(x), s.D), cos, sin)
    q = rotate(split(attention.q_proj(x[:, -1:]), s.D), cos[:, -1:], sin[:, -1:])
    logits = q.reshape(1, s.kv_heads, s.heads // s.kv_heads, s.D) @ k.mT * s.D**-0.5
    return logits.softmax(-1, dtype=torch.float32).flatten(1, 2).mean(1)


def lean_rows(
    s: Ranking,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    lengths: Tensor,
    *row: Tensor,
) -> list[Tensor]:
    """The lean form of each row by itself."""
    kept = []
    for b, n in enumerate(s.lengths):
        score = lean_score(s, hidden[b : b + 1, :n], cos[:, :n], sin[:, :n], layer)
        kept.append(hidden[b].index_select(0, best(score, s.kept[b])[0]))
    return kept


def published(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> Tensor:
    """The published form with its L x L mask, here filled in place: the lightest way to make it."""
    return _published(s, hidden, cos, sin, layer, masked=True)


def published_unmasked(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> Tensor:
    """The same without a mask, which changes nothing for the last token."""
    return _published(s, hidden, cos, sin, layer, masked=False)


def _published(
    s: Ranking, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, masked: bool
) -> Tensor:
    x, attention = rms_norm(hidden, layer.input_layernorm.weight), layer.self_attn
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, _ = (split(projection(x), s.D) for projection in projections)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)
    k = k[:, :, None].expand(-1, -1, s.heads // s.kv_heads, -1, -1).reshape(q.shape)
    logits = q[:, :, -1:] @ k.mT / s.D**0.5
    if masked:
        lowest = torch.finfo(s.dtype).min
        mask = torch.full((s.N, s.N), lowest, dtype=s.dtype, device=hidden.device).triu_(1)
        logits = logits + mask[-1:]
    weights = logits.softmax(-1, dtype=torch.float32).to(s.dtype)
    index = best(weights.mean(1)[:, 0], s.kept[0])
    return hidden[0].index_select(0, index[0])[None]


def best(score: Tensor, k: int) -> Tensor:
    """[B, k] ascending."""
    return score.topk(k, sorted=False).indices.sort().values


def topk_sort(s: Scores, score: Tensor) -> Tensor:
    """The indices of the best, ascending; which of equal scores is not defined."""
    return best(score, s.k)


def all_weights(s: Queries, q: Tensor, k: Tensor) -> Tensor:
    """All weights, without repeated keys; softmax and means in fp32."""
    grouped = q.reshape(1, s.kv_heads, s.heads // s.kv_heads * s.M, s.D)
    logits = (grouped @ k.mT).mul_(s.D**-0.5)
    return logits.softmax(-1, dtype=torch.float32).flatten(1, 2).mean(1)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    """As transformers writes it."""
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + EPS)
    return weight * wide.to(x.dtype)


def split(x: Tensor, dim: int) -> Tensor:
    """[B, N, heads * dim] -> [B, heads, N, dim]."""
    return x.unflatten(-1, (-1, dim)).transpose(1, 2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions as transformers applies them, in x's dtype."""
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]
