"""RMSNorm and a linear projection without storing the norm's output: fold, multiply, rescale."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import power_of_2

# rows that fp16 takes at a time
CHUNK = 8192


@triton.jit
def fold_kernel(
    norm_weight, weight, folded, C: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # folded[o, c] = norm_weight[c] * weight[o, c], one row a program
    i_o = tl.program_id(0).to(tl.int64)
    o_c = tl.arange(0, BLOCK_C)
    m_c = o_c < C
    b_f = tl.load(weight + i_o * C + o_c, mask=m_c, other=0.0).to(tl.float32)
    b_f *= tl.load(norm_weight + o_c, mask=m_c, other=0.0).to(tl.float32)
    tl.store(folded + i_o * C + o_c, b_f.to(folded.dtype.element_ty), mask=m_c)


@triton.jit(do_not_specialize=["N", "stride_b", "stride_n"])
def multiply_kernel(
    x, folded, lengths, y, N, stride_b, stride_n,
    C: tl.constexpr, OUT: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_O: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    # y[t] = x[t] @ folded^T; a tile of nothing but padding is left alone
    TILES_O: tl.constexpr = (OUT + BLOCK_O - 1) // BLOCK_O
    i_b = tl.program_id(1).to(tl.int64)
    t0 = tl.program_id(0) // TILES_O * BLOCK_T
    # the programs of one tile of x follow one another, so that all but the first read it from L2
    o_o = (tl.program_id(0) % TILES_O) * BLOCK_O + tl.arange(0, BLOCK_O)
    if t0 < tl.load(lengths + i_b):
        o_t = t0.to(tl.int64) + tl.arange(0, BLOCK_T)
        o_c = tl.arange(0, BLOCK_C)
        # past the end the last row again: a mask in the loop would cost more
        rows = i_b * stride_b + tl.minimum(o_t, N - 1) * stride_n
        p_x = x + rows[:, None] * UNIT + o_c[None, :]
        p_f = folded + tl.minimum(o_o, OUT - 1).to(tl.int64)[None, :] * C + o_c[:, None]
        acc = tl.zeros([BLOCK_T, BLOCK_O], tl.float32)
        for c in range(0, C, BLOCK_C):
            acc = tl.dot(tl.load(p_x + c), tl.load(p_f + c), acc)
        p_y = y + (i_b * N + o_t)[:, None] * OUT + o_o[None, :]
        tl.store(p_y, acc.to(y.dtype.element_ty), mask=(o_t < N)[:, None] & (o_o < OUT)[None, :])


@triton.jit(
    do_not_specialize=["T", "N", "stride_b", "stride_n"],
    do_not_specialize_on_alignment=["x", "lengths"],
)
def rescale_kernel(
    x, y, bias, lengths, T, N, stride_b, stride_n, eps,
    C: tl.constexpr, OUT: tl.constexpr, UNIT: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_O: tl.constexpr,
):  # fmt: skip
    # y[t] = y[t] / rms(x[t]) + bias, in place; padding becomes 0
    o_t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    m_t = o_t < T
    live = m_t
    if lengths is not None:
        live = m_t & (o_t % N < tl.load(lengths + o_t // N, mask=m_t, other=0))
    p_x = x + (o_t // N * stride_b + o_t % N * stride_n)[:, None] * UNIT
    squares = tl.zeros([BLOCK_T, BLOCK_C], tl.float32)
    for c0 in range(0, C, BLOCK_C):
        o_c = c0 + tl.arange(0, BLOCK_C)
        m_x = live[:, None] & (o_c < C)[None, :]
        b_x = tl.load(p_x + o_c[None, :], mask=m_x, other=0.0).to(tl.float32)
        squares += b_x * b_x
    b_rms = tl.sqrt_rn(tl.sum(squares, 1) / C + eps)
    for o0 in range(0, OUT, BLOCK_O):
        o_o = o0 + tl.arange(0, BLOCK_O)
        m_o = (o_o < OUT)[None, :]
        p_y = y + o_t[:, None] * OUT + o_o[None, :]
        b_y = tl.load(p_y, mask=live[:, None] & m_o, other=0.0).to(tl.float32) / b_rms[:, None]
        if bias is not None:
            b_y += tl.load(bias + o_o, mask=o_o < OUT, other=0.0).to(tl.float32)[None, :]
        b_y = tl.where(live[:, None], b_y, 0.0)
        tl.store(p_y, b_y.to(y.dtype.element_ty), mask=m_t[:, None] & m_o)


def norm_project(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    lengths: Tensor | None = None,
    interpreted: bool = False,
) -> Tensor:
    """RMSNorm of x [B, N, C] (last dimension dense) times weight [O, C] plus bias: [B, N, O].

    interpreted: without the kernel whose products of bf16 the interpreter gets wrong.
    """
    batch, n, channels = x.shape
    out = weight.shape[0]
    y = x.new_empty(batch, n, out)
    if not y.numel():
        return y
    if x.dtype == torch.float16:
        return _normed_first(x, norm_weight, weight, bias, eps, lengths, y)
    folded = torch.empty_like(weight)
    block_c = power_of_2(channels)
    fold_kernel[(out,)](
        norm_weight, weight, folded, channels, block_c,
        num_warps=power_of_2(block_c // 512, high=8),
    )  # fmt: skip
    # the strides of single rows mean nothing; in units of 16 they need no alignment to compile for
    strides = (x.stride(0) if batch > 1 else 0, x.stride(1) if n > 1 else 0)
    unit = 16 if all(stride % 16 == 0 for stride in strides) else 1
    shape = n, strides[0] // unit, strides[1] // unit
    if lengths is not None and multiplies(x, out, unit) and not interpreted:
        tile = {"BLOCK_T": 128, "BLOCK_O": power_of_2(out, low=64, high=256), "BLOCK_C": 64}
        tiles = triton.cdiv(n, tile["BLOCK_T"]) * triton.cdiv(out, tile["BLOCK_O"])
        multiply_kernel[tiles, batch](
            x, folded, lengths, y, *shape, channels, out, unit, **tile, num_warps=8, num_stages=3
        )
    elif x.is_contiguous():
        torch.mm(x.view(-1, channels), folded.t(), out=y.view(-1, out))
    else:
        for rows, product in zip(x, y, strict=True):
            torch.mm(rows, folded.t(), out=product)
    block_c = power_of_2(channels, high=1024)
    # a row a warp: 0.38 ms where four rows on four warps take 0.44
    block_t = power_of_2(1024 // block_c, high=16)
    rescale_kernel[(triton.cdiv(batch * n, block_t),)](
        x, y, bias, lengths, batch * n, *shape, eps,
        channels, out, unit, block_t, block_c, power_of_2(out, high=512), num_warps=1,
    )  # fmt: skip
    return y


def multiplies(x: Tensor, out: int, unit: int) -> bool:
    """Whether multiply_kernel takes x: it goes without masks, and fp32 is the library's matter."""
    return x.dtype == torch.bfloat16 and unit == 16 and x.shape[2] % 64 == 0 and out >= 64


def _normed_first(
    x: Tensor,
    norm_weight: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    eps: float,
    lengths: Tensor | None,
    y: Tensor,
) -> Tensor:
    # products of what is not yet normed overflow fp16
    bias = None if bias is None else bias.to(x.dtype)
    for rows, product in zip(x, y, strict=True):
        for part, result in zip(rows.split(CHUNK), product.split(CHUNK), strict=True):
            normed = torch.nn.functional.rms_norm(part.float(), part.shape[-1:], None, eps)
            normed = (normed * norm_weight).to(x.dtype)
            result.copy_(torch.nn.functional.linear(normed, weight, bias))
    if lengths is not None:
        place = torch.arange(x.shape[1], device=x.device)
        y.masked_fill_((place >= lengths[:, None])[..., None], 0)
    return y
