"""Ours and the eager reference of every case: callables that take the Shape, then one input set."""

import torch.nn.functional as F
from torch import Tensor

import hico
from hico.bench import eager
from hico.bench.inputs import Shape

EPS = 1e-6


# ours in reference order, so that all providers compute the same function


def merge_ours(s: Shape, x: Tensor) -> hico.MergeResult:
    """The whole schedule, metric from x."""
    return hico.merge_tokens(x, s.M, num_heads=s.heads, order="reference")


def merge_by_position(s: Shape, x: Tensor) -> hico.MergeResult:
    """The same with slots in ascending order, the default."""
    return hico.merge_tokens(x, s.M, num_heads=s.heads)


def merge_eager(s: Shape, x: Tensor) -> Tensor:
    """The published rounds."""
    return eager.merge(x, s.M, num_heads=s.heads)


def given_ours(s: Shape, x: Tensor, metric: Tensor) -> hico.MergeResult:
    """The whole schedule, metric given."""
    return hico.merge_tokens(x, s.M, metric=metric, order="reference")


def given_eager(s: Shape, x: Tensor, metric: Tensor) -> Tensor:
    """The published rounds with the metric merged along; x's dtype throughout, as they have it."""
    return eager.merge(x, s.M, metric=metric.to(x.dtype))


def block_ours(s: Shape, x: Tensor, metric: Tensor) -> hico.MergeResult:
    """One round beside a class token."""
    return hico.merge_tokens(x, s.M, metric=metric, protected=1, order="reference")


def block_eager(s: Shape, x: Tensor, metric: Tensor) -> Tensor:
    """The published round with a class token."""
    return eager.merge(x, s.M, metric=metric, protected=1)


def norm_ours(s: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """LayerNorm and metric in one pass."""
    return hico.layer_norm_metric(x, weight, bias, EPS, s.heads)


def norm_eager(s: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm alone: the limit is a multiple of its time."""
    return F.layer_norm(x, (s.C,), weight, bias, EPS)


def norm_two_passes(s: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """LayerNorm, then the head mean."""
    return eager.layer_norm_metric(x, weight, bias, EPS, s.heads)
