"""merge_tokens: a whole multi-round bipartite merge; merge_map: one matching as a TokenMap."""

from typing import NamedTuple

import torch
from torch import Tensor

from hico.ops import _check, segment
from hico.ops._register import register
from hico.reference import merge as reference
from hico.token_map import TokenMap

ORDERS = ("position", "reference")


class MergeResult(NamedTuple):
    """What merge_tokens returns: tokens [B, M, C], size [B, M] and the TokenMap."""

    tokens: Tensor
    size: Tensor
    map: TokenMap


def merge_tokens(
    x: Tensor,
    num_tokens: int,
    *,
    num_heads: int | None = None,
    metric: Tensor | None = None,
    size: Tensor | None = None,
    protected: int = 0,
    order: str = "position",
    lengths: Tensor | None = None,
) -> MergeResult:
    """tokens[b, m] = size-weighted mean of the tokens that bipartite matching gathered in slot m.

    A round pairs even with odd positions of the current order by the cosine of the token metric;
    the min(p - num_tokens, (p - protected) // 2) most similar even tokens join their partners
    (VideoChat-Flash, arXiv 2501.00574, its connector; ToMe, arXiv 2210.09461, section 3). All
    rounds run on the metric alone, since the metric of a mean is the mean of the metrics; x is then
    read once more, to average the groups.

    Guarantees: sums in fp32 and cosines to about 1e-6, both float64 for float64; bitwise
    repeatable; no host synchronisation; at most four kernels. Equal similarities go to the lower
    position. Zero metrics merge among themselves, non-finite ones count as zero; a non-finite token
    affects its own slot alone. Differentiable in x and size, not through the choice of partners.

    Args:
        x: [B, N, C] float16, bfloat16, float32 or float64.
        num_tokens: M, from protected + 1 to N; N itself keeps every token.
        num_heads: the metric is the mean of x over this many equal groups of channels (None = 1).
        metric: [B, N, D] instead; a merged token's metric is the size-weighted mean of its
            members'.
        size: [B, N] positive, how many tokens each token already stands for; None = 1.
        protected: this many leading tokens never merge and keep the first slots (1: a class token).
        order: "position": slots ascend by anchor. "reference": the order of the published code,
            which its checkpoints expect: unmerged tokens of the last round by falling similarity,
            then destinations.
        lengths: [B] ints, tokens of each row of a padded batch. A row no longer than M keeps its
            tokens; its last slots are empty: tokens 0, size 0, anchor -1.

    Returns:
        MergeResult(tokens [B, M, C] in x's dtype, size [B, M] int32 (float32 or float64 if `size`
        is floating), map).

    Raises:
        ValueError: a wrong shape, dtype or order, a target out of range, or both num_heads and
            metric.

    >>> import torch, hico
    >>> x = torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]])
    >>> merged = hico.merge_tokens(x, 2)
    >>> merged.map.assign, merged.size
    (tensor([[0, 0, 1, 1]]), tensor([[2, 2]], dtype=torch.int32))
    """
    _check.tokens("x", x)
    batch, n, channels = x.shape
    _check.integer("protected", protected, 0, 1 << 31)
    _check.integer("num_tokens", num_tokens, min(protected + 1, n), n)
    _check.one_of("order", order, ORDERS)
    if metric is not None and num_heads is not None:
        raise ValueError("merge_tokens: expected num_heads or metric, got both")
    if metric is None:
        _check.heads(1 if num_heads is None else num_heads, channels)
    else:
        _check.tokens("metric", metric)
        _check.shape("metric", metric, batch, n, metric.shape[2])
    if size is not None:
        _check.real("size", size, batch, n)
    if lengths is not None:
        _check.indices("lengths", lengths, batch)
    source = x if metric is None else metric
    weight = None if size is None else size.detach()
    assign, anchor, lists = _rounds(
        source.detach(), num_tokens, num_heads or 1, weight, lengths, protected, order == "position"
    )
    map = TokenMap(assign, anchor)
    tokens, total = segment.segment_reduce(x, map, size, mean=True, lists=lists)
    return MergeResult(tokens, total, map)


def merge_map(
    value: Tensor,
    index: Tensor,
    r: int,
    *,
    src: Tensor,
    dst: Tensor,
    n: int,
    protected: int = 0,
    order: str = "position",
) -> TokenMap:
    """The map in which the r sources of highest value join the destinations that `index` names.

    Every other token keeps a slot of its own, so M = n - r. Ties go to the lower place in `src`. A
    few calls of match and this make tomesd's (arXiv 2303.17604) or DyCoke's (arXiv 2411.15024)
    merges.

    Args:
        value: [B, Ns] similarity of each source to its partner, as from match.
        index: [B, Ns] int64, the partner as a place in dst; a source with -1 that is among the r
            best is dropped (assign -1).
        r: sources to merge, 0 to Ns; no more than there are sources that may merge, or tokens that
            find no slot are dropped.
        src, dst: int64 token indices, [Ns] and [Nd] for all rows or [B, Ns] and [B, Nd], disjoint.
        n: tokens in a row.
        protected: sources below this index never merge.
        order: "position": slots ascend by anchor. "reference": protected tokens, unmerged sources
            (by falling value; ascending if protected > 0), destinations, tokens of neither set.

    Returns:
        TokenMap from n to n - r tokens.

    Raises:
        ValueError: a wrong shape, dtype or order, or r out of range.

    >>> import torch, hico
    >>> src, dst = torch.tensor([0, 2]), torch.tensor([1, 3])
    >>> value, index = torch.tensor([[0.1, 0.9]]), torch.tensor([[0, 1]])
    >>> m = hico.merge_map(value, index, 1, src=src, dst=dst, n=4)
    >>> m.assign, m.anchor
    (tensor([[0, 1, 2, 2]]), tensor([[0, 1, 3]]))
    """
    if not isinstance(value, Tensor) or value.ndim != 2:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"value: expected [B, Ns], got {got}")
    batch, sources = value.shape
    _check.indices("index", index, batch, sources)
    _check.integer("n", n, 0, 1 << 62)
    _check.integer("r", r, 0, sources)
    _check.integer("protected", protected, 0, 1 << 31)
    _check.one_of("order", order, ORDERS)
    src = _check.token_rows("src", src, batch, sources)
    dst = _check.token_rows("dst", dst, batch)
    pairs = value.detach(), index.to(torch.int64)
    return TokenMap(*reference.merge_map(*pairs, r, src, dst, n, protected, order == "position"))


def _reference_rounds(
    x: Tensor,
    num_tokens: int,
    num_heads: int,
    size: Tensor | None,
    lengths: Tensor | None,
    protected: int,
    by_position: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    metric = reference.head_mean(x, num_heads)
    return reference.merge_rounds(metric, num_tokens, size, lengths, protected, by_position)


def _launch_rounds(
    x: Tensor,
    num_tokens: int,
    num_heads: int,
    size: Tensor | None,
    lengths: Tensor | None,
    protected: int,
    by_position: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from hico.kernels import merge as kernels

    size = None if size is None else size.contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    return kernels.merge_rounds(
        x.contiguous(), num_tokens, num_heads, size, lengths, protected, by_position
    )


_rounds = register("merge_rounds", _launch_rounds, _reference_rounds)


@_rounds.register_fake
def _(x, num_tokens, num_heads, size, lengths, protected, by_position):
    batch, n, _ = x.shape
    assign = x.new_empty(batch, n, dtype=torch.int64)
    anchor = x.new_empty(batch, num_tokens, dtype=torch.int64)
    return assign, anchor, x.new_empty(batch, num_tokens + 1 + n, dtype=torch.int32)
