"""LayerNorm and the token metric of its rounded output, written out."""

import torch
from torch import Tensor

from hico.reference.match import accumulator
from hico.reference.merge import head_mean


def layer_norm_metric(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    num_heads: int,
    shift: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm of z = x + shift in x's dtype, its head mean, and mean and 1/std of z."""
    acc = accumulator(x.dtype)
    z = x.to(acc) if shift is None else x.to(acc) + shift.to(acc)
    mean = z.mean(-1, keepdim=True)
    rstd = torch.rsqrt((z - mean).square().mean(-1, keepdim=True) + eps)
    y = (z - mean) * rstd
    y = y if weight is None else y * weight.to(acc)
    y = (y if bias is None else y + bias.to(acc)).to(x.dtype)
    return (
        y.contiguous(),
        head_mean(y, num_heads).contiguous(),
        mean.contiguous(),
        rstd.contiguous(),
    )
