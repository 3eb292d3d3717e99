"""hico.compact against loops, bit for bit, and everything that an op promises."""

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.utils.checkpoint import checkpoint

import hico

BATCH, N, K = 2, 13, 7
# name: (shape, dims)
LAYOUTS = {
    "hidden": ((BATCH, N, 24), 1),
    "odd": ((BATCH, N, 77), 1),
    "wide": ((BATCH, N, 1100), 1),
    "positions": ((BATCH, N), 1),
    "mrope": ((3, BATCH, N), (1, 2)),
    "cache": ((BATCH, 3, N, 16), 2),
    "cosines": ((BATCH, N, 2, 5), -3),
    "layers": ((2, BATCH, 3, N, 8), (1, 3)),
    "shared": ((1, N, 24), 1),
}
DTYPES = (
    torch.bool, torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32,
    torch.float64,
)  # fmt: skip


def some_index(device):
    """Ascending, with empty rows, and some that name no token."""
    index = torch.tensor([[0, 2, 3, 7, 12, -1, -1], [1, 4, 5, 6, 8, 11, -5]])
    index[1, 3] = N  # past the end: a row of zeros
    return index.to(device)


def some_bits(shape, dtype, device):
    """Every pattern of bits, NaNs with payloads included."""
    width = torch.tensor([], dtype=dtype).element_size()
    if dtype == torch.bool:
        return torch.rand(shape, device=device) < 0.5
    raw = torch.randint(0, 256, (*shape, width), dtype=torch.uint8)
    return raw.view(dtype).view(shape).to(device)


def same_bits(a, b):
    raw = [t.cpu().contiguous().flatten().view(torch.uint8) for t in (a, b)]
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(*raw)


def by_loop(x, index, dims):
    """Row by row: x with its tokens replaced by those of index."""
    b_dim, t_dim = (0, dims) if isinstance(dims, int) else dims
    b_dim, t_dim = b_dim % x.ndim, t_dim % x.ndim
    shape = list(x.shape)
    shape[b_dim], shape[t_dim] = index.shape
    out = torch.zeros(shape, dtype=x.dtype, device=x.device)
    for b, row in enumerate(index.tolist()):
        for j, n in enumerate(row):
            if 0 <= n < x.shape[t_dim]:
                source = x.select(b_dim, b if x.shape[b_dim] > 1 else 0).select(t_dim - 1, n)
                out.select(b_dim, b).select(t_dim - 1, j).copy_(source)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
def test_fwd(dtype, device):
    index = some_index(device)
    xs = [some_bits(shape, dtype, device) for shape, _ in LAYOUTS.values()]
    dims = [dim for _, dim in LAYOUTS.values()]
    outs = hico.compact(index, *xs, dims=dims)
    assert isinstance(outs, tuple) and len(outs) == len(xs)
    for x, out, dim in zip(xs, outs, dims, strict=True):
        assert out.is_contiguous() and same_bits(out, by_loop(x, index, dim))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bwd(layout, dtype, device):
    shape, dim = LAYOUTS[layout]
    index = some_index(device)
    x = torch.randn(shape, device=device).to(dtype).requires_grad_()
    (out,) = hico.compact(index, x, dims=[dim])
    dout = torch.randn(out.shape, device=device).to(dtype)
    out.backward(dout)
    plain = x.detach().clone().requires_grad_()
    by_loop(plain, index, dim).backward(dout)
    assert x.grad.dtype == dtype and torch.equal(x.grad, plain.grad)


def test_one_dim_for_all(device):
    index, hidden = some_index(device), torch.randn(BATCH, N, 4, device=device)
    labels = torch.arange(BATCH * N, device=device).view(BATCH, N)
    got = hico.compact(index.to(torch.int32), hidden, labels, labels > 4, dims=1)
    want = hico.compact(index, hidden, labels, labels > 4, dims=(1, 1, 1))
    for ours, same in zip(got, want, strict=True):
        assert torch.equal(ours, same)
    assert hico.compact(index, dims=1) == ()


def test_follows_select(device):
    score, hidden = torch.randn(2, 40, device=device), torch.randn(2, 40, 6, device=device)
    lengths = torch.tensor([40, 3], device=device)
    index = hico.select(score, 5, lengths=lengths)
    (out,) = hico.compact(index, hidden, dims=1)
    assert torch.equal(out, by_loop(hidden, index, 1)) and out[1, 3:].eq(0).all()


