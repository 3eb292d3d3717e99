"""The vision encoder and the connector: published outputs, position tables, loading, chunks."""

import copy
import doctest
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import hico
from hico.model.vision import Connector, VisionEncoder, connector, position_table, positions, umt

GOLDEN = Path(__file__).parents[1] / "golden" / "vit.safetensors"
with safe_open(GOLDEN, "pt") as file:
    CASES = json.loads(file.metadata()["cases"])
NAMES = {c["case"]: "{image_size}-T{num_frames}-{kind}".format(**c) for c in CASES}
RUN = [c for c in CASES if c["kind"] != "positions"]

# reference.md, section 11: total sum, then row, first channel and four values
TABLES = {
    224: (195846.81, {
        (1, 0): (0.841471, 0.540302, 0.831705, 0.555218),
        (783, 510): (0.993029, -0.117872, 0.999712, 0.023979),
    }),
    448: (783323.20, {
        (0, 0): (-0.206373, 1.134673, -0.195741, 1.107111),
        (3135, 510): (0.992188, -0.133942, 1.001112, 0.008235),
    }),
}  # fmt: skip


def golden(case):
    """Frames [B, T, 3, H, W], state dict, tokens [B, T * L, C] and the table of a case."""
    prefix = f"case{case['case']}."
    with safe_open(GOLDEN, "pt") as file:
        held = {n.removeprefix(prefix): file.get_tensor(n) for n in file.keys() if prefix in n}  # noqa: SIM118
    state = {n.removeprefix("state."): t for n, t in held.items() if n.startswith("state.")}
    if not state:
        return None, None, None, held["pos_embed"][0]
    return held["x"].transpose(1, 2), state, held["y"].flatten(1, 2), held["pos_embed"][0]


def small(image_size=32, num_frames=4, seed=0, **sizes):
    """A small encoder whose biases and norms are random too."""
    sizes = {"patch_size": 8, "channels": 24, "depth": 2, "num_heads": 3} | sizes
    torch.manual_seed(seed)
    encoder = VisionEncoder(image_size, num_frames, **sizes)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def clips(batch, time=4, side=32):
    return torch.randn(batch, time, 3, side, side)


