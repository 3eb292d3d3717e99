"""hico.ops.project.norm_project against RMSNorm and Linear, and everything that an op promises."""

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.nn.functional import linear, rms_norm

from hico.ops.project import norm_project
from hico.testing import assert_tokens_close

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = [
    pytest.param(*s, id="B{}-N{}-C{}-O{}".format(*s))
    for s in [(2, 7, 12, 6), (1, 1, 1, 1), (2, 130, 64, 32), (1, 3, 300, 20), (1, 150, 200, 300)]
]


def inputs(batch, n, c, out, dtype, device, bias=True):
    x = torch.randn(batch, n, c, device=device) * 3
    norm, b = 1 + torch.randn(c, device=device) / 4, torch.randn(out, device=device)
    weight = torch.randn(out, c, device=device) / c**0.5
    return [t.to(dtype) for t in (x, norm, weight)] + [b.to(dtype) if bias else None]


def plain(x, norm_weight, weight, bias, eps):
    """What a transformers layer computes: rounded before and after the norm's weight."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    unit = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return linear(norm_weight * unit.to(x.dtype), weight, bias)


def exact(x, norm_weight, weight, bias, eps):
    x, norm_weight, weight = (t.double() for t in (x, norm_weight, weight))
    normed = rms_norm(x, x.shape[-1:], norm_weight, eps)
    return linear(normed, weight, None if bias is None else bias.double())


def check(x, norm_weight, weight, bias, eps=1e-6, whole=False):
    """Within twice plain PyTorch's error, of every token or of the `whole` tensor."""
    args = (x, norm_weight, weight, bias, eps)
    y = norm_project(*args)
    assert y.dtype == x.dtype and y.is_contiguous() and not y.requires_grad
    # fp32 loses what it sums in another order: by how much depends on the length of the sum
    floor = 4.0 if x.dtype in (torch.float16, torch.bfloat16) else 8.0
    both = y, exact(*args), plain(*args)
    assert_tokens_close(*(t.reshape(1, -1) if whole else t for t in both), floor=floor)
    return y


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, c, out", SHAPES)
def test_fwd(batch, n, c, out, dtype, bias, device):
    check(*inputs(batch, n, c, out, dtype, device, bias))


def test_brute_force(device):
    x, norm, weight, bias = inputs(1, 3, 5, 2, torch.float64, device)
    y = norm_project(x, norm, weight, bias, 1e-3)
    for n in range(3):
        row = x[0, n].tolist()
        rms = (sum(v * v for v in row) / 5 + 1e-3) ** 0.5
        for o in range(2):
            terms = zip(row, norm.tolist(), weight[o].tolist(), strict=True)
            want = sum(v / rms * a * w for v, a, w in terms) + float(bias[o])
            assert abs(float(y[0, n, o]) - want) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial(dtype, device):
    x, norm, weight, bias = inputs(1, 9, 64, 16, dtype, device)
    x[0, 0], x[0, 1, 3], x[0, 2, 5], x[0, 3, 6] = 0, torch.nan, torch.inf, -torch.inf
    x[0, 4] *= 1e-3  # next to nothing beside eps
    x[0, 5, 7] = 3e4  # one channel dwarfs the rest, as in many decoders
    y = norm_project(x, norm, weight, bias)
    assert torch.equal(y[0, 0], bias)
    assert torch.isnan(y[0, 1:4]).all()
    check(x[:, 4:], norm, weight, bias)
    assert torch.equal(norm_project(x[:, 4:], norm, weight, bias), y[:, 4:])


