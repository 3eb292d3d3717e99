"""Muon: momentum whose steps are made orthogonal, of all matrices of one shape at once."""

from collections.abc import Sequence

import torch
from torch import Tensor

# of the polynomial that brings all singular values near 1 in five rounds, and how large a step is
A, B, C = 3.4445, -4.775, 2.0315
ROUNDS = 5
SCALE = 0.2  # of the root of the longer side: entries are then as large as AdamW's steps


class Muon:
    """W <- (1 - lr * decay) * W - lr * 0.2 * max(a, b)^0.5 * orthogonal(momentum of the gradient).

    torch.optim.Muon(adjust_lr_fn="match_rms_adamw"), which takes one matrix after the other: of the
    84 of hico-tiny's language model that is 2,000 small kernels a step, and here it is 100. With it
    stage 0b learns to find cards sooner: among 4 to 6 clips 84% of short answers are right after
    550 steps, with AdamW 67% (128 wide, 8 layers, 24 videos a step).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; Liu et
    al., arXiv 2502.16982, section 2.2, for the scale.

    Args:
        matrices: float32 [a, b] each; their values are then those of `matrices`, which are views.
        decay, momentum: as there.
    """

    def __init__(self, matrices: Sequence[Tensor], decay: float, momentum: float = 0.95) -> None:
        self.decay, self.momentum = decay, momentum
        by_shape: dict[torch.Size, list[int]] = {}
        for i, one in enumerate(matrices):
            by_shape.setdefault(one.shape, []).append(i)
        self.places = list(by_shape.values())
        self.stacks = [torch.stack([matrices[i] for i in some]) for some in self.places]
        self.moved = [torch.zeros_like(stack) for stack in self.stacks]
        self.matrices = list(matrices)
        for some, stack in zip(self.places, self.stacks, strict=True):
            for i, view in zip(some, stack, strict=True):
                self.matrices[i] = view

    @torch.no_grad()
    def step(self, lr: Tensor) -> None:
        """One step at a rate, a scalar tensor, with the gradients that the matrices hold."""
        for some, stack, moved in zip(self.places, self.stacks, self.moved, strict=True):
            grad = torch.stack([self.matrices[i].grad for i in some])  # type: ignore[misc]
            moved.lerp_(grad, 1 - self.momentum)
            size = SCALE * max(stack.shape[1:]) ** 0.5
            stack.mul_(1 - lr * self.decay)
            stack.sub_(orthogonal(grad.lerp_(moved, self.momentum)) * (lr * size))


def orthogonal(stack: Tensor) -> Tensor:
    """[n, a, b] -> bf16 [n, a, b]: of each U S V^T about U V^T, S being of 0.7 to 1.2.

    By Newton-Schulz rounds, whose products are in bf16.

    >>> import torch
    >>> from hico.model.training.tiny.muon import orthogonal
    >>> values = torch.linalg.svdvals(orthogonal(torch.tensor([[[5.0, 0.0], [3.0, 4.0]]])).float())
    >>> ((values > 0.65) & (values < 1.25)).all().item()
    True
    """
    x = stack.bfloat16()
    if x.shape[1] > x.shape[2]:
        x = x.mT
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=B, alpha=C), x, beta=A)
    return x.mT if stack.shape[1] > stack.shape[2] else x
