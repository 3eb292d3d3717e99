"""layer_norm_metric: a LayerNorm and the token metric of its output in one pass."""

from typing import Any

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import register
from hico.reference import norm as reference


def layer_norm_metric(
    x: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    num_heads: int = 1,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y = (z - mean) / sqrt(var + eps) * weight + bias of z = x + shift; metric = head mean of y.

    The metric, of the rounded y, costs no second read: merge_tokens(y, M, metric=metric) then reads
    y once. With num_heads = C it is one number a token: a LayerNorm for its y alone. z, statistics
    and metric are in fp32 (float64 for float64); z is not rounded and not stored. y is
    differentiable in x, weight, bias and shift; the metric is not.

    Args:
        x: [B, N, C] float16, bfloat16, float32 or float64.
        weight, bias: [C] or None.
        eps: added to the variance.
        num_heads: the metric's groups of channels, a divisor of C.
        shift: [C], added to every token first, or None; such as a bias that x still lacks.

    Returns:
        y [B, N, C] in x's dtype, metric [B, N, C / num_heads] float32 (float64 for float64).

    Raises:
        ValueError: a wrong shape or dtype, or num_heads that does not divide C.

    Source: VideoChat-Flash (arXiv 2501.00574), the encoder's output norm and the connector's
        metric.

    >>> import torch, hico
    >>> y, metric = hico.layer_norm_metric(torch.tensor([[[1.0, 3.0, 1.0, 3.0]]]), num_heads=2)
    >>> y.round(), metric.round()
    (tensor([[[-1.,  1., -1.,  1.]]]), tensor([[[-1.,  1.]]]))
    """
    _check.tokens("x", x)
    for name, t in (("weight", weight), ("bias", bias), ("shift", shift)):
        if t is not None:
            _check.real(name, t, x.shape[2])
    _check.heads(num_heads, x.shape[2])
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps!r}")
    y, metric, _, _ = _norm(x, weight, bias, eps, num_heads, shift)
    return y, metric


def _launch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    num_heads: int,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from hico.kernels import norm as kernels

    weight, bias, shift = (None if t is None else t.contiguous() for t in (weight, bias, shift))
    return kernels.layer_norm_metric(x.contiguous(), weight, bias, eps, num_heads, shift)


_norm = register("layer_norm_metric", _launch, reference.layer_norm_metric)


@_norm.register_fake
def _(x, weight, bias, eps, num_heads, shift):
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    row = x.new_empty(*x.shape[:-1], 1, dtype=kind)
    metric = x.new_empty(*x.shape[:-1], x.shape[-1] // num_heads, dtype=kind)
    return x.new_empty(x.shape), metric, row, torch.empty_like(row)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, _, _, shift = inputs
    _, metric, mean, rstd = output
    ctx.mark_non_differentiable(metric, mean, rstd)
    ctx.save_for_backward(x, weight, bias, shift, mean, rstd)


def _backward(ctx: Any, dy: Tensor, *_: Any) -> tuple:
    # aten's LayerNorm backward from the saved statistics, as nothing of the metric flows back
    x, weight, bias, shift, mean, rstd = ctx.saved_tensors
    acc, channels = mean.dtype, [x.shape[-1]]
    wide = [None if t is None else t.to(acc) for t in (weight, bias)]
    needs = [bool(wanted) for wanted in ctx.needs_input_grad]
    z = x.to(acc) if shift is None else x.to(acc) + shift.to(acc)
    dz, *grads = torch.ops.aten.native_layer_norm_backward(
        dy.to(acc), z, channels, mean, rstd, *wide, [needs[0] or needs[5], needs[1], needs[2]]
    )
    dx, dweight, dbias = (
        g.to(t.dtype) if wanted else None
        for g, t, wanted in zip((dz, *grads), (x, weight, bias), needs[:3], strict=True)
    )
    dshift = dz.sum((0, 1)).to(shift.dtype) if needs[5] else None
    return dx, dweight, dbias, None, None, dshift


_norm.register_autograd(_backward, setup_context=_save)
