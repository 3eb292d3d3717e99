"""LayerNorm and the token metric of its rounded output in one pass."""

import ctypes
import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import power_of_2


@triton.jit(do_not_specialize=["T"])
def layer_norm_metric_kernel(
    x, weight, bias, shift, y, metric, mean, rstd, eps, eps_rest, T,
    H: tl.constexpr, D: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_H: tl.constexpr, BLOCK_D: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # a row is laid out [heads, dims]: the head mean is a sum over one axis of what is in registers
    ACC: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    o_h, o_d = tl.arange(0, BLOCK_H), tl.arange(0, BLOCK_D)
    m_c = (o_h < H)[:, None] & (o_d < D)[None, :]
    o_c = o_h[:, None] * D + o_d[None, :]
    m_t = o_t < T
    m_x = m_t[:, None, None] & m_c[None, :, :]
    p_x = o_t[:, None, None] * (H * D) + o_c[None, :, :]
    b_x = tl.load(x + p_x, mask=m_x, other=0.0).to(ACC)
    if shift is not None:
        b_x += tl.load(shift + o_c, mask=m_c, other=0.0).to(ACC)[None, :, :]
    b_mean = tl.sum(tl.sum(b_x, 2), 1) / (H * D)
    centred = tl.where(m_x, b_x - b_mean[:, None, None], 0.0)
    b_var = tl.sum(tl.sum(centred * centred, 2), 1) / (H * D)
    # a run-time float arrives as fp32, too coarse for float64: the rest comes beside it
    b_rstd = 1.0 / tl.sqrt(b_var + eps + eps_rest)
    b_y = centred * b_rstd[:, None, None]
    if weight is not None:
        b_y *= tl.load(weight + o_c, mask=m_c, other=0.0).to(ACC)[None, :, :]
    if bias is not None:
        b_y += tl.load(bias + o_c, mask=m_c, other=0.0).to(ACC)[None, :, :]
    rounded = b_y.to(y.dtype.element_ty)
    tl.store(y + p_x, rounded, mask=m_x)
    b_metric = tl.sum(rounded.to(ACC), 1) / H
    m_d = m_t[:, None] & (o_d < D)[None, :]
    tl.store(metric + o_t[:, None] * D + o_d[None, :], b_metric, mask=m_d)
    tl.store(mean + o_t, b_mean, mask=m_t)
    tl.store(rstd + o_t, b_rstd, mask=m_t)


def layer_norm_metric(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    num_heads: int,
    shift: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y = LayerNorm(x + shift), the head mean of the rounded y, mean and 1/std of rows [..., 1]."""
    channels = x.shape[-1]
    d, rows = channels // num_heads, x.numel() // max(channels, 1)
    double = x.dtype == torch.float64
    acc = torch.float64 if double else torch.float32
    y = torch.empty_like(x)
    metric = x.new_empty(*x.shape[:-1], d, dtype=acc)
    mean = x.new_empty(*x.shape[:-1], 1, dtype=acc)
    rstd = torch.empty_like(mean)
    if rows:
        block_h, block_d = power_of_2(num_heads), power_of_2(d)
        # a row per warp: its sums stay in the warp (2.0 ms where four rows on four warps took 5.6)
        block_t, warps = 1, power_of_2(block_h * block_d // 2048, high=16)
        near = ctypes.c_float(eps).value
        rest = eps - near if math.isfinite(near) else 0.0
        layer_norm_metric_kernel[(triton.cdiv(rows, block_t),)](
            x, weight, bias, shift, y, metric, mean, rstd, near, rest, rows,
            num_heads, d, block_t, block_h, block_d, double, num_warps=warps,
        )  # fmt: skip
    return y, metric, mean, rstd
