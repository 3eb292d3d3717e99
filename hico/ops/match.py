"""match: for each source token its best destination by cosine, without the score matrix."""

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import register
from hico.reference import match as reference

FRAME_LAGS = {None: None, "same_frame": 0, "previous_frame": 1}


def match(
    metric: Tensor,
    *,
    src: Tensor | None = None,
    dst: Tensor | None = None,
    mask: str | None = None,
    tokens_per_frame: int | None = None,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """value[b, i], index[b, i] = max, argmax over j of cos(metric[b, src[i]], metric[b, dst[j]]).

    The Ns x Nd scores are never written. Deterministic; ties go to the lowest j. Values carry
    fp32's rounding (float64's for float64); of partners whose cosines differ by less than about
    1e-6 either may be found, but never the later one of equals. cos(0, 0) = 1 and cos(0, v) = -1:
    zero vectors find each other and attract nothing else; a vector with a NaN or an infinity
    counts as zero. No gradient.

    Args:
        metric: [B, N, D] float16, bfloat16, float32 or float64.
        src: int64 token indices of the sources, [Ns] for all rows or [B, Ns]; None = 0, 2, 4, ...
        dst: likewise the destinations; None = 1, 3, 5, ... A negative index takes no part.
        mask: None; "same_frame": partners share the frame; "previous_frame": the destination lies
            in the frame before the source's. Token n is in frame n // tokens_per_frame.
        tokens_per_frame: required with a mask.
        lengths: [B] ints, tokens of each row of a padded batch; later ones take no part. None = N.

    Returns:
        value [B, Ns] float32 (float64 for float64), -inf without a candidate, and index [B, Ns]
        int64 into dst, -1 without a candidate.

    Raises:
        ValueError: a wrong shape, dtype or mask, or a mask without tokens_per_frame.

    Source: bipartite matching of ToMe (arXiv 2210.09461, section 3).

    >>> import torch, hico
    >>> value, index = hico.match(torch.tensor([[[1.0, 0.0], [0.0, 1.0], [0.0, 2.0], [3.0, 0.0]]]))
    >>> value, index
    (tensor([[1., 1.]]), tensor([[1, 0]]))
    """
    _check.tokens("metric", metric)
    _check.one_of("mask", mask, tuple(FRAME_LAGS))
    if mask is not None and tokens_per_frame is None:
        raise ValueError(f"tokens_per_frame: expected an integer with mask={mask!r}, got None")
    if tokens_per_frame is not None:
        _check.integer("tokens_per_frame", tokens_per_frame, 1, 1 << 31)
    if lengths is not None:
        _check.indices("lengths", lengths, metric.shape[0])
    batch = metric.shape[0]
    src = None if src is None else _check.token_rows("src", src, batch)
    dst = None if dst is None else _check.token_rows("dst", dst, batch)
    return _match(metric.detach(), src, dst, FRAME_LAGS[mask], tokens_per_frame or 1, lengths)


def _reference_match(
    metric: Tensor,
    src: Tensor | None,
    dst: Tensor | None,
    frame_lag: int | None,
    tokens_per_frame: int,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    tokens = torch.arange(metric.shape[1], device=metric.device).expand(metric.shape[:2])
    src, dst = tokens[:, 0::2] if src is None else src, tokens[:, 1::2] if dst is None else dst
    return reference.match(metric, src, dst, frame_lag, tokens_per_frame, lengths)


def _launch_match(
    metric: Tensor,
    src: Tensor | None,
    dst: Tensor | None,
    frame_lag: int | None,
    tokens_per_frame: int,
    lengths: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from hico.kernels import match as kernels

    src, dst = (None if t is None else t.contiguous() for t in (src, dst))
    lengths = None if lengths is None else lengths.contiguous()
    unit, norm = kernels.unit_metric(metric.contiguous(), 1, None)
    return kernels.match(unit, norm, src, dst, frame_lag, tokens_per_frame, lengths)


_match = register("match", _launch_match, _reference_match)


@_match.register_fake
def _(metric, src, dst, frame_lag, tokens_per_frame, lengths):
    kind = torch.float64 if metric.dtype == torch.float64 else torch.float32
    sources = (metric.shape[1] + 1) // 2 if src is None else src.shape[1]
    value = metric.new_empty(metric.shape[0], sources, dtype=kind)
    return value, torch.empty_like(value, dtype=torch.int64)
