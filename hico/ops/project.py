"""norm_project: an RMSNorm and the linear layer behind it, without storing the norm's output."""

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import INTERPRET, register
from hico.reference import project as reference


def norm_project(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    eps: float = 1e-6,
    lengths: Tensor | None = None,
) -> Tensor:
    """y = (x / sqrt(mean(x^2) + eps) * norm_weight) @ weight^T + bias.

    The norm is never written: y = (x @ (norm_weight * weight)^T) / rms(x) + bias, the folded weight
    and the product rounded to x's dtype, sums in fp32 (float64 for float64). float16, in which such
    a product may overflow, is normed first, a few thousand rows at a time. Deterministic; no
    gradient.

    Args:
        x: [B, N, C] float16, bfloat16, float32 or float64; a slice of rows is read in place.
        norm_weight: [C] of the norm.
        weight: [O, C] in x's dtype.
        bias: [O] or None.
        eps: added to the mean of the squares.
        lengths: [B] ints, tokens of each row of a padded batch; padding comes out 0.

    Returns:
        y [B, N, O] in x's dtype, contiguous.

    Raises:
        ValueError: a wrong shape or dtype.

    Source: RMSNorm (arXiv 1910.07467), whose division commutes with the product behind it.

    >>> import torch
    >>> x, weight = torch.tensor([[[3.0, 4.0]]]), torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    >>> norm_project(x, torch.full((2,), 12.5**0.5), weight, eps=0.0).round()
    tensor([[[3., 7.]]])
    """
    _check.tokens("x", x)
    channels = x.shape[2]
    _check.real("norm_weight", norm_weight, channels)
    if not isinstance(weight, Tensor) or weight.ndim != 2 or weight.shape[1] != channels:
        got = list(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ValueError(f"weight: expected [O, {channels}], got {got}")
    if weight.dtype != x.dtype:
        raise ValueError(f"weight: expected {x.dtype} like x, got {weight.dtype}")
    if bias is not None:
        _check.real("bias", bias, weight.shape[0])
    if isinstance(eps, bool) or not isinstance(eps, (int, float)) or not eps >= 0:
        raise ValueError(f"eps: expected a number >= 0, got {eps!r}")
    if lengths is not None:
        _check.indices("lengths", lengths, x.shape[0])
    rest = (norm_weight, weight, bias)
    return _norm_project(x.detach(), *(t if t is None else t.detach() for t in rest), eps, lengths)


def _launch(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    lengths: Tensor | None,
) -> Tensor:
    if x.dtype == torch.float64:
        return reference.norm_project(x, norm_weight, weight, bias, eps, lengths)
    from hico.kernels import project as kernels

    x = x if x.stride(2) == 1 else x.contiguous()
    bias = None if bias is None else bias.contiguous()
    lengths = None if lengths is None else lengths.contiguous()
    weights = norm_weight.contiguous(), weight.contiguous(), bias
    return kernels.norm_project(x, *weights, eps, lengths, interpreted=INTERPRET)


_norm_project = register("norm_project", _launch, reference.norm_project)


@_norm_project.register_fake
def _(x, norm_weight, weight, bias, eps, lengths):
    return x.new_empty(*x.shape[:2], weight.shape[0])
