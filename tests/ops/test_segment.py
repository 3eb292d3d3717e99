"""hico.segment_mean, TokenMap.apply and TokenMap.unmerge against float64 loops."""

import pytest
import torch
from brute_force import plain_mean

import hico
from hico import TokenMap
from hico.testing import assert_tokens_close, nonfinite_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = [
    pytest.param(*s, id="B{}-N{}-M{}-C{}".format(*s))
    for s in [(2, 20, 7, 12), (1, 1, 1, 1), (2, 33, 4, 60), (1, 40, 5, 1100), (3, 7, 12, 5)]
]


def some_map(batch, n, m, device, drop=0.2):
    """Slots at random, some tokens dropped, some slots empty (those with anchor -1)."""
    assign = torch.randint(0, m, (batch, n))
    assign[torch.rand(batch, n) < drop] = -1
    anchor = torch.full((batch, m), -1)
    for b in range(batch):
        for i in reversed(range(n)):
            if assign[b, i] >= 0:
                anchor[b, assign[b, i]] = i
    return TokenMap(assign.to(device), anchor.to(device))


def exact_mean(x, where, weights=None, reduce="mean"):
    """The mean of every slot, token by token, in float64."""
    x = x.detach().cpu().double()
    w = torch.ones(x.shape[:2]) if weights is None else weights.detach().cpu()
    assign = where.assign.tolist()
    out = torch.zeros(len(x), where.num_slots, x.shape[2], dtype=torch.float64)
    for b in range(len(x)):
        for m in range(where.num_slots):
            members = [n for n in range(x.shape[1]) if assign[b][n] == m]
            total = sum(float(w[b, n]) for n in members)
            for n in members:
                out[b, m] += float(w[b, n]) * x[b, n]
            if reduce == "mean":
                out[b, m] = out[b, m] / total if total else 0.0
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, m, c", SHAPES)
def test_fwd_bwd(batch, n, m, c, dtype, device):
    x = torch.randn(batch, n, c, device=device).to(dtype).requires_grad_()
    where = some_map(batch, n, m, device)
    out = hico.segment_mean(x, where)
    assert out.dtype == dtype
    assert_tokens_close(out, exact_mean(x, where), plain_mean(x, where.assign, m))

    dout = torch.randn(batch, m, c, device=device).to(dtype)
    out.backward(dout)
    kept, slot = (where.assign >= 0)[..., None], where.assign.clamp(min=0)
    spread = dout.gather(1, slot[..., None].expand(-1, -1, c))
    count = where.size.gather(1, slot)[..., None].clamp(min=1)
    exact = torch.where(kept, spread.double() / count, 0)
    assert_tokens_close(x.grad, exact, torch.where(kept, spread / count.to(dtype), 0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, m, c", SHAPES)
def test_unmerge_fwd_bwd(batch, n, m, c, dtype, device):
    y = torch.randn(batch, m, c, device=device).to(dtype).requires_grad_()
    where = some_map(batch, n, m, device)
    out = where.unmerge(y)
    kept, slot = (where.assign >= 0)[..., None], where.assign.clamp(min=0)
    want = y.detach().gather(1, slot[..., None].expand(-1, -1, c))
    assert torch.equal(out, torch.where(kept, want, 0))  # a copy: exact

    dout = torch.randn(batch, n, c, device=device).to(dtype)
    out.backward(dout)
    count = where.size[..., None].clamp(min=1).cpu()
    sums = exact_mean(dout, where, reduce="sum")
    assert_tokens_close(y.grad, sums, plain_mean(dout, where.assign, m) * count.to(dtype))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("reduce", ["mean", "sum"])
def test_weights_fwd_bwd(reduce, dtype, device):
    x = torch.randn(2, 30, 9, device=device).to(dtype).requires_grad_()
    weights = (torch.rand(2, 30, device=device) + 0.1).requires_grad_()
    where = some_map(2, 30, 8, device)
    out = where.apply(x, weights=weights, reduce=reduce)
    wide, wide_weights = x.detach().double(), weights.detach().double()
    wide.requires_grad_(), wide_weights.requires_grad_()
    hot = torch.nn.functional.one_hot(where.assign.clamp(min=0), 8) * (where.assign >= 0)[..., None]
    share = hot.double() * wide_weights[..., None]
    if reduce == "mean":
        share = share / share.sum(1, keepdim=True).clamp(min=1e-30)
    want = share.mT @ wide
    half = (hot * weights.detach()[..., None]).to(dtype)
    if reduce == "mean":
        half = half / half.sum(1, keepdim=True).clamp(min=torch.finfo(dtype).tiny)
    assert_tokens_close(out, want, half.mT @ x.detach())
    dout = torch.randn_like(out)
    got = torch.autograd.grad(out, (x, weights), dout)
    exact = torch.autograd.grad(want, (wide, wide_weights), dout.double())
    assert got[0].dtype == dtype and got[1].dtype == torch.float32
    for ours, true in zip(got, exact, strict=True):
        # the weights are fp32, so that is what the weights' gradient is rounded to at best
        eps = max(torch.finfo(t.dtype).eps for t in (ours, out, weights))
        assert (ours - true).abs().max() <= 8 * eps * true.abs().max()


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_integer_weights_are_counts(kind, device):
    x = torch.randn(2, 30, 9, device=device)
    weights = torch.randint(1, 9, (2, 30), device=device).to(kind)
    where = some_map(2, 30, 8, device)
    out = where.apply(x, size=weights)
    assert torch.equal(out, where.apply(x, weights=weights.float()))
    assert_tokens_close(out, exact_mean(x, where, weights), exact_mean(x, where, weights).float())


@pytest.mark.parametrize("c, m", [(3, 5), (3, 1)])
def test_long_rows(c, m, device):
    """More tokens than one scan a slot can look at."""
    x = torch.randn(1, 4500, c, device=device).requires_grad_()
    where = some_map(1, 4500, m, device)
    out = hico.segment_mean(x, where)
    assert_tokens_close(out, exact_mean(x, where), plain_mean(x, where.assign, m))
    out.sum().backward()
    assert torch.equal(x.grad[..., 0] != 0, where.assign >= 0)


def test_adversarial(device):
    where = TokenMap(torch.tensor([[0, 0, 1, 2, 2, -1]]), torch.tensor([[0, 2, 3, -1]])).to(device)
    x = torch.randn(1, 6, 4, device=device)
    x[0, 1, 2], x[0, 5] = torch.nan, torch.inf  # the second is dropped
    out = hico.segment_mean(x, where)
    assert torch.isnan(out[0, 0, 2]) and torch.isfinite(out).sum() == 15
    assert torch.equal(out[0, 1], x[0, 2]) and out[0, 3].eq(0).all()
    weights = torch.tensor([[1.0, 1.0, 0.0, 2.0, -2.0, torch.nan]], device=device).requires_grad_()
    x = torch.randn(1, 6, 4, device=device).requires_grad_()
    out = hico.segment_mean(x, where, weights)  # weights of 0 and of 2 - 2 sum to 0
    assert out[0, 1:].eq(0).all() and out[0, 0].ne(0).all()
    out.sum().backward()
    assert x.grad[0, 2:].eq(0).all() and weights.grad[0, 2:].eq(0).all()
    spoilt = nonfinite_rows(torch.randn(2, 20, 6, device=device))
    many = some_map(2, 20, 6, device)
    ok = torch.isfinite(spoilt).all(-1)
    got = torch.isfinite(hico.segment_mean(spoilt, many)).all(-1)
    for b in range(2):
        for m in range(6):
            assert bool(got[b, m]) == bool(ok[b][many.assign[b] == m].all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_member_is_a_copy(dtype, device):
    x = torch.randn(2, 9, 5, device=device).to(dtype)
    where = TokenMap(*(torch.randperm(9, device=device).expand(2, -1) for _ in range(2)))
    order = where.assign.argsort(1)[..., None].expand_as(x)
    for weights in (None, torch.rand(2, 9, device=device) + 0.01, torch.full((2, 9), 3)):
        weights = None if weights is None else weights.to(device)
        assert torch.equal(hico.segment_mean(x, where, weights), x.gather(1, order))


def test_empty(device):
    for batch, n, m in ((0, 5, 3), (2, 0, 3), (2, 5, 0), (2, 0, 0)):
        where = TokenMap(
            torch.full((batch, n), -1, device=device), torch.full((batch, m), -1, device=device)
        )
        x = torch.ones(batch, n, 4, device=device, requires_grad=True)
        out = hico.segment_mean(x, where)
        assert out.shape == (batch, m, 4) and out.eq(0).all()
        back = where.unmerge(out)
        assert back.shape == (batch, n, 4) and back.eq(0).all()
        back.sum().backward()
        assert x.grad.shape == x.shape and x.grad.eq(0).all()
        weights = torch.ones(batch, n, device=device, requires_grad=True)
        hico.segment_mean(x, where, weights).sum().backward()
        assert weights.grad.eq(0).all()


def test_repeat_is_bitwise(device):
    x = torch.randn(2, 200, 16, device=device).requires_grad_()
    weights = torch.rand(2, 200, device=device).requires_grad_()
    where = some_map(2, 200, 5, device)
    runs = []
    for _ in range(2):
        out = hico.segment_mean(x, where, weights)
        runs.append((out, *torch.autograd.grad(where.unmerge(out).square().sum(), (x, weights))))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_noncontiguous(device):
    base = torch.randn(2, 12, 6, device=device)
    where = some_map(2, 12, 5, device)
    weights = torch.rand(2, 12, device=device)
    spread = torch.full((2, 12, 3, 8), torch.nan, device=device)
    spread[:, :, 1, 2:] = base
    other = TokenMap(where.assign.mT.contiguous().mT, where.anchor.mT.contiguous().mT)
    flipped = weights.mT.contiguous().mT
    for view in (base.mT.contiguous().mT, spread[:, :, 1, 2:]):
        for x, reduce in ((view.detach().requires_grad_(), r) for r in ("mean", "sum")):
            out = other.apply(x, weights=flipped, reduce=reduce)
            assert torch.equal(out, where.apply(base, weights=weights, reduce=reduce))
            assert torch.equal(other.unmerge(out.mT.contiguous().mT), where.unmerge(out))
            out.backward(torch.ones(1, 1, 1, device=device).expand_as(out))
    one = TokenMap(where.assign[:1].expand(2, -1), where.anchor[:1].expand(2, -1))
    want = hico.segment_mean(base[:1], TokenMap(where.assign[:1], where.anchor[:1]))
    assert torch.equal(hico.segment_mean(base[:1].expand(2, -1, -1), one), want.expand(2, -1, -1))


def test_bad_input():
    where = TokenMap(torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64))
    x, y = torch.ones(2, 6, 4), torch.ones(2, 3, 4)
    for message, call in {
        r"x: expected .*\[2, 6, 4\], got \[2, 5, 4\]": lambda: hico.segment_mean(x[:, :5], where),
        r"x: expected .* got \[2, 6\]": lambda: hico.segment_mean(x[..., 0], where),
        "x: expected .* got torch.int64": lambda: hico.segment_mean(x.long(), where),
        "x: expected .* got str": lambda: hico.segment_mean("x", where),
        r"weights: expected .*\[2, 6\], got \[6\]": lambda: hico.segment_mean(
            x, where, torch.ones(6)
        ),
        "weights: expected .* got torch.complex64": lambda: hico.segment_mean(
            x, where, torch.ones(2, 6, dtype=torch.complex64)
        ),
        "weights: expected .* got list": lambda: where.apply(x, weights=[1]),
        "expected `size` or `weights`, got both": lambda: where.apply(
            x, size=x[..., 0], weights=x[..., 0]
        ),
        "reduce: expected .* got 'max'": lambda: where.apply(x, reduce="max"),
        r"y: expected .*\[2, 3, 4\], got \[2, 6, 4\]": lambda: where.unmerge(x),
        r"y: expected .*\[2, 3, 4\], got \[1, 3, 4\]": lambda: where.unmerge(y[:1]),
        "y: expected .* got torch.bool": lambda: where.unmerge(y.bool()),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