@pytest.mark.parametrize("size", [1e-4, 1e-2, 10.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_small_and_large_weights(dtype, size, device):
    """Products of weights that fp16 could not hold."""
    x, norm, weight, bias = inputs(1, 20, 64, 16, dtype, device)
    norm[::3] *= size
    weight[1::3] *= size
    weight[0] = 0
    check(x, norm, weight, bias)
    check(x, norm * size, weight, None)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("c, out", [(64, 64), (60, 20)])
def test_lengths(dtype, c, out, device):
    """Padding comes out zero, whatever it holds; the rest is what it is alone."""
    x, norm, weight, bias = inputs(4, 300, c, out, dtype, device)
    lengths = torch.tensor([300, 129, 0, 1], device=device)
    for b, length in enumerate(lengths.tolist()):
        x[b, length:] = torch.nan
    y = norm_project(x, norm, weight, bias, lengths=lengths)
    for b, length in enumerate(lengths.tolist()):
        assert torch.equal(y[b, length:], torch.zeros_like(y[b, length:]))
        args = (x[b : b + 1, :length], norm, weight, bias, 1e-6)
        if length:
            floor = 4.0 if dtype in (torch.float16, torch.bfloat16) else 8.0
            assert_tokens_close(y[b : b + 1, :length], exact(*args), plain(*args), floor=floor)


def test_mixed_dtypes(device):
    """A norm kept in fp32 beside half-precision weights."""
    x, norm, weight, bias = inputs(1, 20, 64, 16, torch.float16, device)
    y = norm_project(x, norm.float(), weight, bias.float())
    assert torch.equal(y, norm_project(x, norm, weight, bias))


def test_repeat_is_bitwise(device):
    args = inputs(2, 40, 64, 16, torch.bfloat16, device)
    assert torch.equal(norm_project(*args), norm_project(*args))


def test_empty(device):
    for batch, n, out in ((0, 5, 4), (2, 0, 4), (2, 5, 0)):
        args = inputs(batch, n, 8, out, torch.float32, device)
        assert norm_project(*args).shape == (batch, n, out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_noncontiguous(dtype, device):
    x, norm, weight, bias = inputs(2, 30, 64, 16, dtype, device)
    want = norm_project(x, norm, weight, bias)
    wide = torch.full((4, 40, 67), torch.nan, dtype=dtype, device=device)
    wide[::2, 5:35, 1:65] = x
    turned, two = x.mT.contiguous().mT, torch.stack((norm, norm), 1)
    for view in (wide[::2, 5:35, 1:65], turned, x.transpose(0, 1).contiguous().transpose(0, 1)):
        got = norm_project(view, two[:, 1], weight.T.contiguous().T, bias)
        torch.testing.assert_close(got, want)
    got = norm_project(x[:1, :1].expand(2, 3, 64), norm, weight, bias)
    torch.testing.assert_close(got, want[:1, :1].expand(2, 3, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(dtype, device):
    x, norm, weight, bias = inputs(2, 5, 12, 4, dtype, device)
    op = torch.ops.hico.norm_project.default
    torch.library.opcheck(op, (x, norm, weight, bias, 1e-6, None))
    torch.library.opcheck(op, (x.mT.contiguous().mT, norm, weight, None, 1e-6, None))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x, norm, weight):
        return norm_project(x * 1, norm, weight) * 2

    for n in (5, 8, 13):
        x, norm, weight, _ = inputs(2, n, 16, 4, torch.float32, device)
        assert torch.equal(run(x, norm, weight), norm_project(x, norm, weight) * 2)
    # the first length is traced twice: dynamo takes eps for a variable, then starts over
    assert compiler.frame_count <= 2


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_model_sizes(dtype, device):
    """Tiles in flight for thousands of steps: what is copied too early shows up here."""
    args = inputs(1, 40000, 3584, 512, dtype, device)
    # of 40,000 fp32 tokens a few are lucky in one order of their sum and not in the other
    y = check(*args, whole=dtype == torch.float32)
    for _ in range(3):
        assert torch.equal(norm_project(*args), y)


@pytest.mark.gpu
def test_cuda_graph(device):
    args = inputs(2, 300, 1024, 256, torch.bfloat16, device)
    other = torch.randn_like(args[0])
    out = replay(lambda: norm_project(*args), lambda: args[0].copy_(other))
    assert torch.equal(out, norm_project(*args))


@pytest.mark.gpu
def test_no_synchronisation(device):
    args = inputs(2, 300, 1024, 256, torch.bfloat16, device)
    want = norm_project(*args)
    torch.cuda.set_sync_debug_mode("error")
    try:
        got = norm_project(*args)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(got, want)


@pytest.mark.gpu
def test_no_recompile(device):
    _, norm, weight, bias = inputs(1, 1, 1024, 256, torch.bfloat16, device)
    x = torch.randn(3, 5000, 1024, device=device, dtype=torch.bfloat16)
    norm_project(x[:, :100], norm, weight, bias)
    before = compiled()
    for view in (x[:1, :1], x[1:, 7:], x[:, :16], x.flatten(0, 1)[None]):
        norm_project(view, norm, weight, bias)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets(device):
    x = many_rows(64, 1024)
    _, norm, weight, bias = inputs(1, 1, 1024, 32, torch.bfloat16, device)
    y = norm_project(x, norm, weight, bias)
    for part in some_rows(len(x)):
        assert torch.equal(y[part], norm_project(x[part].clone(), norm, weight, bias))


def test_bad_input():
    x, norm, weight = torch.ones(2, 5, 12), torch.ones(12), torch.ones(4, 12)
    for message, call in {
        r"x: expected .* got \[5, 12\]": lambda: norm_project(x[0], norm, weight),
        "x: expected .* got torch.int64": lambda: norm_project(x.long(), norm, weight),
        r"norm_weight: expected .*\[12\], got \[11\]": lambda: norm_project(x, norm[1:], weight),
        r"weight: expected \[O, 12\], got \[4, 11\]": lambda: norm_project(x, norm, weight[:, 1:]),
        "weight: expected .* got NoneType": lambda: norm_project(x, norm, None),
        "weight: expected torch.float32 .* got torch.float16": lambda: norm_project(
            x, norm, weight.half()
        ),
        r"bias: expected .*\[4\], got \[12\]": lambda: norm_project(x, norm, weight, norm),
        "eps: expected .* got -1": lambda: norm_project(x, norm, weight, None, -1.0),
        "eps: expected .* got True": lambda: norm_project(x, norm, weight, None, True),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
