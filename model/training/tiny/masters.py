"""AdamW or Muon in fp32 on weights of any type, and the rate over a training of known length."""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from .muon import Muon


class Masters:
    """AdamW on fp32 copies of the weights, which are then what the copies are, rounded.

    Args:
        weights: with gradients; those of two and more dimensions decay.
        lr, decay: of AdamW and Muon.
        b2: AdamW's second beta.
        matrices: those of the weights that Muon moves instead.
    """

    def __init__(
        self,
        weights: Sequence[nn.Parameter],
        lr: float,
        decay: float,
        b2: float = 0.98,
        matrices: Iterable[nn.Parameter] = (),
    ) -> None:
        self.weights: list[torch.Tensor] = list(weights)
        self.copies = [weight.detach().float().clone() for weight in self.weights]
        turned = {id(one) for one in matrices}
        own = [i for i, weight in enumerate(self.weights) if id(weight) in turned]
        self.muon = Muon([self.copies[i] for i in own], decay)
        for i, view in zip(own, self.muon.matrices, strict=True):
            self.copies[i] = view
        rest = [copy for i, copy in enumerate(self.copies) if i not in own]
        wide = [copy for copy in rest if copy.ndim > 1]
        thin = [copy for copy in rest if copy.ndim < 2]
        groups = [{"params": wide, "weight_decay": decay}, {"params": thin, "weight_decay": 0.0}]
        fused, self.lr = self.weights[0].is_cuda, torch.tensor(lr, device=self.weights[0].device)
        self.optimizer = torch.optim.AdamW(
            groups, lr=self.lr, betas=(0.9, b2), fused=fused, capturable=fused
        )

    def step(self, lr: float, clip: float = 1.0) -> None:
        """One step at this rate; gradients are scaled down to a norm of `clip` and taken away."""
        self.lr.fill_(lr)
        self.move(clip)

    def move(self, clip: float = 1.0) -> None:
        """One step at the rate of the last one; a CUDA graph may hold it."""
        exact, given = [], []
        for copy, weight in zip(self.copies, self.weights, strict=True):
            if weight.grad is None:
                copy.grad = None
                continue
            copy.grad = torch.empty_like(copy) if copy.grad is None else copy.grad
            exact.append(copy.grad)
            given.append(weight.grad)
            weight.grad = None
        torch._foreach_copy_(exact, given)
        torch.nn.utils.clip_grad_norm_(self.copies, clip)
        self.optimizer.step()
        self.muon.step(self.lr)
        with torch.no_grad():
            torch._foreach_copy_(self.weights, self.copies)


class Graphed:
    """A step that a GPU repeats by itself: a CUDA graph of step(*inputs), each time on others.

    Args:
        step: takes tensors, returns one; all that it changes besides lies on the GPU.
        inputs: of the first call, whose shapes all have.
    """

    def __init__(self, step: Callable[..., torch.Tensor], inputs: Sequence[torch.Tensor]) -> None:
        self.inputs = [one.clone() for one in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # compiles, and allocates what the graph will not
            for _ in range(3):
                step(*self.inputs)
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # elsewhere a loader pins memory meanwhile, which is none of the graph's
        with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
            self.result = step(*self.inputs)

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The result, which the next call overwrites."""
        torch._foreach_copy_(self.inputs, list(inputs))
        self.graph.replay()
        return self.result


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
