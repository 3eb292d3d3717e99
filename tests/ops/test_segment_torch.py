"""segment_mean and unmerge under what torch does with an op: trace, differentiate, capture."""

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.utils.checkpoint import checkpoint

import hico
from hico import TokenMap


def some_map(batch, n, m, device, drop=0.2):
    """Slots at random, some tokens dropped; the anchors are not looked at."""
    assign = torch.randint(0, m, (batch, n), device=device)
    assign[torch.rand(batch, n, device=device) < drop] = -1
    return TokenMap(assign, torch.zeros(batch, m, dtype=torch.int64, device=device))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_opcheck(dtype, device):
    x = torch.randn(2, 9, 4, device=device).to(dtype).requires_grad_()
    y = torch.randn(2, 3, 4, device=device).to(dtype).requires_grad_()
    turned = [t.detach().mT.contiguous().mT.requires_grad_() for t in (x, y)]
    assign = some_map(2, 9, 3, device).assign
    weights = torch.rand(2, 9, device=device, requires_grad=True)
    total = torch.rand(2, 3, device=device) + 1
    ops, check = torch.ops.hico, torch.library.opcheck
    reduce = ops.segment_reduce.default
    rest = [None] * (len(reduce._schema.arguments) - 5)
    check(reduce, (turned[0], assign, 3, weights, False, *rest))
    check(ops.slot_gather.default, (turned[1], assign, weights.detach(), total))
    parts = [t.detach() for t in (*turned, y)]
    check(ops.segment_weight_grad.default, (parts[0], parts[1], assign, parts[2], total))
    if dtype == torch.float32:
        check(reduce, (x, assign, 3, None, True, *rest))
        check(reduce, (x.detach(), assign, 3, weights, True, *rest))
        check(reduce, (x, assign, 3, weights.detach().long() + 1, True, *rest))
        check(ops.slot_gather.default, (y, assign, None, None))
        check(ops.segment_weight_grad.default, (parts[0], parts[1], assign, None, None))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x, where, weights):
        mean = hico.segment_mean(x * 1, where, weights)
        return where.unmerge(mean) + 1, where.apply(x.mT.contiguous().mT, reduce="sum") * 2

    for n in (9, 14, 23):
        x = torch.randn(2, n, 4, device=device, requires_grad=True)
        weights = torch.rand(2, n, device=device, requires_grad=True)
        where = some_map(2, n, 5, device)
        back, sums = run(x, where, weights)
        mean = hico.segment_mean(x, where, weights)
        want = where.unmerge(mean) + 1, where.apply(x, reduce="sum") * 2
        assert torch.equal(back, want[0]) and torch.equal(sums, want[1])
        got = torch.autograd.grad(back.square().sum() + sums.sum(), (x, weights))
        plain = torch.autograd.grad(want[0].square().sum() + want[1].sum(), (x, weights))
        torch.testing.assert_close(got, plain)
    assert compiler.frame_count == 1


def test_inductor(device, kernels):
    """Inductor lays memory out as the fakes say, so a result laid out otherwise shows here."""
    if kernels and device == "cpu":
        pytest.skip("half a minute in the interpreter, and the outputs are allocated alike")
    torch.compiler.reset()

    @torch.compile(fullgraph=True)
    def run(x, where):
        y, metric = hico.layer_norm_metric(x, num_heads=2)
        return where.apply(y, reduce="sum") * 2, y * 2, where.unmerge(metric[:, :5]) * 2

    x = torch.randn(2, 8, 9, device=device).mT
    where = some_map(2, 9, 5, device)
    y, metric = hico.layer_norm_metric(x, num_heads=2)
    want = where.apply(y, reduce="sum") * 2, y * 2, where.unmerge(metric[:, :5]) * 2
    for ours, plain in zip(run(x, where), want, strict=True):
        torch.testing.assert_close(ours, plain)