def test_adversarial(device):
    x = torch.randn(1, 6, 4, device=device)
    x[0, 1], x[0, 2, 1] = torch.nan, torch.inf  # what is not kept leaves no trace
    x.requires_grad_()
    (out,) = hico.compact(torch.tensor([[0, 5, -1]], device=device), x, dims=1)
    assert torch.isfinite(out).all() and out[0, 2].eq(0).all()
    out.backward(
        torch.tensor([1.0, torch.nan, torch.inf], device=device).view(1, 3, 1).expand_as(out)
    )
    assert x.grad[0, 0].eq(1).all() and x.grad[0, 5].isnan().all() and x.grad[0, 1:5].eq(0).all()
    far = torch.tensor(
        [[1 << 40, -(1 << 40), 6, 5]], device=device
    )  # nothing out of bounds is read
    assert torch.equal(hico.compact(far, x, dims=1)[0][0, :3], torch.zeros(3, 4, device=device))


def test_empty(device):
    for batch, n, k, c in ((0, 5, 3, 4), (2, 0, 3, 4), (2, 5, 0, 4), (2, 5, 3, 0), (2, 0, 0, 4)):
        index = torch.full((batch, k), -1, dtype=torch.int64, device=device)
        x = torch.ones(batch, n, c, device=device, requires_grad=True)
        (out,) = hico.compact(index, x, dims=1)
        assert out.shape == (batch, k, c) and out.eq(0).all()
        out.sum().backward()
        assert x.grad.shape == x.shape and x.grad.eq(0).all()


def test_repeat_is_bitwise(device):
    index, x = some_index(device), torch.randn(BATCH, N, 24, device=device, requires_grad=True)
    runs = []
    for _ in range(2):
        (out,) = hico.compact(index, x, dims=1)
        runs.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    for first, second in zip(*runs, strict=True):
        assert torch.equal(first, second)


def test_noncontiguous(device):
    """Views of a cache, of all heads' projections and of wider rows, transposed and shared rows."""
    index = some_index(device)
    cache = torch.randn(BATCH, 3, 2 * N, 16, device=device)
    joint = torch.randn(BATCH, N, 3, 16, device=device)
    padded = torch.randn(BATCH, N, 31, device=device)
    for view, dim in (
        (cache[:, :, :N], 2),
        (cache[:, :, 1 : N + 1, 3:11], 2),  # starts between 16-byte boundaries
        (cache[:, :, ::2], 2),
        (joint.transpose(1, 2), 2),
        (padded[..., 3:], 1),
        (padded.mT.contiguous().mT, 1),
        (padded[..., 5], 1),
        (padded[:1].expand(BATCH, -1, -1), 1),
        (torch.randn(N, 4, device=device).expand(3, BATCH, N, 4), (1, 2)),
        (joint.transpose(0, 1).contiguous().transpose(0, 1), 1),
    ):
        view = view.detach().requires_grad_()
        (out,) = hico.compact(index.mT.contiguous().mT, view, dims=[dim])
        assert out.is_contiguous() and torch.equal(out, by_loop(view, index, dim))
        dout = torch.randn_like(out).mT.contiguous().mT
        (grad,) = torch.autograd.grad(out, view, dout, retain_graph=True)
        (want,) = torch.autograd.grad(by_loop(view, index, dim), view, dout)
        assert torch.equal(grad, want)
        torch.autograd.grad(out.sum(), view)  # the gradient is one number, expanded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_opcheck(dtype, device):
    op = torch.ops.hico.take_rows.default
    for shape, dims in (((BATCH, N, 8), (0, 1)), ((3, BATCH, N), (1, 2))):
        x = torch.randn(shape, device=device).to(dtype)
        x.requires_grad_(dtype.is_floating_point)
        torch.library.opcheck(op, (x, some_index(device), *dims))
        turned = x.detach().mT.contiguous().mT.requires_grad_(dtype.is_floating_point)
        torch.library.opcheck(op, (turned, some_index(device), *dims))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(index, hidden, positions, keys):
        return hico.compact(index, hidden * 1, positions, keys, dims=(1, (1, 2), 2))

    for n in (9, 20, 33):
        hidden = torch.randn(BATCH, n, 6, device=device, requires_grad=True)
        positions = torch.arange(3 * BATCH * n, device=device).view(3, BATCH, n)
        keys = torch.randn(BATCH, 2, n, 4, device=device)
        index = torch.arange(0, n, 3, device=device).expand(BATCH, -1)
        got = run(index, hidden, positions, keys)
        want = hico.compact(index, hidden, positions, keys, dims=(1, (1, 2), 2))
        for ours, same in zip(got, want, strict=True):
            assert torch.equal(ours, same)
        (ours,) = torch.autograd.grad(got[0].square().sum(), hidden)
        (same,) = torch.autograd.grad(want[0].square().sum(), hidden)
        assert torch.equal(ours, same)
    assert compiler.frame_count <= 2


