"""RMSNorm and a linear projection, written out."""

import torch
from torch import Tensor

from hico.reference.match import accumulator


def norm_project(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    lengths: Tensor | None,
) -> Tensor:
    """(x / sqrt(mean(x^2) + eps) * norm_weight) @ weight^T + bias, rounded once, to x's dtype."""
    acc = accumulator(x.dtype)
    z = x.to(acc)
    z = z * torch.rsqrt(z.square().mean(-1, keepdim=True) + eps) * norm_weight.to(acc)
    y = torch.nn.functional.linear(z, weight.to(acc), None if bias is None else bias.to(acc))
    if lengths is not None:
        place = torch.arange(x.shape[1], device=x.device)
        y = torch.where((place < lengths[:, None])[..., None], y, 0)
    return y.to(x.dtype).contiguous()
