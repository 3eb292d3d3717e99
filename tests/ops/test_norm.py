"""hico.layer_norm_metric against torch's LayerNorm, and everything that an op promises."""

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.nn.functional import layer_norm
from torch.utils.checkpoint import checkpoint

import hico
from hico.testing import assert_tokens_close

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = [
    pytest.param(*s, shifted, id="B{}-N{}-C{}-H{}".format(*s) + "-shift" * shifted)
    for s, shifted in [
        ((2, 7, 12, 3), False),
        ((1, 1, 1, 1), True),
        ((2, 5, 60, 4), True),
        ((1, 3, 1408, 16), False),
        ((3, 9, 7, 7), True),
    ]
]


def inputs(batch, n, c, dtype, device, affine=True):
    x = (torch.randn(batch, n, c, device=device) * 2 + 1).to(dtype).requires_grad_()
    weight, bias = (
        torch.randn(c, device=device).to(dtype).requires_grad_() if affine else None for _ in "wb"
    )
    return x, weight, bias


def shifts(c, dtype, device):
    """What is added first, as large as the tokens, wider than a half-precision x."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return (torch.randn(c, device=device, dtype=wide) * 2).requires_grad_()


def shifted_norm(x, weight, bias, shift):
    """torch's LayerNorm of x + shift, which is not rounded to x's type."""
    if shift is None:
        return layer_norm(x, x.shape[-1:], weight, bias, eps=1e-6)
    weight, bias = (None if t is None else t.to(shift.dtype) for t in (weight, bias))
    return layer_norm(x + shift, x.shape[-1:], weight, bias, eps=1e-6)


def double(*tensors):
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, c, heads, shifted", SHAPES)
def test_fwd_bwd(batch, n, c, heads, shifted, dtype, affine, device):
    x, weight, bias = inputs(batch, n, c, dtype, device, affine)
    shift = shifts(c, dtype, device) if shifted else None
    y, metric = hico.layer_norm_metric(x, weight, bias, 1e-6, heads, shift)
    wide = double(x, weight, bias, shift)
    exact = shifted_norm(*wide)
    plain = shifted_norm(x, weight, bias, shift).to(dtype)
    assert y.dtype == dtype and not metric.requires_grad
    assert_tokens_close(y, exact, plain)

    kind = torch.float64 if dtype == torch.float64 else torch.float32
    want = y.detach().double().unflatten(-1, (heads, -1)).mean(2)  # of the rounded y, whatever y is
    assert metric.dtype == kind and metric.shape == (batch, n, c // heads)
    # heads may cancel, so the rounding is that of what is summed
    assert (metric - want).abs().max() <= 4 * torch.finfo(kind).eps * y.abs().max()

    dout = torch.randn(batch, n, c, device=device).to(dtype)
    leaves = [t for t in (x, weight, bias, shift) if t is not None]
    got = torch.autograd.grad(y, leaves, dout)
    same = torch.autograd.grad(plain, leaves, dout)
    true = torch.autograd.grad(exact, [t for t in wide if t is not None], dout.double())
    for ours, theirs, want in zip(got, same, true, strict=True):
        assert ours.dtype == theirs.dtype
        scale = max(want.abs().max(), dout.abs().max() if c == 1 else 0)  # c = 1: the gradient is 0
        budget = 2 * (theirs - want).abs().max() + 8 * torch.finfo(dtype).eps * scale
        assert (ours - want).abs().max() <= budget


@pytest.mark.parametrize("dtype", DTYPES)
def test_shift_of_any_type(dtype, device):
    """The norm of the sum in fp32, whatever the shift's own type and strides."""
    x, weight, bias = (None if t is None else t.detach() for t in inputs(2, 7, 12, dtype, device))
    for shift in (shifts(12, dtype, device).detach(), weight, torch.arange(12, device=device)):
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        summed = x.to(wide) + shift
        want, _ = hico.layer_norm_metric(summed, weight, bias, 1e-6, 12)
        spread = torch.stack([shift, shift], 1)[:, 0]
        y, metric = hico.layer_norm_metric(x, weight, bias, 1e-6, 12, shift=spread)
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(y, want.to(dtype), rtol=eps, atol=eps)
        assert metric.shape == (2, 7, 1)


def test_only_the_shift_learns(device):
    x, weight, bias = (t.detach() for t in inputs(2, 7, 12, torch.float32, device))
    shift = shifts(12, torch.float32, device)
    y, _ = hico.layer_norm_metric(x, weight, bias, 1e-6, 3, shift)
    want = shifted_norm(x, weight, bias, shift)
    grads = [torch.autograd.grad(out.square().sum(), shift)[0] for out in (y, want)]
    torch.testing.assert_close(*grads)


