"""The published merge in plain PyTorch, everything in x's dtype: what ours is compared with.

Written from the rule of VideoChat-Flash (arXiv 2501.00574) and ToMe (arXiv 2210.09461, section 3):
every round takes its metric from the tokens merged so far, and sums, sizes and quotients round to
x's dtype.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def merge(
    x: Tensor,
    num_tokens: int,
    *,
    num_heads: int = 1,
    metric: Tensor | None = None,
    protected: int = 0,
) -> Tensor:
    """[B, N, C] -> [B, num_tokens, C] in reference order, round after round.

    The metric is the mean of x over `num_heads` groups of channels, anew in each round; a given one
    [B, N, D] is merged along as the tokens are. `protected` is 0 or 1 (a class token).
    """
    size = torch.ones_like(x[..., :1])
    while (r := min(x.shape[1] - num_tokens, (x.shape[1] - protected) // 2)) > 0:
        with torch.no_grad():
            current = x.unflatten(-1, (num_heads, -1)).mean(-2) if metric is None else metric
            joining, staying, partner = pair(current, r, protected)
        total = join(size, joining, staying, partner)
        x = join(x * size, joining, staying, partner) / total
        if metric is not None and x.shape[1] > num_tokens:
            metric = join(metric * size, joining, staying, partner) / total
        size = total
    return x


def pair(metric: Tensor, r: int, protected: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places of the r most similar even tokens and of the other even ones, and the r's partners."""
    # without an epsilon, as published: a zero vector becomes NaN
    unit = F.normalize(metric, dim=-1, eps=0.0)
    scores = unit[:, 0::2] @ unit[:, 1::2].mT
    if protected:
        scores[:, 0] = -torch.inf
    best, partner = scores.max(dim=-1)
    ranked = best.argsort(dim=-1, descending=True)
    joining, staying = ranked[:, :r], ranked[:, r:]
    if protected:
        staying = staying.sort(dim=-1).values
    return joining, staying, partner.gather(1, joining)


def join(t: Tensor, joining: Tensor, staying: Tensor, partner: Tensor) -> Tensor:
    """Even tokens that stay, then odd tokens, each with the even ones that join it added."""
    even, odd = t[:, 0::2], t[:, 1::2]

    def rows(index: Tensor) -> Tensor:
        return index[..., None].expand(-1, -1, t.shape[-1])

    odd = odd.scatter_reduce(1, rows(partner), even.gather(1, rows(joining)), reduce="sum")
    return torch.cat([even.gather(1, rows(staying)), odd], dim=1)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """The encoder's last LayerNorm alone."""
    return F.layer_norm(x, x.shape[-1:], weight, bias, eps)


def layer_norm_metric(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, num_heads: int
) -> tuple[Tensor, Tensor]:
    """LayerNorm, then the head mean of its output: two passes."""
    y = layer_norm(x, weight, bias, eps)
    return y, y.unflatten(-1, (num_heads, -1)).mean(-2)