def test_gradcheck(device):
    where = TokenMap(torch.tensor([[0, 1, 1, -1, 0, 3]]), torch.tensor([[0, 1, -1, 5]])).to(device)
    x = torch.randn(1, 6, 2, dtype=torch.float64, device=device, requires_grad=True)
    y = torch.randn(1, 4, 2, dtype=torch.float64, device=device, requires_grad=True)
    weights = torch.rand(1, 6, dtype=torch.float64, device=device).add(0.5).requires_grad_()
    check, twice = torch.autograd.gradcheck, torch.autograd.gradgradcheck
    fast, fixed = {"fast_mode": True}, weights.detach()
    for reduce in ("mean", "sum"):
        assert check(
            lambda x, w, r=reduce: where.apply(x, weights=w, reduce=r), (x, weights), **fast
        )
    assert twice(lambda x: where.apply(x, weights=fixed), x, **fast)
    assert check(where.unmerge, y, **fast) and twice(where.unmerge, y, **fast)


def test_second_order_in_weights_is_refused(device):
    where = some_map(1, 6, 2, device)
    x = torch.randn(1, 6, 2, device=device, requires_grad=True)
    weights = torch.rand(1, 6, device=device, requires_grad=True)
    out = hico.segment_mean(x, where, weights).square().sum()
    (grad,) = torch.autograd.grad(out, weights, create_graph=True)
    with pytest.raises(Exception, match="not implemented|autograd"):
        grad.sum().backward()


def test_checkpoint(device):
    where = some_map(2, 12, 4, device)
    x = torch.randn(2, 12, 5, device=device, requires_grad=True)

    def loss(x):
        return where.unmerge(hico.segment_mean(x.sin(), where)).square().sum()

    (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)
    assert torch.equal(got, want)


def test_retain_graph(device):
    where = some_map(2, 12, 4, device)
    x = torch.randn(2, 12, 5, device=device, requires_grad=True)
    out = hico.segment_mean(x, where, torch.rand(2, 12, device=device))
    dout = torch.randn_like(out)
    kept = dout.clone()
    first = torch.autograd.grad(out, x, dout, retain_graph=True)[0]
    second = torch.autograd.grad(out, x, dout)[0]
    assert torch.equal(first, second) and torch.equal(dout, kept)  # nothing is done in place


@pytest.mark.gpu
@pytest.mark.parametrize("n", [500, 5000])
def test_cuda_graph(n, device):
    where, other = some_map(2, n, 50, device), some_map(2, n, 50, device)
    x = torch.randn(2, n, 64, device=device, requires_grad=True)
    weights = torch.rand(2, n, device=device, requires_grad=True)

    def run():
        out = where.unmerge(hico.segment_mean(x, where, weights))
        return out, *torch.autograd.grad(out, (x, weights), out)

    outs = replay(run, lambda: where.assign.copy_(other.assign))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, n, m):
        x = torch.randn(batch, n, 64, device=device, requires_grad=True)
        weights = torch.rand(batch, n, device=device, requires_grad=True)
        where = some_map(batch, n, m, device)
        where.unmerge(hico.segment_mean(x, where)).sum().backward()
        where.apply(x, weights=weights, reduce="sum").sum().backward()
        hico.segment_mean(x, where, weights).sum().backward()

    run(2, 96, 16), run(2, 5000, 16)
    before = compiled()
    for shape in ((1, 1, 1), (3, 17, 5), (7, 1025, 129), (1, 4097, 64), (2, 9999, 1)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets(device):
    x = many_rows(64, 128).requires_grad_()
    row = torch.arange(64, device=device) % 48 - 1  # a few tokens are dropped
    where = TokenMap(row.expand(len(x), -1), row[:47].expand(len(x), -1) + 1)
    out = hico.segment_mean(x, where)
    out.backward(out.detach())
    back = where.unmerge(out.detach())
    for part in some_rows(len(x)):
        few = x.detach()[part].clone().requires_grad_()
        small = TokenMap(where.assign[part], where.anchor[part])
        want = hico.segment_mean(few, small)
        want.backward(want.detach())
        assert torch.equal(out[part], want) and torch.equal(x.grad[part], few.grad)
        assert torch.equal(back[part], small.unmerge(want.detach()))