def test_mixed_dtypes(device):
    """fp32 parameters on bf16 tokens, as under mixed precision."""
    x, _, _ = inputs(2, 7, 12, torch.bfloat16, device)
    weight, bias = (torch.randn(12, device=device, requires_grad=True) for _ in "wb")
    y, _ = hico.layer_norm_metric(x, weight, bias, 1e-5, 3)
    exact = layer_norm(*double(x)[:1], (12,), *double(weight, bias))
    assert_tokens_close(y, exact, exact.bfloat16())
    grads = torch.autograd.grad(y.float().square().sum(), (x, weight, bias))
    assert [g.dtype for g in grads] == [torch.bfloat16, torch.float32, torch.float32]
    y, _ = hico.layer_norm_metric(x, weight, None)
    (grad,) = torch.autograd.grad(y.float().sum(), weight)
    assert grad.shape == (12,)


def test_feeds_merge_tokens(device):
    x, weight, bias = inputs(2, 30, 24, torch.float32, device)
    y, metric = hico.layer_norm_metric(x, weight, bias, 1e-6, 4)
    given, made = hico.merge_tokens(y, 8, metric=metric), hico.merge_tokens(y, 8, num_heads=4)
    assert torch.equal(given.map.assign, made.map.assign)
    assert torch.equal(given.tokens, made.tokens)
    (grad,) = torch.autograd.grad(given.tokens.square().sum(), x)
    assert torch.isfinite(grad).all()


def test_repeat_is_bitwise(device):
    x, weight, bias = inputs(2, 40, 64, torch.float32, device)
    runs = []
    for _ in range(2):
        y, metric = hico.layer_norm_metric(x, weight, bias, 1e-6, 4)
        runs.append((y, metric, torch.autograd.grad(y.square().sum(), x)[0]))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial(dtype, device):
    x = torch.randn(1, 6, 8, device=device).to(dtype)
    x[0, 0], x[0, 1], x[0, 2, 3], x[0, 3, 1] = 0, 7, torch.nan, torch.inf
    y, metric = hico.layer_norm_metric(x, num_heads=2)
    assert y[0, :2].eq(0).all() and metric[0, :2].eq(0).all()  # no variance
    assert torch.isnan(y[0, 2:4]).all() and torch.isnan(metric[0, 2:4]).all()
    want, alone = hico.layer_norm_metric(x[:, 4:].contiguous(), num_heads=2)
    assert torch.equal(y[:, 4:], want) and torch.equal(metric[:, 4:], alone)
    if dtype == torch.float64:
        return  # nothing here is more exact than float64
    far = (1000 + torch.randn(1, 4, 64, device=device)).to(dtype)  # the mean dwarfs the deviations
    y, _ = hico.layer_norm_metric(far)
    exact = layer_norm(far.double(), (64,))
    assert_tokens_close(y, exact, layer_norm(far, (64,)))


def test_empty(device):
    for batch, n in ((0, 5), (2, 0)):
        x, weight, bias = inputs(batch, n, 6, torch.float32, device)
        y, metric = hico.layer_norm_metric(x, weight, bias, num_heads=3)
        assert y.shape == (batch, n, 6) and metric.shape == (batch, n, 2)
        y.sum().backward()
        assert x.grad.shape == x.shape and weight.grad.eq(0).all() and bias.grad.eq(0).all()


