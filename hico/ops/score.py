"""attention_score: how much attention some query rows pay to every key."""

import sys

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import register
from hico.reference import score as reference
from hico.reference.match import accumulator

HEADS = ("mean", "max", "sum", "kv")
QUERIES = ("mean", "max", "sum")
LARGEST_DIM = 256  # a tile of keys has to fit in shared memory


def attention_score(
    q: Tensor,
    k: Tensor,
    *,
    query_positions: Tensor | None = None,
    query_mask: Tensor | None = None,
    key_mask: Tensor | None = None,
    key_range: tuple[int, int] | None = None,
    cos: Tensor | None = None,
    sin: Tensor | None = None,
    scale: float | None = None,
    reduce_heads: str = "mean",
    reduce_queries: str = "mean",
    lengths: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """score[b, n] = mean over heads h of the mean over rows m of softmax_n(q[b, h, m] . k[b, n]).

    Query head h reads key head h // (Hq / Hkv); keys are never repeated, the M x N weights never
    written, and memory grows with N alone. Logits, softmax and sums in fp32 (float64 for float64).
    Rows are reduced within a head first, then heads. Deterministic; no gradient.

    A row attends key n if n <= query_positions, key_mask[n] and n < lengths. The softmax runs over
    all of them, whatever key_range returns. A row that attends nothing scores zero everywhere, and
    still counts in a mean over rows; a row that query_mask excludes does not. Without any row the
    score is zero. What is masked may hold anything; among attended keys a logit of -inf counts as
    not attended, and NaN or +inf turns all that its row attends into NaN, as in torch.softmax.

    Args:
        q: [B, Hq, M, D] float16, bfloat16, float32 or float64; with rotary positions, rotated.
        k: [B, Hkv, N, D] in q's dtype, Hq a multiple of Hkv, D <= 256; a slice of a cache is read
            in place. With cos and sin, not rotated yet.
        query_positions: [M] or [B, M] ints, the last key that each row attends, in any order; below
            0 it attends nothing. None = every key.
        query_mask: [M] or [B, M] bool, True = the row counts. None = all.
        key_mask: [N] or [B, N] bool, True = the key can be attended. None = all.
        key_range: (start, stop), the keys whose scores are returned. None = (0, N).
        cos, sin: [N, D], [1, N, D] or [B, N, D] floats to rotate k by, as transformers does:
            k * cos + rotate_half(k) * sin, here in fp32 and rounded once to k's dtype. Where both
            halves of D are equal, the first alone ([..., D / 2]) is half as much to read.
        scale: of the logits, > 0. None = 1 / sqrt(D).
        reduce_heads: "mean", "max" or "sum" over all query heads, or "kv": the mean over the query
            heads of each key head.
        reduce_queries: "mean", "max" or "sum" over the rows of a head.
        lengths: [B] ints, keys of each row of a padded batch. None = N.
        lse: [B, Hq, M] floats, the natural log of each row's sum of exp(scaled logit) if at hand
            (flash attention returns it): then nothing is summed over the keys again.

    Returns:
        score [B, stop - start], or [B, Hkv, stop - start] for "kv"; float32 (float64 for float64).

    Raises:
        ValueError: a wrong shape, dtype, range or reduction, or only one of cos and sin.

    Source: the ranking of FastV (arXiv 2403.06764, section 4.1) and PyramidDrop (arXiv 2410.17247,
        section 3); column sums as in H2O (arXiv 2306.14048), per key head as in SnapKV (arXiv
        2404.14469).

    >>> import torch, hico
    >>> q = torch.tensor([[[[1.0, 0.0]]]])
    >>> k = torch.tensor([[[[9.0, 0.0], [9.0, 5.0], [0.0, 7.0]]]])
    >>> hico.attention_score(q, k, lengths=torch.tensor([2]))
    tensor([[0.5000, 0.5000, 0.0000]])
    """
    _check_states(q, k)
    (batch, heads, rows, dim), n = q.shape, k.shape[2]
    if query_positions is not None:
        query_positions = _check.token_rows("query_positions", query_positions, batch, rows)
    if query_mask is not None:
        query_mask = _check.mask_rows("query_mask", query_mask, batch, rows)
    if key_mask is not None:
        key_mask = _check.mask_rows("key_mask", key_mask, batch, n)
    if lengths is not None:
        _check.indices("lengths", lengths, batch)
    if lse is not None:
        _check.real("lse", lse, batch, heads, rows)
    cos, sin = _rotation(cos, sin, batch, n, dim)
    start, stop = _range(key_range, n)
    number = isinstance(scale, (int, float)) and not isinstance(scale, bool)
    if scale is not None and not (number and 0 < scale <= sys.float_info.max):
        raise ValueError(f"scale: expected a number > 0 or None, got {scale!r}")
    _check.one_of("reduce_heads", reduce_heads, HEADS)
    _check.one_of("reduce_queries", reduce_queries, QUERIES)
    lse = None if lse is None else lse.detach()
    return _score(
        q.detach(), k.detach(), query_positions, query_mask, key_mask, lengths, cos, sin, lse,
        start, stop, scale, reduce_heads, reduce_queries,
    )  # fmt: skip


def _check_states(q: Tensor, k: Tensor) -> None:
    for name, t, shape in (("q", q, "[B, Hq, M, D]"), ("k", k, "[B, Hkv, N, D]")):
        if not isinstance(t, Tensor) or t.ndim != 4 or 0 in (t.shape[1], t.shape[3]):
            got = list(t.shape) if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"{name}: expected {shape} with a head and a dimension, got {got}")
    if q.dtype not in _check.FLOATS:
        raise ValueError(f"q: expected float16, bfloat16, float32 or float64, got {q.dtype}")
    if q.shape[3] > LARGEST_DIM:
        raise ValueError(f"q: expected D <= {LARGEST_DIM}, got {q.shape[3]}")
    if k.dtype != q.dtype or k.shape[0] != q.shape[0] or k.shape[3] != q.shape[3]:
        expected = f"[{q.shape[0]}, Hkv, N, {q.shape[3]}] {q.dtype}"
        raise ValueError(f"k: expected {expected} like q, got {list(k.shape)} {k.dtype}")
    if q.shape[1] % k.shape[1]:
        raise ValueError(f"k: expected heads that divide {q.shape[1]} in q, got {k.shape[1]}")


