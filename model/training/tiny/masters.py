"""AdamW in fp32 on weights of any type, and the rate over a training of known length in time."""

import math
from collections.abc import Sequence

import torch
from torch import nn


class Masters:
    """AdamW on fp32 copies of the weights, which are then what the copies are, rounded.

    Args:
        weights: with gradients; those of two and more dimensions decay.
        lr, decay: of AdamW.
        b2: its second beta.
    """

    def __init__(
        self, weights: Sequence[nn.Parameter], lr: float, decay: float, b2: float = 0.98
    ) -> None:
        self.weights: list[torch.Tensor] = list(weights)
        self.copies = [weight.detach().float().clone() for weight in self.weights]
        wide = [copy for copy in self.copies if copy.ndim > 1]
        thin = [copy for copy in self.copies if copy.ndim < 2]
        groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
        fused = self.weights[0].is_cuda
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(0.9, b2), fused=fused)

    def step(self, lr: float, clip: float = 1.0) -> None:
        """One step at this rate; gradients are scaled down to a norm of `clip` and taken away."""
        for copy, weight in zip(self.copies, self.weights, strict=True):
            copy.grad = None if weight.grad is None else weight.grad.float()
            weight.grad = None
        torch.nn.utils.clip_grad_norm_(self.copies, clip)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.copies)


def cosine(share: float, peak: float, warm: float = 0.05) -> float:
    """Linear warm-up, then a cosine to a hundredth; share is what is done of all, 0 to 1.

    >>> from hico.model.training.tiny.masters import cosine
    >>> [round(cosine(share, 1.0), 3) for share in (0, 0.05, 1)]
    [0.0, 1.0, 0.01]
    """
    if share < warm:
        return peak * share / warm
    done = (share - warm) / (1 - warm)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0))))


def plateau(step: int, share: float, peak: float, warm: int = 100, last: float = 0.2) -> float:
    """Linear warm-up over so many steps, level, and linear to a hundredth in the last share.

    >>> from hico.model.training.tiny.masters import plateau
    >>> [round(plateau(step, share, 1.0), 3) for step, share in ((0, 0), (99, 0.1), (500, 1))]
    [0.01, 1.0, 0.01]
    """
    down = 0.01 + 0.99 * min(1.0, max(0.0, (1 - share) / last))
    return peak * min(1.0, (step + 1) / warm) * down
