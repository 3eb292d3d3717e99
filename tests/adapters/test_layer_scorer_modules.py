"""hico.LayerScorer on layers that are not made of plain parts, compiled, and misused."""

import copy

import pytest
import torch
from decoder_layers import assert_close, attention, make, project, states
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

import hico
from hico.adapters import layer_scorer
from hico.adapters._layer import is_plain_norm


class Lora(nn.Module):
    """A projection with something added, as adapters do it."""

    def __init__(self, base):
        super().__init__()
        self.base, self.seen = base, []
        self.down = nn.Linear(64, 2, bias=False, device=base.weight.device, dtype=base.weight.dtype)

    def forward(self, x):
        self.seen.append(x.shape[:2].numel())
        return self.base(x) + 3 * torch.nn.functional.pad(self.down(x), (0, 30))


class Sub(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def lora(layer):
    layer.self_attn.k_proj = Lora(layer.self_attn.k_proj)


def subclass(layer):
    layer.self_attn.k_proj.__class__ = Sub


def hooked(layer):
    layer.self_attn.k_proj.register_forward_hook(lambda module, args, out: out + 1)


def replaced(layer):
    layer.self_attn.k_proj.forward = lambda x: x[..., :32] * 2


def hooked_norm(layer):
    layer.input_layernorm.register_forward_pre_hook(lambda module, args: (args[0] + 1,))


def gemma_norm(layer):
    norm = GemmaRMSNorm(64)
    nn.init.normal_(norm.weight)
    layer.input_layernorm = norm.to(layer.self_attn.k_proj.weight)


@pytest.mark.parametrize(
    "change", [lora, subclass, hooked, replaced, hooked_norm, gemma_norm], ids=lambda f: f.__name__
)
def test_other_modules(change, device, monkeypatch):
    """What is not a plain norm and Linear is called, a few rows at a time."""
    monkeypatch.setattr(layer_scorer, "CHUNK", 8)
    layer, positions = make(torch.float32, device)
    plain = hico.LayerScorer(layer).keys(states(1, 4, torch.float32, device))
    change(layer)
    hidden, place = states(2, 13, torch.float32, device), positions(torch.arange(13)[None])
    got = hico.LayerScorer(layer)(hidden, place)
    with torch.no_grad():
        torch.testing.assert_close(got.keys, project(layer, hidden, "k"))
        want = attention(layer, hidden, place, torch.full((2, 1), 12, device=device)).mean((1, 2))
    assert_close(got.score, want)
    assert plain.shape == (1, 2, 4, 16)
    if change is lora:
        assert layer.self_attn.k_proj.seen[:4] == [8, 8, 8, 2]


def test_autocast(device):
    layer, positions = make(torch.float32, device)
    hidden, place = states(1, 9, torch.float32, device), positions(torch.arange(9)[None])
    with torch.no_grad(), torch.autocast(torch.device(device).type, torch.bfloat16):
        got, want = hico.LayerScorer(layer).keys(hidden), project(layer, hidden, "k")
        assert got.dtype == torch.bfloat16 and torch.equal(got, want)
        score = hico.LayerScorer(layer)(hidden, place).score
        torch.testing.assert_close(score.sum(), torch.ones((), device=device))


def test_plain_norms():
    no_eps, no_weight = nn.RMSNorm(8), nn.RMSNorm(8, 1e-6, elementwise_affine=False)
    for norm, plain in (
        (LlamaRMSNorm(8), True),
        (nn.RMSNorm(8, 1e-6), True),
        (GemmaRMSNorm(8), False),
        (nn.LayerNorm(8), False),
        (no_eps, False),
        (no_weight, False),
        (nn.Identity(), False),
        (LlamaRMSNorm(8, eps=None), False),
    ):
        assert is_plain_norm(norm) == plain, norm
    with torch.device("meta"):
        assert is_plain_norm(LlamaRMSNorm(8))


def test_compile(device, compiler):
    layer, positions = make(torch.float32, device)
    scorer = hico.LayerScorer(layer)

    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(hidden, cos, sin):
        score, keys = scorer(hidden * 1, (cos, sin))
        return score * 2, keys * 2

    for n in (5, 9, 14):
        hidden, place = states(2, n, torch.float32, device), positions(torch.arange(n)[None])
        want = scorer(hidden, place)
        for ours, plain in zip(run(hidden, *place), want, strict=True):
            torch.testing.assert_close(ours, plain * 2)
    assert compiler.frame_count <= 2


def test_bad_input():
    layer, positions = make(torch.float32, "cpu")
    scorer, x, place = (
        hico.LayerScorer(layer),
        torch.ones(2, 5, 64),
        positions(torch.arange(5)[None]),
    )
    other = lambda **change: _changed(layer, **change)  # noqa: E731
    for message, call in {
        "layer: expected input_layernorm .* got Linear": lambda: hico.LayerScorer(nn.Linear(2, 2)),
        "layer: .* got sliding_window": lambda: hico.LayerScorer(other(sliding_window=4)),
        "layer: .* got sinks": lambda: hico.LayerScorer(other(sinks=torch.ones(4))),
        r"layer: expected k_norm .*16.* \[64\]": lambda: hico.LayerScorer(
            other(k_norm=LlamaRMSNorm(64))
        ),
        "reduce_heads: expected one of": lambda: hico.LayerScorer(layer, "median"),
        "reduce_queries: expected one of": lambda: hico.LayerScorer(layer, "mean", "kv"),
        r"hidden: expected .* got \[5, 64\]": lambda: scorer(x[0], place),
        r"position_embeddings: .* got Tensor": lambda: scorer(x, place[0]),
        r"cos: expected .*\[1, 4, 16\]": lambda: scorer(x[:, :4], place),
        r"query_rows: expected": lambda: scorer(x, place, query_rows=torch.ones(3, 1, 1)),
        r"query_mask: expected .*\[2, 1\]": lambda: scorer(
            x, place, query_mask=torch.ones(2, 5, dtype=torch.bool)
        ),
        r"key_mask: expected bool": lambda: scorer(x, place, key_mask=torch.ones(2, 5)),
        r"lengths: expected .*\[2\]": lambda: scorer(x, place, lengths=torch.ones(1).long()),
        r"key_range": lambda: scorer(x, place, key_range=(3, 9)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def _changed(layer, **attributes):
    layer = copy.deepcopy(layer)
    for name, value in attributes.items():
        setattr(layer.self_attn, name, value)
    return layer


def test_global_hooks(device):
    layer, _ = make(torch.float32, device)
    hidden = states(1, 9, torch.float32, device)
    plain = hico.LayerScorer(layer).keys(hidden)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _, out: out * 2 if module is layer.self_attn.k_proj else None
    )
    try:
        torch.testing.assert_close(hico.LayerScorer(layer).keys(hidden), plain * 2)
    finally:
        handle.remove()


def test_hidden_that_does_not_fit(device):
    layer, _ = make(torch.float32, device)
    hidden = states(1, 9, torch.float32, device)
    scorer = hico.LayerScorer(layer)
    with pytest.raises(ValueError, match="hidden: expected torch.float32 .* got torch.float16"):
        scorer.keys(hidden.half())
    with pytest.raises(ValueError, match=r"hidden: expected \[B, N, 64\], got \[1, 9, 63\]"):
        scorer(hidden[..., :63])
