"""The encoder's blocks in fewer passes: the values of the modules, and only where it may."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hico.model.vision import VisionEncoder, fused
from hico.model.vision.umt import STOCK
from hico.testing import assert_tokens_close

HALF = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


def small(dtype=torch.float32, std=0.2, **sizes):
    sizes = {"patch_size": 8, "channels": 24, "depth": 3, "num_heads": 3} | sizes
    torch.manual_seed(0)
    encoder = VisionEncoder(32, 4, **sizes)
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=std)
    return encoder.to(dtype)


def clips(batch, time=4):
    return torch.randn(batch, time, 3, 32, 32)


def hooked(encoder):
    """A copy that runs module by module."""
    encoder = copy.deepcopy(encoder)
    encoder.encoder.blocks[0].register_forward_hook(lambda *_: None)
    return encoder


def off(got, exact, dim=None):
    return (got.double() - exact).norm(dim=dim)


@pytest.fixture
def anywhere(monkeypatch, device, plain_on_cpu):
    """The fused path on a CPU and in float32 too; how often it ran."""
    ran, run = [], fused.run
    monkeypatch.setattr(fused, "_half_on_gpu", lambda x: x.numel() > 0)
    monkeypatch.setattr(fused, "run", lambda *args: ran.append(1) or run(*args))
    return ran


@pytest.mark.parametrize("return_metric", [False, True])
@pytest.mark.parametrize("time", [4, 1])
@torch.no_grad()
def test_values(time, return_metric, anywhere, device):
    encoder, frames = small().to(device), clips(2, time).to(device)
    plain = hooked(encoder)
    expected = plain(frames, return_metric)
    assert not anywhere
    out = encoder(frames, return_metric)
    assert anywhere
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=1e-4)
    for then in (None, lambda _, metric: metric):
        torch.testing.assert_close(
            encoder.encode(frames, 1, then), plain.encode(frames, 1, then), atol=1e-4, rtol=1e-4
        )


@HALF
@torch.no_grad()
def test_half_precision(dtype, anywhere, device):
    encoder, frames = small(dtype).to(device), clips(3).to(device, dtype)
    wide = hooked(encoder).double()
    for part in (frames, frames[:1], frames[:, :1]):
        exact, plain = wide(part), hooked(encoder)(part)
        anywhere.clear()
        ours = encoder(part)
        assert anywhere and ours.dtype == dtype
        assert_tokens_close(ours, exact, plain)


@torch.no_grad()
def test_nothing_else_changes(anywhere, device):
    """Frames, parameters and what a hook on the patches kept are as before; runs are equal."""
    encoder, frames = small(torch.bfloat16).to(device), clips(2).to(device, torch.bfloat16)
    kept = []
    encoder.encoder.patch_embed.register_forward_hook(lambda *args: kept.append(args[2]))
    before = copy.deepcopy(encoder.state_dict()), frames.clone()
    first = encoder(frames)
    again = encoder(frames)
    assert len(anywhere) == 2 and torch.equal(first, again) and torch.equal(*kept)
    assert torch.equal(frames, before[1]) and not first._is_view()
    for name, value in encoder.state_dict().items():
        assert torch.equal(value, before[0][name])


class _Linear(nn.Linear):
    """What an adapter or a quantised type would put in."""


def _hook(*_):
    return None


TOUCHES = {
    "hook": lambda b: b[1].mlp.fc1.register_forward_hook(_hook),
    "pre-hook": lambda b: b[2].norm1.register_forward_pre_hook(_hook),
    "patched": lambda b: setattr(b[0].attn, "forward", b[0].attn.forward),
    "compiled": lambda b: b[0].compile(backend="eager"),
    "replaced": lambda b: setattr(b[0].mlp, "fc2", _Linear(96, 24)),
    "without": lambda b: setattr(b[0].mlp.fc1, "bias", None),
    "float64": lambda b: b[2].attn.proj.double(),
    "parametrized": lambda b: nn.utils.parametrizations.weight_norm(b[0].mlp.fc1),
    "global hook": lambda _: nn.modules.module.register_module_forward_hook(_hook),
}


@pytest.mark.parametrize("touch", TOUCHES.values(), ids=TOUCHES)
@torch.no_grad()
def test_only_untouched_blocks(touch, anywhere):
    blocks, x = small().encoder.blocks, torch.ones(1, 4, 24)
    assert fused.fits(x, blocks, STOCK)
    handle = touch(blocks)
    try:
        assert not fused.fits(x, blocks, STOCK)
    finally:
        if hasattr(handle, "remove"):
            handle.remove()


def test_only_without_gradients(anywhere, device):
    encoder = small().to(device)
    encoder(clips(1).to(device)).sum().backward()
    assert not anywhere and encoder.encoder.blocks[0].norm1.weight.grad is not None
    with torch.no_grad():
        torch.compile(encoder, backend="eager")(clips(1).to(device))
        assert not anywhere
        encoder(clips(0).to(device))
        assert not anywhere


@torch.no_grad()
def test_only_half_precision_on_a_gpu(device):
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        x = torch.ones(1, 2, 24, device=device, dtype=dtype)
        half = dtype in (torch.bfloat16, torch.float16)
        assert fused._half_on_gpu(x) == (half and device == "cuda")
        with torch.autocast(device, dtype=torch.bfloat16):
            assert not fused._half_on_gpu(x)


@pytest.mark.gpu
@HALF
@pytest.mark.parametrize("mean, most", [(0.0, 1.05), (-1.0, 1.05), (-2.0, 1.3)])
@torch.no_grad()
def test_gelu(mean, most, dtype):
    """Token by token the epilogue is as near to float64 as the exact GELU of a rounded product."""
    linear = nn.Linear(1024, 4096).cuda()
    nn.init.normal_(linear.weight, std=1 / 32)
    linear.bias.normal_(mean, 0.1)
    linear.to(dtype)
    for scale in (0.1, 1.0, 3.0, 100.0):
        x = (torch.randn(512, 1024, device="cuda") * scale).to(dtype)
        exact = F.gelu(F.linear(x.double(), linear.weight.double(), linear.bias.double()))
        ours = off(fused.linear_gelu(x, linear), exact, 1)
        plain = off(F.gelu(linear(x)), exact, 1)
        assert (ours <= most * plain).all(), (scale, (ours / plain).max())


@pytest.mark.gpu
@HALF
@pytest.mark.parametrize("time", [4, 1])
@torch.no_grad()
def test_gpu(time, dtype):
    """Against float64 at most twice as far off as module by module, in every token."""
    encoder = small(std=1 / 32, channels=1024, depth=6, num_heads=16)
    for name, parameter in encoder.named_parameters():
        if "norm" in name and name.endswith("weight"):
            nn.init.normal_(parameter, 1, 0.2)
    encoder = encoder.cuda().to(dtype)
    frames = clips(9, time).cuda().to(dtype)
    x = torch.ones(1, 2, 1024, device="cuda", dtype=dtype)
    assert fused.fits(x, encoder.encoder.blocks, STOCK)
    exact, exact_metric = copy.deepcopy(encoder).double()(frames, True)
    plain, plain_metric = hooked(encoder)(frames, True)
    tokens, metric = encoder(frames, True)
    chunked = encoder.encode(frames, 4, then=lambda x, _: x)
    for ours in (tokens, encoder(frames), encoder.encode(frames, 4), chunked):
        assert (off(ours, exact, -1) <= 2 * off(plain, exact, -1)).all()
    assert off(metric, exact_metric) <= 2 * off(plain_metric, exact_metric)
    with torch.inference_mode():
        assert torch.equal(encoder(frames), encoder(frames))
