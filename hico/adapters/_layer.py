"""What a decoder layer is made of, and whether its parts are no more than they look."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as _modules


def check_layer(layer: nn.Module) -> None:
    """It has the parts of a Qwen2 or Llama layer, and its attention is a softmax over all."""
    attention: Any = getattr(layer, "self_attn", None)
    for owner, name in (
        (layer, "input_layernorm"),
        (attention, "q_proj"),
        (attention, "k_proj"),
        (attention, "head_dim"),
    ):
        if not hasattr(owner, name):
            raise ValueError(
                "layer: expected input_layernorm and self_attn with q_proj, k_proj and head_dim, "
                f"got {type(layer).__name__} without {name}"
            )
    config = getattr(attention, "config", None)
    window = getattr(attention, "sliding_window", getattr(config, "sliding_window", None))
    beyond = {
        "sliding_window": window,
        "attn_logit_softcapping": getattr(attention, "attn_logit_softcapping", None),
        "sinks": getattr(attention, "sinks", None),
    }
    for name, value in beyond.items():
        if value is not None:
            raise ValueError(f"layer: expected a plain softmax over all tokens, got {name}")
    for name in ("q_norm", "k_norm"):
        weight = getattr(getattr(attention, name, None), "weight", None)
        if weight is not None and tuple(weight.shape) != (attention.head_dim,):
            raise ValueError(
                f"layer: expected {name} over the {attention.head_dim} dimensions of a head, "
                f"got a weight {list(weight.shape)}"
            )


def is_plain_linear(linear: nn.Module, x: Tensor) -> bool:
    """Whether linear(x) is x @ weight^T + bias and nothing else, in x's dtype."""
    if type(linear) is not nn.Linear or has_hooks(linear):
        return False
    weights = [t for t in (linear.weight, linear.bias) if t is not None]
    # quantised and sharded weights are tensors of another class
    kinds = (Tensor, nn.Parameter)
    return all(type(t) in kinds and t.dtype == x.dtype for t in weights)


def is_plain_norm(norm: nn.Module) -> bool:
    """Whether norm(x) is x / sqrt(mean(x^2) + eps) * weight: a twin of four channels is asked."""
    if type(norm) is nn.RMSNorm:
        return norm.weight is not None and norm.weight.ndim == 1 and norm.eps is not None
    if set(norm._parameters) != {"weight"} or norm._buffers:
        return False
    try:
        weight, eps = weight_and_eps(norm)
        # under 1 + weight, as in Gemma, the weight looks the same
        twin = copy.copy(norm)
        four = torch.tensor([0.5, 2, -1, 3], device="cpu")
        twin._parameters = {"weight": nn.Parameter(four)}
        x = torch.tensor([[0.5, -2, 3, 1], [0, eps**0.5, 0, 0]], device="cpu")
        with torch.no_grad():
            same = F.rms_norm(x, (4,), four, eps)
            return weight.ndim == 1 and torch.allclose(type(norm).forward(twin, x), same)
    except Exception:
        return False


def has_hooks(module: nn.Module) -> bool:
    """Whether calling the module does more than its class's forward."""
    own = module._forward_hooks, module._forward_pre_hooks
    everywhere = _modules._global_forward_hooks, _modules._global_forward_pre_hooks
    forward = module.__dict__.get("forward")
    return any((*own, *everywhere)) or not getattr(forward, "by_rows", forward is None)


def weight_and_eps(norm: Any) -> tuple[Tensor, float]:
    """The parameters of an RMSNorm, by torch's or by transformers' names."""
    eps = getattr(norm, "variance_epsilon", None)
    return norm.weight, float(norm.eps if eps is None else eps)
