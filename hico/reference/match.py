"""Best partner by cosine, written out: unit vectors, the whole score matrix, masks, argmax."""

import torch
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums run in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def unit(metric: Tensor) -> tuple[Tensor, Tensor]:
    """metric / |metric| over the last dimension, and |metric|; 0, 0 for zero and non-finite ones.

    The largest magnitude is divided out first, so that no square overflows or vanishes; a vector
    whose largest magnitude is below the smallest normal number counts as zero, as does one of
    infinite length.
    """
    m = metric.to(accumulator(metric.dtype))
    peak = m.abs().amax(-1, keepdim=True) if m.shape[-1] else m.new_zeros(*m.shape[:-1], 1)
    ok = torch.isfinite(m).all(-1, keepdim=True) & (peak >= torch.finfo(m.dtype).tiny)
    m = torch.where(ok, m / torch.where(ok, peak, 1), 0)
    length = torch.linalg.vector_norm(m, dim=-1, keepdim=True)
    norm = peak * length
    ok = ok & torch.isfinite(norm)
    u = torch.where(ok, m / torch.where(ok, length, 1), 0)
    return u, torch.where(ok, norm, 0).squeeze(-1)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """cos of every pair, [B, Na, D] x [B, Nb, D] -> [B, Na, Nb]; cos(0, 0) = 1, cos(0, v) = -1."""
    (a, norm_a), (b, norm_b) = unit(a), unit(b)
    zero_a, zero_b = (norm_a == 0)[:, :, None], (norm_b == 0)[:, None, :]
    # float64, so that equal tokens tie exactly however the product is split up
    score = (a.double() @ b.double().mT).to(a.dtype)
    return torch.where(zero_a | zero_b, torch.where(zero_a & zero_b, 1.0, -1.0), score)


def match(
    metric: Tensor,
    src: Tensor,
    dst: Tensor,
    frame_lag: int | None = None,
    tokens_per_frame: int = 1,
    lengths: Tensor | None = None,
    protected: int = 0,
) -> tuple[Tensor, Tensor]:
    """Best destination of every source: value [B, Ns], index [B, Ns] into dst (-1: no candidate).

    src [B, Ns] and dst [B, Nd] are token indices; a negative one, one at or past its row's length
    and one below `protected` takes no part. With a frame lag only pairs with frame(src) -
    frame(dst) = lag count.
    """
    if src.shape[1] == 0 or dst.shape[1] == 0:
        value = metric.new_full(src.shape, -torch.inf, dtype=accumulator(metric.dtype))
        return value, torch.full_like(src, -1)

    def rows(index: Tensor) -> tuple[Tensor, Tensor]:
        end = metric.shape[1] if lengths is None else lengths.clamp(max=metric.shape[1])[:, None]
        picked = index.clamp(min=0, max=metric.shape[1] - 1)
        tokens = metric.gather(1, picked[:, :, None].expand(-1, -1, metric.shape[2]))
        return tokens, (index >= protected) & (index < end)

    (a, ok_a), (b, ok_b) = rows(src), rows(dst)
    allowed = ok_a[:, :, None] & ok_b[:, None, :]
    if frame_lag is not None:
        lag = src[:, :, None] // tokens_per_frame - dst[:, None, :] // tokens_per_frame
        allowed = allowed & (lag == frame_lag)
    value, index = cosine(a, b).masked_fill(~allowed, -torch.inf).max(-1)
    return value, torch.where(allowed.any(-1), index, -1)