def _rotation(
    cos: Tensor | None, sin: Tensor | None, batch: int, n: int, dim: int
) -> tuple[Tensor | None, Tensor | None]:
    """cos and sin, both [B or 1, N, D or D / 2] or both None."""
    if cos is None and sin is None:
        return None, None
    if cos is None or sin is None:
        given = "cos" if sin is None else "sin"
        raise ValueError(f"cos, sin: expected both or neither, got only {given}")
    if dim % 2:
        raise ValueError(f"cos: expected an even D to rotate, got {dim}")
    full = []
    for name, t in (("cos", cos), ("sin", sin)):
        if not isinstance(t, Tensor) or t.ndim not in (2, 3) or not t.dtype.is_floating_point:
            got = f"{list(t.shape)} {t.dtype}" if isinstance(t, Tensor) else type(t).__name__
            raise ValueError(f"{name}: expected floats [N, D] or [B, N, D], got {got}")
        rows = [batch if t.shape[0] != 1 else 1] if t.ndim == 3 else []
        width = dim // 2 if t.shape[-1] == dim // 2 else dim
        _check.shape(name, t, *rows, n, width)
        full.append(t.detach() if t.ndim == 3 else t.detach()[None])
    _check.shape("sin", sin, *sin.shape[:-1], cos.shape[-1])
    return full[0], full[1]


def _range(key_range: tuple[int, int] | None, n: int) -> tuple[int, int]:
    if key_range is None:
        return 0, n
    if not isinstance(key_range, (tuple, list)) or len(key_range) != 2:
        raise ValueError(f"key_range: expected (start, stop) or None, got {key_range!r}")
    start, stop = key_range
    _check.integer("key_range stop", stop, 0, n)
    _check.integer("key_range start", start, 0, stop)
    return start, stop


def _launch(
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
    from hico.kernels import score as kernels

    small = (query_positions, query_mask, key_mask, lengths, lse)
    positions, rows, keys, lengths, lse = (None if t is None else t.contiguous() for t in small)
    lse = None if lse is None else lse.to(accumulator(q.dtype))
    k = k if k.stride(-1) == 1 else k.contiguous()
    if cos is not None and sin is not None:
        if cos.stride() != sin.stride() or cos.shape != sin.shape or cos.stride(-1) != 1:
            cos, sin = torch.broadcast_tensors(cos, sin)
            cos, sin = cos.contiguous(), sin.contiguous()
    scale = q.shape[3] ** -0.5 if scale is None else scale
    return kernels.attention_score(
        q.contiguous(), k, positions, rows, keys, lengths, cos, sin, lse,
        start, stop, scale, reduce_heads, reduce_queries,
    )  # fmt: skip


_score = register("attention_score", _launch, reference.attention_score)


@_score.register_fake
def _(
    q, k, query_positions, query_mask, key_mask, lengths, cos, sin, lse,
    start, stop, scale, reduce_heads, reduce_queries,
):  # fmt: skip
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    heads = [k.shape[1]] if reduce_heads == "kv" else []
    return q.new_empty(q.shape[0], *heads, stop - start, dtype=kind)
