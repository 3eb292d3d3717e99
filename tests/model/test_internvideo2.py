"""InternVideo2 against its arithmetic written out in float64; names, loading, training."""

import doctest

import pytest
import torch

import hico
from hico.model.vision import Connector, InternVideo2Encoder, internvideo2


def small(image_size=28, num_frames=4, seed=0, **sizes):
    """A small encoder whose biases, norms, scales and class token are random too."""
    sizes = {"patch_size": 7, "channels": 24, "depth": 3, "num_heads": 3} | sizes
    torch.manual_seed(seed)
    encoder = InternVideo2Encoder(image_size, num_frames, **sizes)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return encoder


def clips(batch, time=4, side=28):
    return torch.randn(batch, time, 3, side, side)


def rms(x, weight):
    return weight * x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt()


def linear(x, s, name):
    y = x @ s[f"{name}.weight"].T
    return y + s[f"{name}.bias"] if f"{name}.bias" in s else y


def plain(state, frames, heads, patch):
    """reference.md 2.4 for one clip [T, 3, S, S], patch by patch and head by head, in float64."""
    s = {name: t.double() for name, t in state.items()}
    depth = sum(name.endswith("norm1.weight") for name in s)
    side = frames.shape[-1]
    corners = [(y, x) for y in range(0, side, patch) for x in range(0, side, patch)]
    kernel, bias = s["patch_embed.proj.weight"][:, :, 0], s["patch_embed.proj.bias"]
    rows = [s["cls_token"][0, 0]]
    for frame in frames.double():
        for y, x in corners:
            cut = frame[:, y : y + patch, x : x + patch]
            rows.append((kernel * cut).sum((1, 2, 3)) + bias)
    x = torch.stack(rows) + s["img_pos_embed" if len(frames) == 1 else "pos_embed"][0]
    for i in range(depth):
        b = {n.removeprefix(f"blocks.{i}."): t for n, t in s.items() if f"blocks.{i}." in n}
        q, k, v = linear(rms(x, b["norm1.weight"]), b, "attn.qkv").split(x.shape[1], dim=1)
        q, k = rms(q, b["attn.q_norm.weight"]), rms(k, b["attn.k_norm.weight"])
        parts = zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True)
        out = [(a @ c.T / a.shape[1] ** 0.5).softmax(1) @ d for a, c, d in parts]
        x = x + b["ls1.weight"] * linear(torch.cat(out, 1), b, "attn.proj")
        hidden = linear(rms(x, b["norm2.weight"]), b, "mlp.fc1")
        hidden = hidden * (1 + torch.erf(hidden / 2**0.5)) / 2
        x = x + b["ls2.weight"] * linear(hidden, b, "mlp.fc2")
    return x[1:]


@pytest.mark.parametrize("time", [4, 1])
@pytest.mark.parametrize(
    "sizes",
    [{}, {"num_heads": 1, "depth": 1, "patch_size": 14}, {"channels": 22, "num_heads": 11}],
    ids=["small", "one-head", "odd-heads"],
)
def test_published_arithmetic(sizes, time, device):
    encoder = small(**sizes).to(device)
    frames = clips(2, time)
    tokens, metric = encoder(frames.to(device), return_metric=True)
    state = {name: t.cpu() for name, t in encoder.state_dict().items()}
    heads = encoder.num_heads
    expected = torch.stack([plain(state, clip, heads, encoder.patch_size) for clip in frames])
    torch.testing.assert_close(tokens.cpu().double(), expected, atol=2e-5, rtol=2e-5)
    mean = expected.unflatten(2, (heads, -1)).mean(2)
    assert metric.dtype == torch.float32 and not metric.requires_grad
    torch.testing.assert_close(metric.cpu().double(), mean, atol=2e-5, rtol=2e-5)


def test_double(device):
    encoder = small().double().to(device)
    tokens, metric = encoder(clips(1).to(device), return_metric=True)
    assert tokens.dtype == metric.dtype == torch.float64


def test_published_names(monkeypatch):
    """The names and shapes that reference.md 2.4 lists: 512 tensors, 987.3 M."""
    # the session's own torch.empty is unknown to torch.device: a billion values would be drawn
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda self: None)
    with torch.device("meta"):
        encoder = InternVideo2Encoder()
    shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    assert len(shapes) == 512
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == 987.3
    block = {n.removeprefix("blocks.38."): s for n, s in shapes.items() if "blocks.38." in n}
    assert block == {
        "norm1.weight": (1408,), "attn.qkv.weight": (4224, 1408),
        "attn.q_norm.weight": (1408,), "attn.k_norm.weight": (1408,),
        "attn.proj.weight": (1408, 1408), "attn.proj.bias": (1408,), "ls1.weight": (1408,),
        "norm2.weight": (1408,), "mlp.fc1.weight": (6144, 1408), "mlp.fc1.bias": (6144,),
        "mlp.fc2.weight": (1408, 6144), "mlp.fc2.bias": (1408,), "ls2.weight": (1408,),
    }  # fmt: skip
    assert {n: s for n, s in shapes.items() if "blocks." not in n} == {
        "cls_token": (1, 1, 1408), "pos_embed": (1, 1025, 1408), "img_pos_embed": (1, 257, 1408),
        "patch_embed.proj.weight": (1408, 3, 1, 14, 14), "patch_embed.proj.bias": (1408,),
    }  # fmt: skip