def test_gradcheck(device):
    index = torch.tensor([[0, 3, -1], [2, 3, 4]], device=device)
    for shape, dim in (((2, 2, 4), (1, 2)), ((2, 2, 4, 2), 2), ((1, 4, 2), 1)):
        x = torch.randn(shape, dtype=torch.float64, device=device, requires_grad=True)
        run = lambda x, dim=dim: hico.compact(index, x, dims=[dim])[0]  # noqa: E731
        assert torch.autograd.gradcheck(run, x, fast_mode=True)
    x = torch.randn(2, 4, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: hico.compact(index, x, dims=1)[0], x)
    assert torch.autograd.gradgradcheck(lambda x: hico.compact(index, x, dims=1)[0].square(), x)


def test_checkpoint(device):
    index, x = some_index(device), torch.randn(BATCH, N, 5, device=device, requires_grad=True)

    def loss(x):
        return hico.compact(index, x.sin(), dims=1)[0].square().sum()

    (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)
    assert torch.equal(got, want)


@pytest.mark.gpu
def test_cuda_graph_without_synchronisation(device):
    x, other = torch.randn(2, 2, 3000, 1024, device=device, dtype=torch.bfloat16)
    x.requires_grad_()
    positions = torch.arange(6000, device=device).view(2, 3000)
    index = hico.select(torch.randn(2, 3000, device=device), 700)

    def run():
        out, places = hico.compact(index, x, positions, dims=1)
        return out, places, torch.autograd.grad(out, x, out)[0]

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    outs = replay(run, lambda: x.data.copy_(other))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, n, k):
        index = hico.select_uniform(n, k, device).expand(batch, -1)
        hidden = torch.randn(batch, n, 1024, device=device, dtype=torch.bfloat16)
        keys = torch.randn(batch, 4, n, 128, device=device, dtype=torch.bfloat16)
        hico.compact(
            index, hidden, keys, torch.zeros(3, batch, n, device=device), dims=(1, 2, (1, 2))
        )

    run(2, 100, 25)
    before = compiled()
    for shape in ((1, 1, 1), (3, 17, 16), (64, 784, 64), (1, 4096, 4095)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets(device):
    x = many_rows(64, 1024)
    index = hico.select_uniform(64, 60, device).expand(len(x), -1)
    (out,) = hico.compact(index, x, dims=1)
    for part in some_rows(len(x)):
        assert torch.equal(out[part], x[part, index[0]])


@pytest.mark.gpu
def test_one_launch(device, unpoisoned):
    from gpu_helpers import trace

    x = torch.randn(2, 3000, 1024, device=device)
    index = torch.arange(700, device=device).expand(2, -1).contiguous()
    names = trace(lambda: hico.compact(index, x, x[..., 0], x.view(2, 3000, 8, 128), dims=1))
    assert [name.split("(")[0] for name in names] == ["take_rows_kernel"] * 3


def test_bad_input():
    index, x = torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 5, 4)
    for message, call in {
        r"index: expected \[B, k\], got \[3\]": lambda: hico.compact(index[0], x, dims=1),
        "index: expected .* got list": lambda: hico.compact([[0]], x, dims=1),
        "index: expected int64 or int32, got torch.float32": lambda: hico.compact(
            index.float(), x, dims=1
        ),
        "tensor 1: expected a tensor .* got int": lambda: hico.compact(index, x, 3, dims=1),
        "tensor 0: expected .* not complex, got torch.complex64": lambda: hico.compact(
            index, x.to(torch.complex64), dims=1
        ),
        r"tensor 0: expected 2 rows .* dimension 0, got \[3, 5, 4\]": lambda: hico.compact(
            index, torch.ones(3, 5, 4), dims=1
        ),
        "dims: expected batch < tokens < 3 .* batch 0 and tokens 3": lambda: hico.compact(
            index, x, dims=3
        ),
        "dims: expected batch < tokens .* batch 0 and tokens 0": lambda: hico.compact(
            index, x, dims=0
        ),
        "dims: expected batch < tokens .* batch 1 and tokens 0": lambda: hico.compact(
            index, x, dims=[(1, 0)]
        ),
        r"dims: expected .* list of 2, .* got \[1\]": lambda: hico.compact(index, x, x, dims=[1]),
        "dims: expected ints or .* got 'tokens'": lambda: hico.compact(index, x, dims=["tokens"]),
        r"dims: expected ints or .* got \(0, 1, 2\)": lambda: hico.compact(
            index, x, dims=[(0, 1, 2)]
        ),
        "dims: expected an int, or .* got 1.5": lambda: hico.compact(index, x, dims=1.5),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
