"""ToMe's call signatures on hico's kernels: change the import, keep the model."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hico.ops import _check, segment
from hico.ops.match import match
from hico.ops.merge import _rounds, merge_map
from hico.reference.match import accumulator
from hico.token_map import TokenMap

__all__ = ["Merge", "Unmerge", "bipartite_soft_matching", "merge_source", "merge_wavg"]

MODES = ("mean", "sum", "amax")


@dataclass(frozen=True, eq=False)
class Merge:
    """out[b, m] = mean, sum or maximum of the x[b, n] in slot m: [B, t, C] -> [B, t - r, C].

    A value, so it can be pickled, copied, compiled and returned by what was compiled. Every slot's
    destination counts as one of its members. Means and sums run in fp32 (float64 for float64) and
    are bitwise repeatable. Differentiable in x; equal maxima share their gradient evenly. Where no
    token merges, the call returns x itself.

    Attributes:
        map: where each of the t tokens goes.
        lists: every slot's members as the matching listed them; None: each call finds them again.

    Raises:
        ValueError: x is not [B, t, C], or mode is not "mean", "sum" or "amax".

    >>> import torch, hico
    >>> merge = Merge(hico.TokenMap(torch.tensor([[1, 1, 0]]), torch.tensor([[2, 1]])))
    >>> x = torch.tensor([[[1.0], [3.0], [7.0]]])
    >>> merge(x).flatten(), merge(x, mode="sum").flatten(), merge(x, mode="amax").flatten()
    (tensor([7., 2.]), tensor([7., 4.]), tensor([7., 3.]))
    """

    map: TokenMap
    lists: Tensor | None = field(default=None, repr=False)

    def __call__(self, x: Tensor, mode: str = "mean") -> Tensor:
        _check.one_of("mode", mode, MODES)
        _expect_tokens("x", x, self.map.assign)
        if _merges_nothing(self.map):
            return x
        if x.dtype == torch.bool:
            return self(x.to(torch.int32), mode).to(torch.bool)  # CUDA scatters no booleans
        if mode != "amax" and x.is_floating_point():
            return segment.segment_reduce(x, self.map, None, mode == "mean", self.lists)[0]
        # backward takes an initial value equal to the maximum for one more tie; NaN equals nothing
        start = torch.nan if x.is_floating_point() else 0
        out = x.new_full((x.shape[0], self.map.num_slots, x.shape[2]), start)
        slot = self.map.assign[..., None].expand(x.shape)
        return out.scatter_reduce(1, slot, x, mode, include_self=False)


@dataclass(frozen=True, eq=False)
class Unmerge:
    """out[b, n] = y[b, slot of token n]: [B, t - r, C] -> [B, t, C], in the order before the merge.

    Merged sources and their destination all get the slot's value. A value, as Merge is.
    Differentiable in y. Where no token merged, the call returns y itself.

    Attributes:
        map: where each of the t tokens went.

    Raises:
        ValueError: y is not [B, t - r, C].

    >>> import torch, hico
    >>> unmerge = Unmerge(hico.TokenMap(torch.tensor([[1, 1, 0]]), torch.tensor([[2, 1]])))
    >>> unmerge(torch.tensor([[[7.0], [2.0]]])).flatten()
    tensor([2., 2., 7.])
    """

    map: TokenMap

    def __call__(self, y: Tensor) -> Tensor:
        _expect_tokens("y", y, self.map.anchor)
        if _merges_nothing(self.map):
            return y
        if y.is_floating_point():
            return self.map.unmerge(y)
        return y.gather(1, self.map.assign[..., None].expand(-1, -1, y.shape[2]))


pytree.register_dataclass(Merge, serialized_type_name="hico.compat.Merge")
pytree.register_dataclass(Unmerge, serialized_type_name="hico.compat.Unmerge")


def bipartite_soft_matching(
    metric: Tensor, r: int, class_token: bool = False, distill_token: bool = False
) -> tuple[Merge, Unmerge]:
    """Merge the r even tokens most similar to their best odd partner (by cosine) into that partner.

    r is cut to min(r, (t - special tokens) // 2); r <= 0 is the identity. A class token (token 0)
    never merges. A distillation token (token 1) receives nothing, unless it is the only
    destination: three tokens, no class token. The t - r tokens come out in this order:

    - no special token: unmerged even tokens by falling similarity, then the odd ones;
    - class token: unmerged even tokens by position (the class token first), then the odd ones;
    - distillation token: likewise, but it stands second, after the first unmerged even token.

    Exact as fp32 (float64 for float64) and bitwise repeatable; ties go to the lower position; zero
    and non-finite metrics as in hico.match. No host synchronisation; no gradient into the metric.

    Args:
        metric: [B, t, D] float16, bfloat16, float32 or float64, say the mean key of the heads.
        r: tokens to merge away.
        class_token: token 0 is a class token.
        distill_token: token 1 is a distillation token.

    Returns:
        merge(x, mode="mean") and unmerge(y), for any [B, t, C] and [B, t - r, C]; both hold the
        TokenMap as `.map`.

    Raises:
        ValueError: metric is not [B, t, D] in a listed dtype, or r is not an integer.

    Source: the rule of ToMe (arXiv 2210.09461, section 3), written anew.

    >>> import torch
    >>> from hico.compat import bipartite_soft_matching
    >>> x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.5, 1.0]]])
    >>> merge, unmerge = bipartite_soft_matching(x, r=1)
    >>> merge
    Merge(map=TokenMap(4 -> 3 tokens, batch 1, cpu))
    >>> merge(x)  # token 2, then tokens 0 and 1, then token 3
    tensor([[[0.0000, 1.0000],
             [1.0000, 0.0500],
             [0.5000, 1.0000]]])
    >>> unmerge(merge(x)).shape
    torch.Size([1, 4, 2])
    """
    _check.tokens("metric", metric)
    if isinstance(r, bool) or not isinstance(r, (int, torch.SymInt)):
        raise ValueError(f"r: expected an integer, got {type(r).__name__} {r!r}")
    protected = int(bool(class_token)) + int(bool(distill_token))
    r = min(r, (metric.shape[1] - protected) // 2)
    metric, lists = metric.detach(), None
    if r <= 0:
        token = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])
        map = TokenMap(token, token)
    elif distill_token and not class_token:
        map = _match_beside_distill_token(metric, r)
    else:
        # protected tokens keep the first slots and bring the sources into order of position
        target = metric.shape[1] - r
        assign, anchor, lists = _rounds(metric, target, 1, None, None, protected, False)
        map = TokenMap(assign, anchor)
    return Merge(map, lists), Unmerge(map)


def merge_wavg(merge: Merge, x: Tensor, size: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """sum of x * size / sum of size, and sum of size, over every slot's members: one pass over x.

    The sizes come back as float32 (float64 for float64 x), since bfloat16 cannot tell 257 from 256.
    A half-precision model outside autocast therefore adds size.log().to(scores.dtype) to its
    attention scores. A token that nothing joins is copied. Averages are differentiable in x and
    size; no gradient flows through the returned sizes.

    Args:
        merge: the first result of bipartite_soft_matching.
        x: [B, t, C] float16, bfloat16, float32 or float64.
        size: [B, t, 1] how many tokens each one stands for, any real dtype; None = 1.

    Returns:
        x [B, t - r, C] in its dtype, size [B, t - r, 1].

    Raises:
        ValueError: merge came from elsewhere, or a wrong shape or dtype.

    Source: tracking token size, ToMe (arXiv 2210.09461, section 3).

    >>> import torch
    >>> from hico.compat import bipartite_soft_matching, merge_wavg
    >>> x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> merge, _ = bipartite_soft_matching(x, r=1)
    >>> x, size = merge_wavg(merge, x)
    >>> x, size.flatten()
    (tensor([[[0.0000, 1.0000],
             [1.5000, 0.0000],
             [1.0000, 1.0000]]]), tensor([1., 2., 1.]))
    """
    map = _map_of(merge)
    _check.tokens("x", x)
    _expect_tokens("x", x, map.assign)
    if size is not None:
        _check.real("size", size, *map.assign.shape, 1)
    kind = accumulator(x.dtype)
    if _merges_nothing(map):
        return x, x.new_ones(*map.assign.shape, 1, dtype=kind) if size is None else size.to(kind)
    weights = None if size is None else size[..., 0]
    tokens, total = segment.segment_reduce(x, map, weights, True, merge.lists)
    return tokens, total[..., None].to(kind)


def merge_source(merge: Merge, x: Tensor, source: Tensor | None = None) -> Tensor:
    """source[b, m, n] = 1 where input token n of the first block is now in token m, else 0.

    Args:
        merge: the first result of bipartite_soft_matching.
        x: [B, t, C] the tokens before the merge; only their shape counts.
        source: [B, t, T] what the last merge_source returned; None = the identity, T = t.

    Returns:
        [B, t - r, T], in the dtype of source (None: torch's default).

    Raises:
        ValueError: merge came from elsewhere, or x or source is not [B, t, ...].

    >>> import torch
    >>> from hico.compat import bipartite_soft_matching, merge_source
    >>> x = torch.tensor([[[1.0, 0.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]]])
    >>> merge, _ = bipartite_soft_matching(x, r=1)
    >>> merge_source(merge, x)
    tensor([[[0., 0., 1., 0.],
             [1., 1., 0., 0.],
             [0., 0., 0., 1.]]])
    """
    map = _map_of(merge)
    _expect_tokens("x", x, map.assign)
    if source is not None:
        _expect_tokens("source", source, map.assign)
        return merge(source, mode="amax")
    # the merged identity matrix, without writing the identity
    slots = torch.arange(map.num_slots, device=map.assign.device)
    return (map.assign[:, None, :] == slots[:, None]).to(torch.get_default_dtype())


def _match_beside_distill_token(metric: Tensor, r: int) -> TokenMap:
    """One round in which token 1 receives nothing; its slot stands second."""
    token = torch.arange(metric.shape[1], device=metric.device)
    src, dst = token[0::2], token[1::2]
    value, index = match(metric, src=src, dst=torch.where(dst == 1, -1, dst))
    # -1: of three tokens two are sources and token 1 is the only partner left
    map = merge_map(
        value, index.clamp(min=0), r, src=src, dst=dst, n=metric.shape[1], order="reference"
    )
    first = src.shape[0] - r  # token 1's slot: the first destination's
    a, c = map.assign, map.anchor
    assign = torch.where(a == first, 1, a + ((a > 0) & (a < first)))
    anchor = [c[:, :1], c[:, first : first + 1], c[:, 1:first], c[:, first + 1 :]]
    return TokenMap(assign, torch.cat(anchor, 1))


def _merges_nothing(map: TokenMap) -> bool:
    return map.num_slots == map.num_inputs


def _map_of(merge: Merge) -> TokenMap:
    if not isinstance(merge, Merge):
        got = type(merge).__name__
        raise ValueError(f"merge: expected what bipartite_soft_matching returned, got {got}")
    return merge.map


def _expect_tokens(name: str, x: Tensor, rows: Tensor) -> None:
    if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[:2] != rows.shape:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected [{rows.shape[0]}, {rows.shape[1]}, C], got {got}")
