"""Shapes and input data of the cases: clustered tokens, made on the device from a fixed seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hico.bench.record import Row
from hico.bench.timing import Inputs

SEED = 0
CENTRES, NOISE = 40, 0.3
# clips made at a time: the random numbers, and so the data, depend on it
CHUNK = 50


@dataclass(frozen=True)
class Shape:
    """Sizes of a case: B rows of N tokens with C channels in `heads` groups, merged to M tokens."""

    B: int
    N: int
    C: int
    M: int
    heads: int
    dtype: torch.dtype = torch.bfloat16

    @property
    def D(self) -> int:
        """Width of the token metric."""
        return self.C // self.heads

    def row(self) -> Row:
        """The sizes as a result row has them."""
        return {"B": self.B, "N": self.N, "C": self.C, "M": self.M, "heads": self.heads}

    def __str__(self) -> str:
        return f"[{self.B}, {self.N}, {self.C}] -> {self.M}"


def clustered(s: Shape, device: torch.device, seed: int) -> Tensor:
    """Tokens around 40 centres with noise 0.3: what merging is for, and full of near ties."""
    generator = torch.Generator(device).manual_seed(seed)
    centres = torch.randn(CENTRES, s.C, device=device, generator=generator)
    x = torch.empty(s.B, s.N, s.C, dtype=s.dtype, device=device)
    for rows in x.split(CHUNK):
        which = torch.randint(CENTRES, rows.shape[:2], device=device, generator=generator)
        noise = torch.randn(rows.shape, device=device, generator=generator)
        rows.copy_(noise.mul_(NOISE).add_(centres[which]))
    return x


def only_tokens(s: Shape, device: torch.device, seed: int) -> Inputs:
    """(x,)"""
    return (clustered(s, device, seed),)


def with_metric(s: Shape, device: torch.device, seed: int) -> Inputs:
    """(x, metric): fp32, as layer_norm_metric hands it on."""
    x = clustered(s, device, seed)
    metric = torch.empty(s.B, s.N, s.D, device=device)
    for part, rows in zip(metric.split(CHUNK), x.split(CHUNK), strict=True):
        part.copy_(rows.float().unflatten(-1, (s.heads, -1)).mean(-2))
    return x, metric


def with_keys(s: Shape, device: torch.device, seed: int) -> Inputs:
    """(x, metric): the metric in x's dtype, as the mean over heads of a ViT block's keys."""
    x, metric = with_metric(s, device, seed)
    return x, metric.to(s.dtype)


def with_affine(s: Shape, device: torch.device, seed: int) -> Inputs:
    """(x, weight, bias) of a LayerNorm."""
    x = clustered(s, device, seed)
    generator = torch.Generator(device).manual_seed(seed)
    weight, bias = torch.randn(2, s.C, device=device, generator=generator).to(s.dtype)
    return x, 1 + 0.1 * weight, 0.1 * bias


def with_gradient(s: Shape, device: torch.device, seed: int) -> Inputs:
    """(x, dy) with dy [B, M, C]."""
    generator = torch.Generator(device).manual_seed(seed)
    dy = torch.randn(s.B, s.M, s.C, device=device, generator=generator).to(s.dtype)
    return clustered(s, device, seed), dy
