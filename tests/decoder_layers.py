"""Decoder layers with random weights, and what they attend, written out."""

import copy

import torch
from torch import nn
from transformers import LlamaConfig, Qwen2Config, Qwen2ForCausalLM, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer, Qwen2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer

from hico.testing import assert_tokens_close

MAKES = {
    "qwen2": (Qwen2Config, Qwen2DecoderLayer, {}),
    "qwen3": (Qwen3Config, Qwen3DecoderLayer, {"head_dim": 32}),
    "llama": (LlamaConfig, LlamaDecoderLayer, {"num_key_value_heads": 4}),
}
# of a small language model
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.3,
}


def make_decoder(device, attention="sdpa", **sizes):
    """A Qwen2ForCausalLM of SIZES, or of others, with random weights."""
    config = Qwen2Config(**SIZES | sizes, attn_implementation=attention)
    return Qwen2ForCausalLM(config).eval().to(device)


def make(dtype, device, make="qwen2", **sizes):
    """A decoder layer with random weights, and (cos, sin) of any positions."""
    config, layer, own = MAKES[make]
    sizes = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, **own, **sizes}
    config = config(intermediate_size=32, _attn_implementation="eager", **sizes)
    layer = layer(config, layer_idx=0)
    for p in layer.parameters():
        nn.init.normal_(p, 1.0 if p.ndim == 1 else 0.0, 0.3 if p.ndim == 1 else 0.1)
    rotary = Qwen2RotaryEmbedding(config).to(device)

    def positions(rows):
        return rotary(torch.zeros((), dtype=dtype, device=device), rows.to(device))

    return layer.to(device, dtype).eval(), positions


def states(batch, n, dtype, device):
    return (torch.randn(batch, n, 64, device=device) * 2).to(dtype)


def project(layer, hidden, name):
    """[B, H, N, D] queries ("q") or keys ("k") before their rotation, by the layer's modules."""
    attention = layer.self_attn
    x = getattr(attention, f"{name}_proj")(layer.input_layernorm(hidden))
    x = x.unflatten(-1, (-1, attention.head_dim))
    norm = getattr(attention, f"{name}_norm", None)
    return (x if norm is None else norm(x)).transpose(1, 2)


def turn(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat((-second, first), -1) * sin[:, None]


@torch.no_grad()
def attention(layer, hidden, positions, rows, seen=None):
    """[B, H, M, N]: what rows [B, M] pay each token, from the whole matrix; seen [B, N]."""
    cos, sin = (t.to(hidden.dtype) for t in positions)
    q, k = (turn(project(layer, hidden, name), cos, sin) for name in "qk")
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = q @ k.mT * layer.self_attn.scaling
    n = hidden.shape[1]
    past = torch.ones(n, n, dtype=torch.bool, device=hidden.device).tril()[None, None]
    past = past if seen is None else past & seen[:, None, None]
    kind = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    weights = logits.masked_fill(~past, -torch.inf).softmax(-1, dtype=kind).nan_to_num(0)
    at = rows[:, None, :, None].expand(-1, q.shape[1], -1, n)
    return weights.to(hidden.dtype).gather(2, at)


def in_double(layer):
    """A copy in float64, with norms that do not go through fp32 as those of transformers do."""
    layer = copy.deepcopy(layer).double()
    for owner in (layer, layer.self_attn):
        for name, norm in list(owner.named_children()):
            if type(norm).__name__.endswith("RMSNorm"):
                exact = nn.RMSNorm(norm.weight.shape, norm.variance_epsilon)
                exact.weight = norm.weight
                setattr(owner, name, exact)
    return layer


@torch.no_grad()
def check(layer, hidden, positions, rows, got, seen=None):
    """Score and keys within twice the error of the layer's own arithmetic."""
    wide = in_double(layer), hidden.double()
    exact = attention(*wide, [t.double() for t in positions], rows, seen).mean((1, 2))
    plain = attention(layer, hidden, positions, rows, seen).mean((1, 2))
    # over all scores at once: of a single row's few roundings the largest is a matter of luck
    assert_tokens_close(*(t.reshape(1, -1) for t in (got.score, exact, plain)))
    assert_tokens_close(got.keys, project(*wide, "k"), project(layer, hidden, "k"), floor=8)
    assert got.keys.dtype == hidden.dtype


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-8)