def test_layer_scales_start_small():
    encoder = InternVideo2Encoder(28, 4, 7, 24, 1, 3)
    assert torch.equal(encoder.blocks[0].ls2.weight, torch.full((24,), 1e-5))


@pytest.mark.parametrize("time", [4, 1])
def test_encode_and_connect(time, device):
    encoder, connect = small().to(device), Connector(24, 10, 3, 8).to(device)
    frames = clips(5, time)
    tokens, metric = encoder(frames.to(device), return_metric=True)
    torch.testing.assert_close(encoder.encode(frames, 2), tokens, atol=1e-5, rtol=1e-5)
    merged = hico.merge_tokens(tokens, 8, metric=metric, order="reference").tokens
    out = encoder.encode(frames, chunk=2, then=connect)
    torch.testing.assert_close(out, connect.mlp(merged), atol=1e-4, rtol=1e-4)
    assert encoder.encode(clips(0, time)).shape == (0, time * 16, 24)


@pytest.mark.parametrize("time", [4, 1])
def test_compile(time, device, compiler):
    encoder = small().to(device)
    frames = clips(2, time).to(device)
    compiled = torch.compile(encoder, fullgraph=True, backend=compiler)
    with torch.no_grad():
        for return_metric in (False, True):
            out, expected = compiled(frames, return_metric), encoder(frames, return_metric)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert compiler.frame_count == 2


@pytest.mark.parametrize("depth", [2, 39, 40])
def test_loading(depth):
    """Other parts of a file are left aside, and block 39 of the published one is not used."""
    state = small(depth=depth, channels=6).state_dict()
    raw = state | {"clip_projector.weight": torch.ones(2), "fc_norm.weight": torch.ones(2)}
    encoder = InternVideo2Encoder.from_published(raw, 28, 4, 3)
    assert len(encoder.blocks) == min(depth, 39)
    for name, parameter in encoder.state_dict().items():
        assert torch.equal(parameter, state[name])
        assert parameter.data_ptr() != state[name].data_ptr()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.clear(), "expected a state dict with patch_embed.proj.weight"),
        (lambda s: s.pop("cls_token"), "missing: cls_token$"),
        (lambda s: s.update({"blocks.0.x": torch.ones(1)}), "unknown: blocks.0.x$"),
        (
            lambda s: s.update({"pos_embed": torch.ones(1, 9, 24)}),
            r"shape: pos_embed \[1, 9, 24\], expected \[1, 65, 24\]",
        ),
    ],
)
def test_wrong_state(change, message):
    state = dict(small().state_dict())
    change(state)
    with pytest.raises(ValueError, match=f"InternVideo2Encoder: .*{message}"):
        InternVideo2Encoder.from_published(state, 28, 4, 3)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"image_size": 30}, "image_size: expected a multiple of patch_size 7, got 30"),
        ({"num_heads": 5}, "divisor of 24"),
        ({"drop_path": 1.0}, r"drop_path: expected a number in \[0, 1\), got 1.0"),
        ({"drop_path": None}, "drop_path: expected a number"),
    ],
)
def test_wrong_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)


@pytest.mark.parametrize("frames", [None, clips(1, 3), clips(1)[0], clips(1).int()])
def test_wrong_frames(frames):
    with pytest.raises(ValueError, match="frames: expected"):
        small()(frames)


def test_drop_path_in_training_only(device):
    """A clip keeps both branches of a block, scaled, or loses them; the first block never does."""
    encoder = small(depth=3, drop_path=0.5).to(device)
    assert [block.drop_path for block in encoder.blocks] == [0, 0.25, 0.5]
    frames = clips(1).to(device)
    with torch.no_grad():
        x = torch.randn(400, 2, 24, device=device)
        out = encoder.blocks[2]._drop(x)
        kept = (out != 0).all((1, 2))
        assert torch.equal(out[kept], x[kept] * 2) and not out[~kept].any()
        assert 140 < kept.sum() < 260
        assert torch.equal(encoder.blocks[0]._drop(x), x)
        encoder.eval()
        assert torch.equal(encoder.blocks[2]._drop(x), x)
        expected = InternVideo2Encoder.from_published(encoder.state_dict(), 28, 4, 3)(frames)
        torch.testing.assert_close(encoder(frames), expected)


@pytest.mark.parametrize("drop_path", [0.0, 0.5])
def test_gradient_checkpointing(drop_path, device):
    """Equal gradients, with the same clips dropped in both passes of a block."""
    encoder = small(drop_path=drop_path).to(device)
    frames, grads = clips(3).to(device), []
    for encoder.gradient_checkpointing in (False, True):
        torch.manual_seed(1)
        encoder.zero_grad()
        encoder(frames).square().sum().backward()
        grads.append({name: p.grad for name, p in encoder.named_parameters()})
    assert grads[0].pop("img_pos_embed") is None and grads[1].pop("img_pos_embed") is None
    for name, grad in grads[0].items():
        assert grad.abs().sum() > 0, name
        torch.testing.assert_close(grads[1][name], grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, device):
    encoder = small().to(device)
    frames = clips(2).to(device)
    expected = encoder(frames)
    tokens, metric = encoder.to(dtype)(frames, return_metric=True)  # float32 frames
    assert tokens.dtype == dtype and metric.dtype == torch.float32
    assert (tokens - expected).norm() < 0.02 * expected.norm()


def test_docstrings():
    result = doctest.testmod(internvideo2)
    assert result.attempted and not result.failed