@pytest.mark.parametrize("case", RUN, ids=lambda c: NAMES[c["case"]])
def test_golden(case, device):
    return_metric = case["image_size"] == 224 and case["kind"] == "image"
    frames, state, expected, _ = golden(case)
    heads = case["heads"]
    encoder = VisionEncoder.from_published(
        state, image_size=case["image_size"], num_frames=case["num_frames"], num_heads=heads
    ).to(device)
    with torch.no_grad():
        out = encoder(frames.to(device), return_metric)
    tokens, metric = out if return_metric else (out, None)
    torch.testing.assert_close(tokens.cpu(), expected, atol=1e-4, rtol=0)
    if return_metric:
        mean = expected.unflatten(2, (heads, -1)).mean(2)
        torch.testing.assert_close(metric.cpu(), mean, atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", CASES, ids=lambda c: NAMES[c["case"]])
def test_golden_tables(case):
    expected = golden(case)[3]
    table = position_table(case["num_frames"], case["image_size"], 16, case["hidden_size"])
    torch.testing.assert_close(table, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", TABLES)
def test_table_values(size):
    total, rows = TABLES[size]
    table = position_table(4, size, 16, 1024)
    assert table.dtype == torch.float32 and table.shape == (4 * (size // 16) ** 2, 1024)
    assert table.double().sum().item() == pytest.approx(total, abs=0.01)
    for (row, column), values in rows.items():
        expected = torch.tensor(values)
        torch.testing.assert_close(table[row, column : column + 4], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [224, 448])
def test_image_table_is_the_first_frame(size):
    image = position_table(1, size, 16, 64)
    torch.testing.assert_close(image, position_table(4, size, 16, 64)[: len(image)])


def test_table_of_other_lengths():
    """Linear between the four frames, with half-frame offsets; the ends are held."""
    four = position_table(4, 448, 16, 6).view(4, -1, 6)
    eight = position_table(8, 448, 16, 6).view(8, -1, 6)
    two = position_table(2, 448, 16, 6).view(2, -1, 6)
    torch.testing.assert_close(eight[0], four[0])
    torch.testing.assert_close(eight[1], 0.75 * four[0] + 0.25 * four[1])
    torch.testing.assert_close(two[1], (four[2] + four[3]) / 2)


def test_table_of_odd_sizes():
    """At 224 the grid is the image's own; elsewhere it is stretched from 14 x 14."""
    table = position_table(4, 224, 32, 5)
    assert table.shape == (196, 5)
    assert table[3, 4].item() == pytest.approx(torch.tensor(3 / 10000**0.8).sin().item())
    assert position_table(4, 96, 16, 5).shape == (144, 5)


def test_attention_stays_in_a_clip(device):
    encoder = small().to(device)
    frames = clips(3).to(device)
    with torch.no_grad():
        whole = encoder(frames)
        alone = torch.cat([encoder(frames[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("time", [4, 1])
@pytest.mark.parametrize("chunk", [1, 2, 5, 9])
def test_chunks_equal_the_whole(chunk, time, device):
    encoder = small().to(device)
    frames = clips(5, time)
    whole = encoder.encode(frames, chunk=5)
    assert whole.device.type == device and not whole.requires_grad
    out = encoder.encode(frames, chunk=chunk)
    torch.testing.assert_close(out, whole, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(out, encoder(frames.to(device)), atol=1e-5, rtol=1e-5)


def test_encode_and_connect(device):
    encoder, connect = small().to(device), Connector(24, 10, 3, 20).to(device)
    frames = clips(3)
    out = encoder.encode(frames, chunk=2, then=connect)
    tokens, metric = encoder(frames.to(device), return_metric=True)
    merged = hico.merge_tokens(tokens, 20, metric=metric, order="reference").tokens
    assert out.shape == (3, 20, 10)
    torch.testing.assert_close(out, connect.mlp(merged), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out, connect(tokens), atol=1e-4, rtol=1e-4)


def test_no_clips(device):
    encoder = small().to(device)
    assert encoder.encode(clips(0)).shape == (0, 64, 24)
    assert encoder.encode(clips(0), then=Connector(24, 10, 3, 20).to(device)).shape == (0, 20, 10)


def test_connector_is_merge_and_mlp(device):
    connect = Connector(24, 10, 3, 8).to(device)
    x = torch.randn(2, 33, 24, device=device)
    merged = hico.merge_tokens(x, 8, num_heads=3, order="reference")
    assert torch.equal(connect.merge(x).map.assign, merged.map.assign)
    first, second = connect.mlp[0], connect.mlp[2]
    hidden = torch.nn.functional.gelu(merged.tokens @ first.weight.T + first.bias)
    expected = hidden @ second.weight.T + second.bias
    torch.testing.assert_close(connect(x), expected, atol=1e-5, rtol=1e-5)


def test_gradients_reach_every_parameter(device):
    encoder, connect = small().to(device), Connector(24, 10, 3, 8).to(device)
    connect(*encoder(clips(2).to(device), return_metric=True)).square().sum().backward()
    for name, parameter in [*encoder.named_parameters(), *connect.named_parameters()]:
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("time", [4, 1])
@pytest.mark.parametrize("cached", [False, True])
def test_compile(time, cached, device, compiler):
    encoder = small().to(device)
    frames = clips(2, time).to(device)
    positions._tables.clear()
    if cached:
        encoder(frames)
    compiled = torch.compile(encoder, fullgraph=True, backend=compiler)
    with torch.no_grad():
        for return_metric in (False, True):
            out, expected = compiled(frames, return_metric), encoder(frames, return_metric)
            torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    assert compiler.frame_count == 2


def test_built_on_meta(device):
    """Nothing but parameters is needed, and a cast there and back rounds no position."""
    source = small().to(device)
    with torch.device("meta"):
        empty = VisionEncoder(32, 4, patch_size=8, channels=24, depth=2, num_heads=3)
    assert not list(empty.buffers())
    state = source.state_dict()
    assigned = copy.deepcopy(empty)
    assigned.load_state_dict(state, assign=True)
    filled = empty.to_empty(device=device)
    filled.to(torch.bfloat16)(clips(1).to(device))
    filled.float().load_state_dict(state)
    frames = clips(1).to(device)
    positions._tables.clear()
    expected = source(frames)
    assert torch.equal(assigned(frames), expected) and torch.equal(filled(frames), expected)


def test_tables_made_without_gradients_serve_training(device):
    encoder = small().to(device)
    positions._tables.clear()
    with torch.inference_mode(), torch.device(device):
        encoder(clips(1).to(device))
    encoder(clips(1).to(device)).sum().backward()
    assert encoder.encoder.patch_embed.proj.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, device):
    encoder = small().to(device)
    frames = clips(2).to(device)
    expected = encoder(frames)
    half = VisionEncoder.from_published(
        {name: t.to(dtype) for name, t in encoder.state_dict().items()}, 32, 4, 3
    )
    tokens, metric = half(frames, return_metric=True)  # float32 frames
    assert tokens.dtype == dtype and metric.dtype == torch.float32
    torch.testing.assert_close(tokens.float(), expected, atol=0.1, rtol=0.1)


def test_published_names():
    """The names and shapes that reference.md 2.3 and 3.5 list: 303 tensors, 290.48 M."""
    with torch.device("meta"):
        encoder, connect = VisionEncoder(), Connector(1024, 3584)
    shapes = {name: tuple(t.shape) for name, t in encoder.state_dict().items()}
    assert len(shapes) == 303 and sum(p.numel() for p in encoder.parameters()) == 290_479_104
    assert shapes["encoder.patch_embed.proj.weight"] == (1024, 3, 1, 16, 16)
    assert shapes["encoder.blocks.22.attn.qkv.weight"] == (3072, 1024)
    assert shapes["encoder.blocks.22.attn.q_bias"] == (1024,)
    assert shapes["encoder.vision_layernorm.bias"] == (1024,)
    assert encoder.encoder.vision_layernorm.eps == 1e-12
    assert {n: tuple(t.shape) for n, t in connect.state_dict().items()} == {
        "mlp.0.weight": (3584, 1024), "mlp.0.bias": (3584,),
        "mlp.2.weight": (3584, 3584), "mlp.2.bias": (3584,),
    }  # fmt: skip


@pytest.mark.parametrize("depth", [3, 23, 24])
def test_pretraining_file(depth):
    """The last norm has another name, there are other parts, and block 23 is not used."""
    state = small(depth=depth, channels=6).state_dict()
    raw = {name.replace("vision_layernorm", "norm"): t for name, t in state.items()}
    raw["temp"] = torch.ones(())
    encoder = VisionEncoder.from_published(raw, 32, 4, 3)
    assert len(encoder.encoder.blocks) == min(depth, 23)
    named = VisionEncoder.from_published(state, 32, 4, 3)
    assert len(named.encoder.blocks) == depth
    for name, parameter in encoder.state_dict().items():
        assert torch.equal(parameter, state[name])


def test_loaded_parameters_are_copies():
    state = small().state_dict()
    encoder = VisionEncoder.from_published(state, 32, 4, 3)
    bias = encoder.encoder.blocks[0].attn.q_bias
    assert (
        bias.requires_grad and bias.data_ptr() != state["encoder.blocks.0.attn.q_bias"].data_ptr()
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda s: s.clear(), "expected a state dict with encoder.patch_embed.proj.weight"),
        (lambda s: s.pop("encoder.blocks.0.attn.q_bias"), "missing: encoder.blocks.0.attn.q_bias$"),
        (lambda s: s.update({"encoder.x": torch.ones(1)}), "unknown: encoder.x$"),
        (
            lambda s: s.update({"encoder.blocks.1.norm1.bias": torch.ones(5)}),
            r"shape: encoder.blocks.1.norm1.bias \[5\], expected \[24\]",
        ),
        (
            lambda s: [s.pop(n) for n in list(s) if "blocks.0.attn" in n or "layernorm" in n],
            "missing: .*q_bias.* and 4 more",
        ),
        (
            lambda s: s.update({"encoder.patch_embed.proj.weight": torch.ones(24, 192)}),
            "with 5 dimensions",
        ),
        (
            lambda s: s.update({"encoder.patch_embed.proj.weight": torch.ones(24, 3, 2, 8, 8)}),
            r"shape: encoder.patch_embed.proj.weight \[24, 3, 2, 8, 8\]",
        ),
        (
            lambda s: s.update({"encoder.blocks.1.norm1.bias": torch.ones(24, dtype=torch.int8)}),
            "not floating: encoder.blocks.1.norm1.bias",
        ),
    ],
)
def test_wrong_state(change, message):
    state = dict(small().state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        VisionEncoder.from_published(state, 32, 4, 3)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"image_size": 30}, "image_size: expected a multiple of patch_size 8, got 30"),
        ({"image_size": 0}, "1 <= image_size"),
        ({"num_frames": 2.0}, "num_frames: expected an integer"),
        ({"num_heads": 5}, "divisor of 24"),
    ],
)
def test_wrong_sizes(sizes, message):
    with pytest.raises(ValueError, match=message):
        small(**sizes)
    with pytest.raises(ValueError, match=message):
        sizes = {"image_size": 32, "num_frames": 4, "num_heads": 3} | sizes
        VisionEncoder.from_published(small().state_dict(), **sizes)


@pytest.mark.parametrize(
    "frames",
    [None, clips(1, 3), clips(1)[0], clips(1, side=40), clips(1).int(), clips(1).transpose(1, 2)],
    ids=["none", "length", "no-batch", "side", "integers", "channels-first"],
)
def test_wrong_frames(frames):
    encoder = small()
    with pytest.raises(ValueError, match="frames: expected"):
        encoder(frames)
    with pytest.raises(ValueError, match="frames: expected"):
        encoder.encode(frames)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="1 <= chunk"):
        small().encode(clips(1), chunk=0)
    connect = Connector(24, 10, 3, 8)
    for x in (torch.ones(2, 24), torch.ones(2, 9, 12), torch.ones(2, 7, 24)):
        with pytest.raises(ValueError, match="x: expected"):
            connect(x)
    with pytest.raises(ValueError, match="metric: expected"):
        connect(torch.ones(2, 9, 24), torch.ones(2, 8, 8))
    with pytest.raises(ValueError, match="tokens_per_clip"):
        Connector(24, 10, 3, 0)
    state = connect.state_dict()
    with pytest.raises(ValueError, match="Connector: .* missing: mlp.2.bias"):
        Connector.from_published({n: t for n, t in state.items() if n != "mlp.2.bias"}, 3)
    with pytest.raises(ValueError, match="Connector: expected a state dict with mlp.0.weight"):
        Connector.from_published({}, 3)


@pytest.mark.parametrize("module", [positions, umt, connector])
def test_docstrings(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed
