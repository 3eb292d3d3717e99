"""No speed without a right answer: ours on the very inputs that are timed, against float64."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

import hico
from hico.bench.inputs import Shape
from hico.bench.providers import EPS
from hico.bench.record import Row
from hico.reference import merge as merge_reference
from hico.reference import norm as norm_reference
from hico.reference import segment as segment_reference

# issue 2: at least this share of tokens within TOLERANCE of float64
SHARE, TOLERANCE = 0.995, 2e-2
ROWS = 16


class WrongResult(Exception):
    """An op gave a wrong answer; its times mean nothing."""


@contextmanager
def poisoned() -> Iterator[None]:
    """torch.empty gives NaN and the largest integers, so that an unwritten output shows."""
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    # in this mode torch fills what it allocates
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)


def close_share(out: Tensor, exact: Tensor, *, relative: bool = False) -> float:
    """Share of tokens whose every channel is within TOLERANCE of `exact`.

    `relative`: within TOLERANCE (1 + |exact|).

    >>> close_share(torch.tensor([[1.0], [2.1]]), torch.tensor([[1.01], [2.0]]))
    0.5
    """
    bound = TOLERANCE * (1 + exact.abs()) if relative else torch.full_like(exact, TOLERANCE)
    # a NaN is not within anything
    return ((out.to(exact.dtype) - exact).abs() <= bound).all(-1).double().mean().item()


def merge_exact(
    s: Shape,
    x: Tensor,
    metric: Tensor | None = None,
    *,
    protected: int = 0,
    by_position: bool = False,
) -> tuple[Tensor, Tensor]:
    """Tokens [B, M, C] in float64, by default in reference order, and assign [B, N]."""
    x = x.double()
    metric = merge_reference.head_mean(x, s.heads) if metric is None else metric.double()
    assign = merge_reference.merge_rounds(metric, s.M, None, None, protected, by_position)[0]
    return segment_reference.segment_reduce(x, assign, s.M, None, mean=True)[0], assign


def exact_merge(s: Shape, *args: Tensor) -> tuple[Tensor, ...]:
    """What merge_tokens(x or x, metric) should give."""
    return merge_exact(s, *args)[:1]


def exact_by_position(s: Shape, x: Tensor) -> tuple[Tensor, ...]:
    """The same with slots ascending by anchor."""
    return merge_exact(s, x, by_position=True)[:1]


def exact_block(s: Shape, x: Tensor, metric: Tensor) -> tuple[Tensor, ...]:
    """The same beside a class token."""
    return merge_exact(s, x, metric, protected=1)[:1]


def exact_norm(s: Shape, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """y and metric of layer_norm_metric."""
    args = x.double(), weight.double(), bias.double()
    return norm_reference.layer_norm_metric(*args, EPS, s.heads)[:2]


def exact_backward(s: Shape, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """dx = dy of the token's slot over the slot's size."""
    _, assign = merge_exact(s, x)
    size = segment_reference.segment_reduce(x.double(), assign, s.M, None, mean=False)[1]
    return (segment_reference.slot_gather(dy.double(), assign, None, size),)


def outputs(result: Any) -> tuple[Tensor, ...]:
    """The tensors to compare: of a MergeResult its tokens."""
    if isinstance(result, hico.MergeResult):
        return (result.tokens,)
    return result if isinstance(result, tuple) else (result,)


def check_all(s: Shape, result: Any) -> None:
    """Of the whole result: every number finite, every token in a slot, every slot's size right."""
    for i, out in enumerate(outputs(result)):
        if not all(bool(torch.isfinite(part).all()) for part in out.split(256)):
            raise WrongResult(f"output {i} {list(out.shape)} holds numbers that are not finite")
    if isinstance(result, hico.MergeResult):
        try:
            result.map.check()
        except ValueError as error:
            raise WrongResult(f"map: {error}") from error
        if not torch.equal(result.size, result.map.size):
            raise WrongResult("size differs from the map's members")
        if bool((result.size.sum(1) != s.N).any()):
            raise WrongResult(f"sizes of a row do not sum to {s.N}")


def sample_rows(batch: int, device: torch.device) -> Tensor:
    """Up to ROWS rows spread over the batch, first and last included."""
    return torch.linspace(0, batch - 1, min(ROWS, batch), device=device).round().long()


def check_rows(result: Any, exact: tuple[Tensor, ...], rows: Tensor) -> float:
    """The lowest share of close tokens of any output on these rows.

    Raises:
        WrongResult: it is below SHARE.
    """
    shares = [close_share(out[rows], e) for out, e in zip(outputs(result), exact, strict=True)]
    if min(shares) < SHARE:
        raise WrongResult(
            f"expected {SHARE:.1%} of tokens within {TOLERANCE} of float64, got {min(shares):.2%}"
        )
    return min(shares)


def against(exact: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Row]:
    """The check of a merge whose answer `exact` gives in float64, of the same inputs."""

    def verify(s: Shape, result: Any, *args: Tensor) -> Row:
        check_all(s, result)
        rows = sample_rows(s.B, args[0].device)
        # weights of a LayerNorm have no batch
        part = [t[rows] if t.shape[0] == s.B and t.ndim > 1 else t for t in args]
        return {"checked_share": check_rows(result, exact(s, *part), rows)}

    return verify
