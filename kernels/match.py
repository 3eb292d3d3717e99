"""Unit vectors of the token metric, and the best partner of every source."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._cosine import (
    any_zero,
    best_partner,
    store_unit,
    summed_anew,
    unit_rows,
    with_zeros,
)
from hico.kernels._launch import on_hopper, power_of_2


@triton.jit(do_not_specialize=["T"])
def unit_metric_kernel(
    x, size, unit, norm, T,
    H: tl.constexpr, D: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr,
    DOUBLE: tl.constexpr,
):  # fmt: skip
    # metric[t] = mean over heads of x[t], kept as unit vector and norm (times size[t])
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_d = tl.arange(0, BLOCK_D)
    m_t = o_t < T
    m_x = m_t[:, None] & (o_d < D)[None, :]
    p_x = x + o_t[:, None] * (H * D) + o_d[None, :]
    metric = tl.zeros([BLOCK_T, BLOCK_D], ACC)
    for h in tl.static_range(H):
        metric += tl.load(p_x + h * D, mask=m_x, other=0.0).to(ACC)
    u, length = unit_rows(metric * (1.0 / H), DOUBLE)
    if size is not None:
        length *= tl.load(size + o_t, mask=m_t, other=0).to(ACC)
        u = tl.where((length != 0)[:, None], u, float("nan"))
    store_unit(unit, o_t, m_t, 0, u, D, BLOCK_D, DOUBLE)
    tl.store(norm + o_t, length, mask=m_t)


@triton.jit(
    do_not_specialize=["N", "first", "num_src", "num_dst", "tokens_per_frame"],
    # a slice of an index tensor starts anywhere; that compiles nothing new
    do_not_specialize_on_alignment=["src", "dst", "lengths"],
)
def match_kernel(
    unit, norm, src, dst, lengths, value, index, N, first, num_src, num_dst, tokens_per_frame,
    FRAME_LAG: tl.constexpr, RANKING: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # one program finds the partners of BLOCK_SRC sources of one row, among tokens from `first` on
    blocks = tl.cdiv(num_src, BLOCK_SRC)
    i_b = tl.program_id(0).to(tl.int64) // blocks
    o_i = (tl.program_id(0) % blocks) * BLOCK_SRC + tl.arange(0, BLOCK_SRC)
    length = N
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + i_b), 0), N).to(tl.int32)
    if src is None:
        id_src = 2 * o_i.to(tl.int64)
    else:
        id_src = tl.load(src + i_b * num_src + o_i, mask=o_i < num_src, other=-1)
    m_src = (o_i < num_src) & (id_src >= first) & (id_src < length)
    if dst is not None:
        dst += i_b * num_dst
    norm += i_b * N
    best, best_j = best_partner(
        unit + i_b * N * (D if DOUBLE else 2 * D), id_src, m_src, dst,
        first, num_dst, length, tokens_per_frame,
        FRAME_LAG, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, DOUBLE,
    )  # fmt: skip
    if any_zero(norm, length, 1024):
        best, best_j = with_zeros(
            best, best_j, norm, id_src, m_src, dst, first, num_dst, length, tokens_per_frame,
            FRAME_LAG, BLOCK_DST,
        )  # fmt: skip
    if not RANKING and not DOUBLE:
        best_j = tl.where(m_src, best_j, -1)
        best = summed_anew(best, best_j, unit + i_b * N * (2 * D), norm, id_src, dst, D, BLOCK_D)
    p = i_b * num_src + o_i
    tl.store(value + p, tl.where(m_src, best, float("-inf")), mask=o_i < num_src)
    tl.store(index + p, tl.where(m_src, best_j, -1), mask=o_i < num_src)


def unit_metric(x: Tensor, num_heads: int, size: Tensor | None) -> tuple[Tensor, Tensor]:
    """Unit vectors [B, N, 2, D] fp16 (hi, lo; float64: [B, N, 1, D]) and norms of the head mean."""
    batch, n, channels = x.shape
    d, double = channels // num_heads, x.dtype == torch.float64
    unit = x.new_empty(batch, n, 1 if double else 2, d, dtype=x.dtype if double else torch.float16)
    norm = x.new_empty(batch, n, dtype=x.dtype if double else torch.float32)
    block_d = power_of_2(d)
    block_t = power_of_2(4096 // block_d, high=64)
    if batch * n:
        unit_metric_kernel[(triton.cdiv(batch * n, block_t),)](
            x, size, unit, norm, batch * n, num_heads, d, block_t, block_d, double
        )  # fmt: skip
    return unit, norm


def match(
    unit: Tensor,
    norm: Tensor,
    src: Tensor | None,
    dst: Tensor | None,
    frame_lag: int | None = None,
    tokens_per_frame: int = 1,
    lengths: Tensor | None = None,
    protected: int = 0,
    ranking: bool = False,
) -> tuple[Tensor, Tensor]:
    """Best destination of every source: value, index [B, Ns]; src and dst None = even and odd.

    For ranking, the index is int32 and the value is what the tensor cores summed (about 1e-6 off).
    """
    batch, n, _, d = unit.shape
    num_src = (n + 1) // 2 if src is None else src.shape[1]
    num_dst = n // 2 if dst is None else dst.shape[1]
    value = norm.new_empty(batch, num_src)
    kind = torch.int32 if ranking else torch.int64
    index = torch.empty(batch, num_src, dtype=kind, device=unit.device)
    double = unit.dtype == torch.float64
    tile = match_tile(d, double)
    if batch * num_src:
        match_kernel[(batch * triton.cdiv(num_src, tile["BLOCK_SRC"]),)](
            unit, norm, src, dst, lengths, value, index,
            n, protected, num_src, num_dst, tokens_per_frame, frame_lag, ranking, d,
            DOUBLE=double, **tile,
        )  # fmt: skip
    return value, index


def match_tile(d: int, double: bool) -> dict[str, int]:
    """Tiles for a metric of d dimensions, of which up to 128 are taken at once."""
    block_d = power_of_2(d, low=16) if d <= (64 if double else 128) else 64
    block_src = 32 if double else 128 if block_d == 128 and on_hopper() else 64
    return {"BLOCK_SRC": block_src, "BLOCK_DST": 32, "BLOCK_D": block_d}
