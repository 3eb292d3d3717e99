"""LayerScorer: the attention that a decoder layer would pay, before the layer runs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hico.adapters._layer import (
    check_layer,
    has_hooks,
    is_plain_linear,
    is_plain_norm,
    weight_and_eps,
)
from hico.ops import _check
from hico.ops.project import norm_project
from hico.ops.score import HEADS, QUERIES, attention_score
from hico.reference.match import accumulator

# rows that a module sees at once, where it is not known to be a plain norm or Linear
CHUNK = 4096


class LayerScore(NamedTuple):
    """What a LayerScorer returns: score [B, stop - start] and keys [B, Hkv, N, D]."""

    score: Tensor
    keys: Tensor


@dataclass(frozen=True, eq=False)
class LayerScorer:
    """score[b, n] = the attention that row m of b would pay token n in this layer, reduced over m.

    For a decoder layer as in transformers' Qwen2, Qwen3, Llama or Mistral: input_layernorm, then
    q_proj and k_proj with their biases, q_norm and k_norm where there are any, rotary positions,
    softmax over all that the row attends, and hico.attention_score's reductions. Needed for it are
    the keys of all tokens, which the layer can use again, and the query of a row or a few: nothing
    else is projected, and next to the keys memory grows with N alone. No gradient; deterministic.

    A plain RMSNorm and a plain nn.Linear are fused into one pass over the hidden states. Whatever
    else stands there (LoRA, quantised weights, hooks, 1 + weight norms, autocast) is called as a
    module, a few thousand rows at a time. Weights are read at each call, what kind of norm it is
    when the scorer is made.

    Attributes:
        layer: has input_layernorm and self_attn with q_proj, k_proj and head_dim.
        reduce_heads, reduce_queries: as in hico.attention_score.

    Call it with:
        hidden: [B, N, C], what goes into the layer.
        position_embeddings: (cos, sin) [1, N, D] or [B, N, D] as the model hands them to the layer;
            None = without rotation.
        query_rows: [M] or [B, M] ints, the rows that pay attention, each to the keys up to itself;
            a row outside 0..N-1 does not count. None = the last attended row of each batch row.
        query_mask: [M] or [B, M] bool, True = the query row counts. None = all.
        key_mask: [N] or [B, N] bool, True = the token is attended. None = all.
        lengths: [B] ints, tokens of each row of a right-padded batch. None = N.
        key_range: (start, stop), the tokens whose scores are returned. None = (0, N).

    Returns:
        LayerScore(score, keys): score [B, stop - start] float32 ([B, Hkv, stop - start] for "kv");
        keys [B, Hkv, N, D] in hidden's dtype, what the layer would rotate next, of every token.

    Raises:
        ValueError: a layer of another make, a windowed or soft-capped attention, a wrong shape.

    Source: VideoChat-Flash (arXiv 2501.00574), progressive visual dropout, and PyramidDrop (arXiv
        2410.17247): tokens are ranked by the norm and projections of the layer that comes next.

    >>> import torch, hico
    >>> from transformers import Qwen2Config
    >>> from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer
    >>> config = Qwen2Config(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
    >>> scorer = hico.LayerScorer(Qwen2DecoderLayer(config, layer_idx=0))
    >>> cos, sin = torch.ones(1, 10, 16), torch.zeros(1, 10, 16)  # from the model's rotary_emb
    >>> score, keys = scorer(torch.randn(1, 10, 64), (cos, sin), key_range=(2, 8))
    >>> score.shape, keys.shape
    (torch.Size([1, 6]), torch.Size([1, 2, 10, 16]))
    """

    layer: nn.Module
    reduce_heads: str = "mean"
    reduce_queries: str = "mean"
    _plain_norm: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_layer(self.layer)
        _check.one_of("reduce_heads", self.reduce_heads, HEADS)
        _check.one_of("reduce_queries", self.reduce_queries, QUERIES)
        object.__setattr__(self, "_plain_norm", is_plain_norm(self._parts()[0]))

    @torch.no_grad()
    def __call__(
        self,
        hidden: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        *,
        query_rows: Tensor | None = None,
        query_mask: Tensor | None = None,
        key_mask: Tensor | None = None,
        lengths: Tensor | None = None,
        key_range: tuple[int, int] | None = None,
    ) -> LayerScore:
        self._check_hidden(hidden)
        batch, n, _ = hidden.shape
        if key_mask is not None:
            key_mask = _check.mask_rows("key_mask", key_mask, batch, n)
        if lengths is not None:
            _check.indices("lengths", lengths, batch)
        _, attention = self._parts()
        cos, sin = _rotation(position_embeddings, batch, n, attention.head_dim)
        if query_rows is None:
            # such a row attends all there is, so that it needs no position to be compared with
            rows = counted = None
            at = last_rows(n, key_mask, lengths)
        else:
            rows = _check.token_rows("query_rows", query_rows, batch)
            counted = (rows >= 0) & (rows < n)
            at = rows.clamp(0, max(n - 1, 0))
        if query_mask is not None:
            count = min(n, 1) if rows is None else rows.shape[1]
            query_mask = _check.mask_rows("query_mask", query_mask, batch, count)
            counted = query_mask if counted is None else counted & query_mask
        if n == 0 and rows is not None and counted is not None:  # no token can be a query
            rows, counted = rows[:, :0], counted[:, :0]
        keys = self.keys(hidden, lengths)
        score = attention_score(
            self._queries(hidden, at, cos, sin),
            keys,
            query_positions=rows,
            query_mask=counted,
            key_mask=key_mask,
            key_range=key_range,
            cos=cos,
            sin=sin,
            scale=getattr(attention, "scaling", None),
            reduce_heads=self.reduce_heads,
            reduce_queries=self.reduce_queries,
            lengths=lengths,
        )
        return LayerScore(score, keys)

    @torch.no_grad()
    def keys(self, hidden: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The layer's keys of hidden [B, N, C] as they go into its rotation: [B, Hkv, N, D].

        Those of padding, tokens from lengths [B] on, mean nothing.
        """
        self._check_hidden(hidden)
        norm, attention = self._parts()
        linear, key_norm = attention.k_proj, getattr(attention, "k_norm", None)
        if self._fuses(hidden) and is_plain_linear(linear, hidden):
            weight, eps = weight_and_eps(norm)
            keys = norm_project(hidden, weight, linear.weight, linear.bias, eps, lengths)
        else:
            keys = _in_chunks(lambda part: linear(norm(part)), hidden)
        keys = keys.unflatten(-1, (-1, attention.head_dim))
        keys = keys if key_norm is None else _in_chunks(key_norm, keys, out=keys)
        return keys.transpose(1, 2)

    def _check_hidden(self, hidden: Tensor) -> None:
        _check.tokens("hidden", hidden)
        norm, attention = self._parts()
        channels = norm.weight.shape[0] if self._plain_norm else hidden.shape[2]
        if hidden.shape[2] != channels:
            raise ValueError(f"hidden: expected [B, N, {channels}], got {list(hidden.shape)}")
        kind = attention.k_proj.weight.dtype if type(attention.k_proj) is nn.Linear else None
        automatic = torch.is_autocast_enabled(hidden.device.type)
        if kind is not None and kind.is_floating_point and hidden.dtype != kind and not automatic:
            raise ValueError(f"hidden: expected {kind} like k_proj's weight, got {hidden.dtype}")

    def _parts(self) -> tuple[Any, Any]:
        return self.layer.input_layernorm, self.layer.self_attn

    def _fuses(self, hidden: Tensor) -> bool:
        """Whether the norm may be written out: it is plain, and nothing would change its dtype."""
        norm, _ = self._parts()
        plain = self._plain_norm and not has_hooks(norm) and norm.weight.dtype == hidden.dtype
        return plain and not torch.is_autocast_enabled(hidden.device.type)

    def _queries(
        self, hidden: Tensor, rows: Tensor | None, cos: Tensor | None, sin: Tensor | None
    ) -> Tensor:
        """The rotated queries [B, Hq, M, D] of some rows."""
        norm, attention = self._parts()
        x = _take(hidden, rows)
        if self._fuses(hidden):
            weight, eps = weight_and_eps(norm)
            x = F.rms_norm(x, x.shape[-1:], weight, eps)
        else:
            x = norm(x)
        q = attention.q_proj(x).unflatten(-1, (-1, attention.head_dim))
        if getattr(attention, "q_norm", None) is not None:
            q = attention.q_norm(q)
        q = q.transpose(1, 2)
        if cos is None or sin is None:
            return q
        cos, sin = (_take(t, rows)[:, None] for t in (cos, sin))
        wide = q.to(accumulator(q.dtype))
        first, second = wide.chunk(2, -1)
        return (wide * cos + torch.cat((-second, first), -1) * sin).to(q.dtype)


def _rotation(
    given: tuple[Tensor, Tensor] | None, batch: int, n: int, dim: int
) -> tuple[Tensor | None, Tensor | None]:
    """cos and sin as [B, N, D] views, or None twice."""
    if given is None:
        return None, None
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        raise ValueError(f"position_embeddings: expected (cos, sin), got {type(given).__name__}")
    for name, t in zip(("cos", "sin"), given, strict=True):
        rows = 1 if isinstance(t, Tensor) and t.ndim == 3 and t.shape[0] == 1 else batch
        _check.shape(name, t, rows, n, dim)
    return given[0].expand(batch, -1, -1), given[1].expand(batch, -1, -1)


def last_rows(n: int, key_mask: Tensor | None, lengths: Tensor | None) -> Tensor | None:
    """[B, 1] int64: the last token of each row that is attended, else 0; None: the last of all."""
    if key_mask is None:
        return None if lengths is None else lengths[:, None].to(torch.int64).clamp(1, max(n, 1)) - 1
    place = torch.arange(n, device=key_mask.device)
    if lengths is not None:
        key_mask = key_mask & (place < lengths[:, None])
    # a zero in front, as there may be no tokens to take a maximum of
    return F.pad(place * key_mask, (1, 0)).amax(1, keepdim=True)


def _take(x: Tensor, rows: Tensor | None) -> Tensor:
    """x[b, rows[b]]: [B, N, C] -> [B, M, C]; None: the last row, if there is one."""
    if rows is None or x.shape[1] == 0:
        return x[:, -1:]
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[2]))


def _in_chunks(f: Callable[[Tensor], Tensor], x: Tensor, out: Tensor | None = None) -> Tensor:
    """f(x) of x [B, N, ...], about CHUNK rows at a time, into out if there is one."""
    step, start = max(1, CHUNK // max(1, x.shape[0])), 0
    if out is None and x.shape[1] <= step:
        return f(x)
    for part in x.split(step, 1):
        y = f(part)
        out = y.new_empty(*x.shape[:2], *y.shape[2:]) if out is None else out
        out[:, start : start + step] = y
        start += step
    assert out is not None
    return out
