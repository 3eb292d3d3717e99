"""select and select_uniform: which tokens stay, by score or evenly spaced."""

import math
from typing import overload

import torch
from torch import Tensor

from hico.budget import keep_count, keep_counts
from hico.ops import _check
from hico.ops._register import register
from hico.reference import select as reference
from hico.reference.match import accumulator

ORDERS = ("position", "score")


@overload
def select(
    score: Tensor,
    k: Tensor,
    *,
    protect: Tensor | None = ...,
    lengths: Tensor | None = ...,
    order: str = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def select(
    score: Tensor,
    *,
    threshold: float | Tensor,
    protect: Tensor | None = ...,
    lengths: Tensor | None = ...,
    order: str = ...,
) -> tuple[Tensor, Tensor]: ...
@overload
def select(
    score: Tensor,
    k: int | None = ...,
    *,
    ratio: float | None = ...,
    protect: Tensor | None = ...,
    lengths: Tensor | None = ...,
    order: str = ...,
) -> Tensor: ...
def select(
    score: Tensor,
    k: int | Tensor | None = None,
    *,
    ratio: float | None = None,
    threshold: float | Tensor | None = None,
    protect: Tensor | None = None,
    lengths: Tensor | None = None,
    order: str = "position",
) -> Tensor | tuple[Tensor, Tensor]:
    """index[b] = the k tokens of highest score[b], ascending by position.

    Exactly one of `k`, `ratio` and `threshold` says how many. Guarantees: exact (a radix select on
    the bits; nothing is sampled or rounded), equal to a stable sort: ties go to the lowest index,
    NaN comes last (below -inf), -0.0 equals 0.0, subnormals keep their order. No host
    synchronisation, bitwise repeatable, no gradient. order="score" sorts the k chosen ones after.

    Args:
        score: [B, N] float16, bfloat16, float32 or float64.
        k: an int from 0 to N, or int64 or int32 [B], one for each row (clamped to 0..N).
        ratio: k = floor(ratio * N), see hico.budget.keep_count; with `lengths` row b keeps
            floor(ratio * lengths[b]), the same as alone.
        threshold: every token with score >= threshold, a number or [B]; compared in float32
            (float64 for float64), and NaN is never above one.
        protect: bool [B, N] or [N], tokens that come before all others. They count within k; if
            they are more than k, the lowest indices of them stay.
        lengths: [B] ints (clamped to 0..N), tokens of each row of a padded batch; those past the
            length are never chosen, protected or not.
        order: "position", or "score" for falling score, ties to the lowest index.

    Returns:
        index [B, k] int64 for an int k or a ratio; rows of fewer than k tokens end in -1. For a k
        of each row and for a threshold (index [B, N] padded with -1, count [B] int64).

    Raises:
        ValueError: a wrong shape or dtype, k > N, a ratio outside 0..1, or not exactly one of k,
            ratio and threshold.

    Source: the top-k of FastV (arXiv 2403.06764, section 4) and VideoChat-Flash (arXiv 2501.00574,
        progressive visual dropout), with the ties decided.

    >>> import torch, hico
    >>> score = torch.tensor([[0.1, 0.5, 0.5, 0.9, 0.5]])
    >>> hico.select(score, 3), hico.select(score, ratio=0.6, order="score")
    (tensor([[1, 2, 3]]), tensor([[3, 1, 2]]))
    >>> hico.select(score, threshold=0.5)
    (tensor([[ 1,  2,  3,  4, -1]]), tensor([4]))
    """
    index, count = choose(score, k, ratio, threshold, protect, lengths, order)
    return (index, count) if threshold is not None or isinstance(k, Tensor) else index


def choose(
    score: Tensor,
    k: int | Tensor | None = None,
    ratio: float | None = None,
    threshold: float | Tensor | None = None,
    protect: Tensor | None = None,
    lengths: Tensor | None = None,
    order: str = "position",
) -> tuple[Tensor, Tensor]:
    """What select does, with index and count [B] whatever was asked for; checks the arguments."""
    _check.scores("score", score)
    batch, n = score.shape
    if sum(given is not None for given in (k, ratio, threshold)) != 1:
        raise ValueError(
            "select: expected exactly one of k, ratio and threshold, "
            f"got k={k!r}, ratio={ratio!r}, threshold={threshold!r}"
        )
    if protect is not None:
        protect = _check.mask_rows("protect", protect, batch, n)
    if lengths is not None:
        _check.indices("lengths", lengths, batch)
    _check.one_of("order", order, ORDERS)
    score, width, budget = score.detach(), n, None
    if isinstance(k, Tensor):
        _check.indices("k", k, batch)
        budget = k
    elif k is not None:
        _check.integer("k", k, 0, n)
        width = k
    elif ratio is not None:
        width = keep_count(n, ratio)
        budget = None if lengths is None else keep_counts(lengths, ratio)
    cut = None if threshold is None else _threshold(threshold, score)
    index, count = _select(score, width, budget, cut, protect, lengths)
    return (index if order == "position" else reference.by_score(score, index)), count


def select_uniform(n: int, k: int, device: torch.device | str | None = None) -> Tensor:
    """index[j] = trunc(j s) for j < k // 2, else trunc(n - 1 - (k - 1 - j) s); s = (n - 1)/(k - 1).

    In float64, as torch.linspace(0, n - 1, k, dtype=torch.int64) has it on a CPU, on any device and
    without a copy from the host. One token is token 0.

    Args:
        n: tokens in a row.
        k: tokens to keep, 0 to n.
        device: of the result; None = the default device.

    Returns:
        [k] int64, ascending, without repeats.

    Raises:
        ValueError: k > n, either negative, or n > 2^40.

    Source: VideoChat-Flash (arXiv 2501.00574), the "uniform" stages of progressive visual dropout.

    >>> import hico
    >>> hico.select_uniform(10, 4)
    tensor([0, 3, 6, 9])
    """
    _check.integer("n", n, 0, 1 << 40)
    _check.integer("k", k, 0, n)
    if device is None:
        # get_default_device cannot be traced
        traced = torch.compiler.is_compiling()
        device = torch.empty(0).device if traced else torch.get_default_device()
    return _select_uniform(n, k, device)


def _threshold(threshold: float | Tensor, score: Tensor) -> Tensor:
    """[B] in the type that scores are compared in."""
    acc = accumulator(score.dtype)
    if isinstance(threshold, Tensor):
        _check.real("threshold", threshold, len(score))
        return threshold.detach().to(acc)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, torch.SymFloat)):
        raise ValueError(
            f"threshold: expected a number or a tensor, got {type(threshold).__name__}"
        )
    if not isinstance(threshold, torch.SymFloat) and abs(threshold) > torch.finfo(acc).max:
        threshold = math.inf if threshold > 0 else -math.inf
    return score.new_full((len(score),), threshold, dtype=acc)


def _launch(
    score: Tensor,
    width: int,
    budget: Tensor | None,
    threshold: Tensor | None,
    protect: Tensor | None,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from hico.kernels import select as kernels

    rest = (None if t is None else t.contiguous() for t in (budget, threshold, protect, lengths))
    return kernels.select(score.contiguous(), width, *rest)


_select = register("select", _launch, reference.select)
# an op of its own, so that no compiler fuses product and difference into one rounding
_select_uniform = torch.library.custom_op(
    "hico::select_uniform", reference.select_uniform, mutates_args=()
)


@_select.register_fake
def _(score, width, budget, threshold, protect, lengths):
    batch = score.shape[0]
    kind = {"dtype": torch.int64}
    return score.new_empty(batch, width, **kind), score.new_empty(batch, **kind)


@_select_uniform.register_fake
def _(n, k, device):
    return torch.empty(k, dtype=torch.int64, device=device)
