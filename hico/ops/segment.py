"""segment_mean and unmerge: the tokens of a slot averaged, and slots back to their tokens."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import register
from hico.reference import segment as reference

if TYPE_CHECKING:
    from hico.token_map import TokenMap


def segment_mean(x: Tensor, map: "TokenMap", weights: Tensor | None = None) -> Tensor:
    """out[b, m] = sum_n w[b, n] x[b, n] / sum_n w[b, n] over the tokens n with assign[b, n] = m.

    Accumulated in fp32 (float64 for float64) over ascending n, without atomics: two runs are
    bitwise equal. A slot of one member is a copy of it; an empty slot, or one whose weights sum to
    0, is 0. A non-finite token affects its own slot alone. Differentiable in x and in weights (no
    second order in weights).

    Args:
        x: [B, N, C] float16, bfloat16, float32 or float64.
        map: where each of the N tokens goes.
        weights: [B, N], any real dtype; None = 1.

    Returns:
        [B, M, C] in x's dtype.

    Raises:
        ValueError: a shape that does not fit the map, or a dtype that is not listed.

    Source: the merge of ToMe (arXiv 2210.09461, section 3) as one pass over all rounds.

    >>> import torch, hico
    >>> m = hico.TokenMap(torch.tensor([[0, 1, 0]]), torch.tensor([[0, 1]]))
    >>> hico.segment_mean(torch.tensor([[[1.0], [5.0], [3.0]]]), m)
    tensor([[[2.],
             [5.]]])
    """
    return segment_reduce(x, map, weights, mean=True)[0]


def segment_reduce(
    x: Tensor,
    map: "TokenMap",
    weights: Tensor | None,
    mean: bool,
    lists: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean (or sum) of every slot [B, M, C] and its weight [B, M]; checks the arguments."""
    _check.token_map(map)
    _check.tokens("x", x)
    _check.shape("x", x, *map.assign.shape, x.shape[2])
    if weights is not None:
        _check.real("weights", weights, *map.assign.shape)
    return _reduce(x, map.assign, map.num_slots, weights, mean, lists)


def unmerge(y: Tensor, map: "TokenMap") -> Tensor:
    """out[b, n] = y[b, assign[b, n]], zeros where the token was dropped; see TokenMap.unmerge."""
    _check.token_map(map)
    _check.tokens("y", y)
    _check.shape("y", y, *map.anchor.shape, y.shape[2])
    return _gather(y, map.assign, None, None)


def _launch_reduce(
    x: Tensor,
    assign: Tensor,
    num_slots: int,
    weights: Tensor | None,
    mean: bool,
    lists: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from hico.kernels import segment as kernels

    weights = None if weights is None else weights.contiguous()
    x, assign = x.contiguous(), assign.contiguous()
    return kernels.segment_reduce(x, assign, num_slots, weights, mean, lists)


def _launch_gather(
    y: Tensor, assign: Tensor, weights: Tensor | None, total: Tensor | None
) -> Tensor:
    from hico.kernels import segment as kernels

    weights = None if weights is None else weights.contiguous()
    return kernels.slot_gather(y.contiguous(), assign.contiguous(), weights, total)


def _launch_weight_grad(
    x: Tensor, dout: Tensor, assign: Tensor, mean: Tensor | None, total: Tensor | None
) -> Tensor:
    from hico.kernels import segment as kernels

    return kernels.weight_grad(x.contiguous(), dout.contiguous(), assign.contiguous(), mean, total)


_reduce = register("segment_reduce", _launch_reduce, reference.segment_reduce)
_gather = register("slot_gather", _launch_gather, reference.slot_gather)
_weight_grad = register("segment_weight_grad", _launch_weight_grad, reference.weight_grad)


@_reduce.register_fake
def _(x, assign, num_slots, weights, mean, lists):
    kind = torch.int32
    if weights is not None and weights.is_floating_point():
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    batch, _, channels = x.shape
    return x.new_empty(batch, num_slots, channels), x.new_empty(batch, num_slots, dtype=kind)


@_gather.register_fake
def _(y, assign, weights, total):
    return y.new_empty(*assign.shape, y.shape[2])


@_weight_grad.register_fake
def _(x, dout, assign, mean, total):
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty(x.shape[:2], dtype=kind)


def _save_reduce(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, assign, _, weights, ctx.mean, _ = inputs
    out, total = output
    ctx.mark_non_differentiable(total)
    # x and out are kept only where the weights learn
    learns = weights is not None and weights.requires_grad
    ctx.save_for_backward(assign, weights, total, x if learns else None, out if learns else None)


def _backward_reduce(ctx: Any, dout: Tensor, _: Any) -> tuple:
    assign, weights, total, x, out = ctx.saved_tensors
    divisor = total if ctx.mean else None
    dx = dweights = None
    if ctx.needs_input_grad[0]:
        dx = _gather(dout, assign, weights, divisor)
    if x is not None:
        dweights = _weight_grad(x, dout, assign, out if ctx.mean else None, divisor).to(
            weights.dtype
        )
    return dx, None, None, dweights, None, None


def _save_gather(ctx: Any, inputs: tuple, output: Tensor) -> None:
    y, assign, weights, total = inputs
    ctx.num_slots = y.shape[1]
    ctx.save_for_backward(assign, weights, total)


def _backward_gather(ctx: Any, dout: Tensor) -> tuple:
    assign, weights, total = ctx.saved_tensors
    if weights is not None and weights.requires_grad:
        raise NotImplementedError("second derivatives with respect to weights are not implemented")
    dy = _reduce(dout, assign, ctx.num_slots, weights, False, None)[0]
    if total is not None:
        dy = torch.where(total[..., None] == 0, 0, dy / total[..., None]).to(dy.dtype)
    return dy, None, None, None


_reduce.register_autograd(_backward_reduce, setup_context=_save_reduce)
_gather.register_autograd(_backward_gather, setup_context=_save_gather)