def test_noncontiguous(device):
    x, weight, bias = inputs(2, 5, 12, torch.float32, device)
    want = hico.layer_norm_metric(x, weight, bias, 1e-6, 3)
    spread = torch.full((2, 5, 3, 14), torch.nan, device=device)
    spread[:, :, 1, 2:] = x.detach()
    stride2 = torch.stack([weight, bias], 1).detach()
    for view in (x.detach().mT.contiguous().mT, spread[:, :, 1, 2:]):
        view = view.detach().requires_grad_()
        got = hico.layer_norm_metric(view, stride2[:, 0], stride2[:, 1], 1e-6, 3)
        for ours, plain in zip(got, want, strict=True):
            torch.testing.assert_close(ours, plain)
        grad = torch.autograd.grad(got[0].mT.square().sum(), view)[0]
        plain = torch.autograd.grad(want[0].mT.square().sum(), x, retain_graph=True)[0]
        torch.testing.assert_close(grad, plain)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_opcheck(dtype, device):
    x, weight, bias = inputs(2, 5, 12, dtype, device)
    op = torch.ops.hico.layer_norm_metric.default
    torch.library.opcheck(op, (x, weight, bias, 1e-6, 3, None))
    torch.library.opcheck(op, (x, weight, bias, 1e-6, 12, shifts(12, dtype, device)))
    torch.library.opcheck(op, (x, None, None, 1e-6, 1, None))
    turned = x.detach().mT.contiguous().mT.requires_grad_()
    torch.library.opcheck(op, (turned, weight, bias, 1e-6, 3, None))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x, weight):
        y, metric = hico.layer_norm_metric(x * 1, weight, num_heads=3, shift=weight * 2)
        return y * 2, metric * 2

    for n in (5, 8, 13):
        x, weight, _ = inputs(2, n, 12, torch.float32, device)
        y, metric = run(x, weight)
        want = hico.layer_norm_metric(x, weight, num_heads=3, shift=weight * 2)
        assert torch.equal(y, want[0] * 2) and torch.equal(metric, want[1] * 2)
        got = torch.autograd.grad(y.square().sum(), (x, weight))
        plain = torch.autograd.grad((want[0] * 2).square().sum(), (x, weight))
        torch.testing.assert_close(got, plain)
        # the first length is traced twice: dynamo takes eps for a variable, then starts over
        assert compiler.frame_count <= 2


def test_gradcheck(device):
    x, weight, bias = inputs(1, 3, 6, torch.float64, device)
    run = lambda *args: hico.layer_norm_metric(*args, 1e-3, 2)[0]  # noqa: E731
    assert torch.autograd.gradcheck(run, (x, weight, bias))
    shifted = lambda x, s: hico.layer_norm_metric(x, weight, None, 1e-3, 2, s)[0]  # noqa: E731
    assert torch.autograd.gradcheck(shifted, (x, shifts(6, torch.float64, device)))
    assert torch.autograd.gradcheck(lambda x: run(x, None, None), x)
    assert torch.autograd.gradcheck(lambda w: run(x.detach(), w, None), weight)


def test_checkpoint(device):
    x, weight, bias = inputs(2, 5, 12, torch.float32, device)

    def loss(x):
        return hico.layer_norm_metric(x.sin(), weight, bias, 1e-6, 3)[0].square().sum()

    want = torch.autograd.grad(loss(x), (x, weight, bias))
    got = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), (x, weight, bias))
    for ours, plain in zip(got, want, strict=True):
        assert torch.equal(ours, plain)


@pytest.mark.gpu
def test_cuda_graph(device):
    x, weight, bias = inputs(2, 300, 1024, torch.bfloat16, device)
    other = torch.randn_like(x)

    def run():
        y, metric = hico.layer_norm_metric(x, weight, bias, 1e-6, 16)
        return y, metric, torch.autograd.grad(y, x, y)[0]

    outs = replay(run, lambda: x.data.copy_(other))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, n, eps):
        x, weight, bias = inputs(batch, n, 1024, torch.bfloat16, device)
        hico.layer_norm_metric(x, weight, bias, eps, 16)

    run(2, 100, 1e-6)
    before = compiled()
    for shape in ((1, 1, 1e-6), (3, 17, 1e-5), (64, 784, 1.0)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets(device):
    x = many_rows(64, 1024)
    y, metric = hico.layer_norm_metric(x, num_heads=16)
    for part in some_rows(len(x)):
        want = hico.layer_norm_metric(x[part].clone(), num_heads=16)
        assert torch.equal(y[part], want[0]) and torch.equal(metric[part], want[1])


def test_bad_input():
    x, norm = torch.ones(2, 5, 12), hico.layer_norm_metric
    for message, call in {
        r"x: expected .* got \[5, 12\]": lambda: norm(x[0]),
        "x: expected .* got NoneType": lambda: norm(None),
        "x: expected .* got torch.int64": lambda: norm(x.long()),
        r"weight: expected .*\[12\], got \[11\]": lambda: norm(x, x[0, 0, :11]),
        r"bias: expected .*\[12\], got \[2, 12\]": lambda: norm(x, None, x[:, 0]),
        r"shift: expected .*\[12\], got \[11\]": lambda: norm(x, shift=x[0, 0, :11]),
        "weight: expected .* got torch.bool": lambda: norm(x, x[0, 0].bool()),
        "num_heads: expected a divisor of 12.* got 5": lambda: norm(x, num_heads=5),
        "num_heads: expected .* got 0": lambda: norm(x, num_heads=0),
        "num_heads: expected .* got NoneType": lambda: norm(x, num_heads=None),
        "eps: expected .* got": lambda: norm(x, eps="tiny"),
        "eps: expected .* got -1": lambda: norm(x, eps=-1.0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
