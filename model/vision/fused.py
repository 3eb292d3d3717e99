"""UMT's blocks with fewer passes over memory: inference in half precision on a GPU."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as modules

from hico.ops.attention import attention
from hico.ops.norm import layer_norm_metric

from .common import attend

HALF = (torch.float16, torch.bfloat16)
BIASES = ("q_bias", "v_bias")


def fits(x: Tensor, blocks: Iterable[Any], stock: tuple[type, ...]) -> bool:
    """Whether `run` may stand in for the blocks on this x.

    It may without gradients, for half precision on a GPU, where nobody has compiled, hooked,
    patched or replaced any part of the blocks: `stock` are the modules' exact types.
    """
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not _half_on_gpu(x):
        return False
    if modules._global_forward_hooks or modules._global_forward_pre_hooks:
        return False
    return hasattr(torch, "_addmm_activation") and all(_plain(b, x, stock) for b in blocks)


def _half_on_gpu(x: Tensor) -> bool:
    on_gpu = x.is_cuda and not torch.is_autocast_enabled("cuda")
    return on_gpu and type(x) is Tensor and x.dtype in HALF and x.numel() > 0


def _plain(block: Any, x: Tensor, stock: tuple[type, ...]) -> bool:
    for part in block.modules():
        touched = part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
        if touched or part._compiled_call_impl is not None or type(part) not in stock:
            return False
    attn, mlp = block.attn, block.mlp
    weights = [attn.qkv.weight, attn.q_bias, attn.v_bias]
    for part in (block.norm1, block.norm2, attn.proj, mlp.fc1, mlp.fc2):
        weights += [part.weight, part.bias]
    return all(
        type(p) is nn.Parameter and p.dtype == x.dtype and p.device == x.device for p in weights
    )


def run(blocks: Iterable[Any], x: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks' output is x + shift: x, changed in place, and the float32 [C] that it lacks.

    Products add to x themselves (one rounding where product and sum had two); the biases behind
    them are one vector for all tokens, which grows block by block and is added in the norms.
    """
    flat = x.view(-1, x.shape[-1])
    queries, values = (torch.stack([getattr(b.attn, n) for b in blocks]) for n in BIASES)
    qkv_biases = torch.cat((queries, torch.zeros_like(queries), values), 1)
    behind = [bias for b in blocks for bias in (b.attn.proj.bias, b.mlp.fc2.bias)]
    shifts = _sums(torch.stack(behind))
    for i, block in enumerate(blocks):
        attn, mlp = block.attn, block.mlp
        h = norm(x, block.norm1, shifts[2 * i])
        h = attend_all(F.linear(h, attn.qkv.weight, qkv_biases[i]), attn.num_heads)
        flat.addmm_(h.reshape(flat.shape), attn.proj.weight.t())
        h = norm(x, block.norm2, shifts[2 * i + 1])
        flat.addmm_(linear_gelu(h.view(flat.shape), mlp.fc1), mlp.fc2.weight.t())
    return x, shifts[-1]


def attend_all(qkv: Tensor, num_heads: int) -> Tensor:
    """Attention of [q, k, v]: hico's own kernel where it was measured to be the fastest."""
    measured = qkv.is_cuda and qkv.shape[-1] == 3 * 64 * num_heads
    if measured and torch.cuda.get_device_capability(qkv.device)[0] == 9:
        return attention(qkv, num_heads)
    q, k, v = qkv.chunk(3, dim=-1)
    return attend(q, k, v, num_heads)


def _sums(rows: Tensor) -> Tensor:
    """[N, C] -> float32 [N + 1, C]: row i is the sum of the i first."""
    # not cumsum, which on a GPU is an error once use_deterministic_algorithms is set
    first = rows.new_ones(len(rows) + 1, len(rows), dtype=torch.float64).tril(-1)
    return (first @ rows.double()).float()


def norm(x: Tensor, layer: nn.LayerNorm, shift: Tensor) -> Tensor:
    """LayerNorm of x + shift, which is not rounded in between."""
    # C groups of channels: a metric of one number a token, as none is wanted
    return layer_norm_metric(x, layer.weight, layer.bias, layer.eps, x.shape[-1], shift)[0]


def linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """GELU(x W^T + b) of [N, C]: in bfloat16 the tanh form, in the product's epilogue.

    The epilogue takes fp32 sums, where a GELU of its own takes rounded ones: for normal values its
    error against float64 is 1.7e-3 (root mean square), not 2.6e-3. The tanh form itself is off by
    up to 4.8e-4. That tells in tokens whose values are all far below zero, where the result is
    small: 1.2 times the error of the exact GELU at a mean of -2, 1.9 times at -3. In float16 it
    would be 8 times at -2, so that there GELU is the exact one.
    """
    if x.dtype == torch.bfloat16:
        return torch._addmm_activation(linear.bias, x, linear.weight.t(), use_gelu=True)
    return F.gelu(linear(x))
