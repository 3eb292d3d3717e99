"""hico.match against a float64 loop, and everything that an op promises."""

import pytest
import torch
from brute_force import assert_partners, match, rows
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.utils.checkpoint import checkpoint

import hico
from hico.testing import clusters, equal_rows, nonfinite_rows, zero_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDTHS = (1, 60, 88, 130, 300)
SHAPES = [
    pytest.param(*s, id="B{}-N{}-D{}".format(*s))
    for s in [(2, 12, 8), (1, 33, 16), (1, 130, 20), (3, 2, 4), *((1, 20, d) for d in WIDTHS)]
]


def expect(metric, src=None, dst=None, lengths=None, allowed=lambda i, j: True):
    """The brute force over a batch; src and dst [B, Ns] as lists."""
    batch, n = metric.shape[:2]
    ends = [n] * batch if lengths is None else lengths.tolist()
    src = [list(range(0, n, 2))] * batch if src is None else src
    dst = [list(range(1, n, 2))] * batch if dst is None else dst
    return [
        match(
            rows(metric[b]), src[b], dst[b],
            lambda i, j, e=ends[b]: 0 <= i < e and 0 <= j < e and allowed(i, j),
        )
        for b in range(batch)
    ]  # fmt: skip


def check(result, expected, dtype=torch.float32):
    value, index = result
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    assert value.dtype == kind and index.dtype == torch.int64
    for b, row in enumerate(expected):
        assert_partners(value[b], index[b], row, 1e-12 if kind == torch.float64 else 1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, d", SHAPES)
def test_fwd_bwd(batch, n, d, dtype, device):
    metric = clusters(batch, n, d, centres=5, dtype=dtype).to(device).requires_grad_()
    value, index = hico.match(metric)
    check((value, index), expect(metric), dtype)
    assert not value.requires_grad  # the choice of a partner has no gradient


def test_index_sets(device):
    metric = clusters(2, 40, 8).to(device)
    order = torch.stack([torch.randperm(40) for _ in range(2)])
    src, dst = order[:, :13].clone(), order[:, 13:31].clone()
    src[0, 3], dst[1, 5], dst[1, 0] = -1, -1, -7  # negative ones take no part
    check(
        hico.match(metric, src=src.to(device), dst=dst.to(device)),
        expect(metric, src.tolist(), dst.tolist()),
    )
    one = hico.match(metric, src=src[1].to(device), dst=order[0, 13:31].to(device, torch.int32))
    check(one, expect(metric, [src[1].tolist()] * 2, [order[0, 13:31].tolist()] * 2))
    same = torch.arange(40, device=device)  # the sets may overlap: then each token finds itself
    assert torch.equal(hico.match(metric, src=same, dst=same)[1], same.expand(2, -1))


@pytest.mark.parametrize("mask, lag", [("same_frame", 0), ("previous_frame", 1)])
@pytest.mark.parametrize("per_frame", [1, 7, 12, 50])
def test_frame_masks(mask, lag, per_frame, device):
    metric = clusters(1, 37, 8).to(device)
    result = hico.match(metric, mask=mask, tokens_per_frame=per_frame)
    check(result, expect(metric, allowed=lambda i, j: i // per_frame - j // per_frame == lag))


def test_lengths(device):
    metric = clusters(6, 13, 8).to(device)
    lengths = torch.tensor([13, 0, 1, 2, 7, 12], device=device)
    for kind in (torch.int64, torch.int32):
        check(hico.match(metric, lengths=lengths.to(kind)), expect(metric, lengths=lengths))
    padded = metric.clone()
    for b, end in enumerate(lengths.tolist()):
        padded[b, end:] = torch.nan  # what lies behind the end must not be looked at
    value, index = hico.match(padded, lengths=lengths)
    assert torch.equal(value, hico.match(metric, lengths=lengths)[0])
    assert torch.equal(index, hico.match(metric, lengths=lengths)[1])


def test_lengths_without_a_similar_token(device):
    # every cosine is negative, so whatever a padded token is given would win
    metric = clusters(5, 300, 4, centres=1, noise=0.2).to(device)
    metric[:, 1::2] *= -1
    lengths = torch.tensor([300, 140, 5, 1, 0], device=device)
    result = hico.match(metric, lengths=lengths)
    check(result, expect(metric, lengths=lengths))
    src, dst = torch.arange(0, 300, 2, device=device), torch.arange(1, 300, 2, device=device)
    for ours, same in zip(
        hico.match(metric, src=src, dst=dst, lengths=lengths), result, strict=True
    ):
        assert torch.equal(ours, same)


def test_ties_go_to_the_lowest_index(device):
    axes = torch.eye(4, device=device).repeat(1, 10, 1)  # every cosine is 0 or 1
    check(hico.match(axes), expect(axes))
    flat = torch.ones(1, 150, 3, device=device) * torch.rand(1, 150, 1, device=device).add(0.5)
    assert hico.match(flat)[1].eq(0).all()
    for n, d in ((5, 7), (66, 60), (131, 64), (20, 130)):
        same = equal_rows(clusters(1, n, d)).to(device)
        assert hico.match(same)[1].eq(0).all(), (n, d)


def test_narrow_range(device):
    metric = 1 + 3e-3 * clusters(1, 90, 16, centres=90).to(device)  # every cosine lies in 0.9999..1
    check(hico.match(metric), expect(metric))


@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial(dtype, device):
    x = clusters(2, 30, 8, centres=4, dtype=dtype).to(device)
    check(hico.match(zero_rows(x)), expect(zero_rows(x)), dtype)
    check(hico.match(zero_rows(x, 2)), expect(zero_rows(x, 2)), dtype)  # every source is zero
    zeros = hico.match(torch.zeros_like(x))
    assert zeros[0].eq(1).all() and zeros[1].eq(0).all()
    bad = nonfinite_rows(x)
    check(hico.match(bad), expect(bad), dtype)
    as_zero = torch.where(torch.isfinite(bad).all(-1, keepdim=True), bad, 0)
    for ours, same in zip(hico.match(bad), hico.match(as_zero), strict=True):
        assert torch.equal(ours, same)
    nothing = hico.match(torch.full_like(x, torch.nan))
    assert nothing[0].eq(1).all() and nothing[1].eq(0).all()


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e37])
def test_extreme_magnitudes(scale, device):
    metric = clusters(1, 30, 8, centres=4).to(device) * scale  # squares vanish or overflow
    check(hico.match(metric), expect(metric))
    mixed = clusters(1, 30, 8, centres=4).to(device)
    mixed[:, ::2] *= scale
    check(hico.match(mixed), expect(mixed))
    subnormal = torch.full((1, 4, 2), 1e-40, device=device)
    subnormal[0, 1] = 1.0
    assert hico.match(subnormal)[1].tolist() == [[1, 1]]  # they count as zero


def test_empty(device):
    for batch, n in ((0, 6), (2, 0), (0, 0)):
        value, index = hico.match(torch.zeros(batch, n, 4, device=device))
        assert value.shape == index.shape == (batch, (n + 1) // 2)
    value, index = hico.match(torch.ones(2, 1, 4, device=device))  # a source and no destination
    assert value.eq(-torch.inf).all() and index.eq(-1).all()
    none = torch.zeros(0, dtype=torch.int64, device=device)
    x = torch.ones(2, 6, 4, device=device)
    value, index = hico.match(x, dst=none)
    assert value.tolist() == [[-torch.inf] * 3] * 2 and index.eq(-1).all()
    assert hico.match(x, src=none)[0].shape == (2, 0)


def test_repeat_is_bitwise(device):
    metric = clusters(2, 60, 16).to(device)
    first, second = hico.match(metric), hico.match(metric)
    assert torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])


def test_noncontiguous(device):
    base = clusters(3, 16, 8).to(device)
    want = hico.match(base)
    spread = torch.full((3, 16, 2, 9), torch.nan, device=device)
    spread[:, :, 1, 1:] = base
    for view in (base.mT.contiguous().mT, spread[:, :, 1, 1:]):
        assert not view.is_contiguous()
        for ours, same in zip(hico.match(view), want, strict=True):
            assert torch.equal(ours, same)
    expanded = hico.match(base[:1].expand(3, -1, -1))
    assert torch.equal(expanded[1], want[1][:1].expand(3, -1))
    wide = torch.arange(32, device=device)
    lengths = torch.tensor([16, 99, 5, 99, 1, 99], device=device)[::2]
    got = hico.match(base, src=wide[:16:2], dst=wide[1:16:2], lengths=lengths)
    assert torch.equal(got[1], hico.match(base, lengths=lengths.contiguous())[1])


def test_opcheck(device):
    metric = clusters(2, 9, 8).to(device)
    src = torch.tensor([[0, 2, 4]] * 2, device=device)
    dst = torch.tensor([[1, 3]] * 2, device=device)
    lengths = torch.tensor([9, 4], device=device)
    op = torch.ops.hico.match.default
    torch.library.opcheck(op, (metric, None, None, None, 1, None))
    torch.library.opcheck(op, (metric.double(), None, dst, None, 1, None))
    torch.library.opcheck(op, (metric.mT.contiguous().mT, src, dst, 1, 3, lengths))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(metric):
        value, index = hico.match(metric * 1, mask="same_frame", tokens_per_frame=5)
        return value + 1, index

    for n in (12, 21, 30):
        metric = clusters(2, n, 8).to(device)
        want = hico.match(metric, mask="same_frame", tokens_per_frame=5)
        value, index = run(metric)
        assert torch.equal(value, want[0] + 1) and torch.equal(index, want[1])
    assert compiler.frame_count == 1


@pytest.mark.parametrize("how", ["autocast", "matmul precision"])
def test_exact_whatever_the_callers_precision(how, device):
    metric = clusters(1, 60, 64).to(device)
    want = hico.match(metric)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium" if how == "matmul precision" else before)
        with torch.autocast(device, torch.bfloat16, enabled=how == "autocast"):
            got = hico.match(metric)
    finally:
        torch.set_float32_matmul_precision(before)
    assert got[0].dtype == torch.float32
    assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def partners(x):
    """match has no gradient of its own; one through its use flows to the gathered tokens alone."""
    return x[:, 1::2].gather(1, hico.match(x)[1][..., None].expand(-1, -1, x.shape[2]))


def test_gradcheck(device):
    x = clusters(1, 8, 3, centres=2, dtype=torch.float64).to(device).requires_grad_()
    assert torch.autograd.gradcheck(partners, x, fast_mode=True)


def test_checkpoint(device):
    x = clusters(2, 12, 4).to(device).requires_grad_()
    (want,) = torch.autograd.grad(partners(x).square().sum(), x)
    (got,) = torch.autograd.grad(checkpoint(partners, x, use_reentrant=False).square().sum(), x)
    assert torch.equal(got, want)


@pytest.mark.gpu
def test_cuda_graph(device):
    metric, other = clusters(2, 300, 64).to(device), clusters(2, 300, 64, seed=1).to(device)
    value, index = replay(lambda: hico.match(metric), lambda: metric.copy_(other))
    want = hico.match(other)
    assert torch.equal(value, want[0]) and torch.equal(index, want[1])


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, n, per_frame):
        metric = clusters(batch, n, 64).to(device)
        hico.match(metric)
        hico.match(metric, mask="same_frame", tokens_per_frame=per_frame)
        tokens = torch.arange(n, device=device)
        lengths = torch.full((batch,), n // 2, device=device)
        hico.match(metric, src=tokens[: n // 3], dst=tokens[n // 3 :], lengths=lengths)

    run(2, 96, 16)
    before = compiled()
    for shape in ((1, 17, 1), (3, 512, 8), (7, 101, 13), (2, 3136, 196)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets(device):
    metric = many_rows(16, 64)
    value, index = hico.match(metric)
    for part in some_rows(len(metric)):
        want = hico.match(metric[part].clone())
        assert torch.equal(value[part], want[0]) and torch.equal(index[part], want[1])


BAD = {
    "metric: expected .* got list": lambda x: hico.match([x]),
    r"metric: expected .* got \[12, 8\]": lambda x: hico.match(x[0]),
    r"metric: expected .* got \[2, 12, 0\]": lambda x: hico.match(x[..., :0]),
    "metric: expected .* got torch.int32": lambda x: hico.match(x.int()),
    "mask: expected .* got 'next'": lambda x: hico.match(x, mask="next", tokens_per_frame=4),
    "tokens_per_frame: expected .* got None": lambda x: hico.match(x, mask="same_frame"),
    "tokens_per_frame: expected .* got 0": lambda x: hico.match(
        x, mask="same_frame", tokens_per_frame=0
    ),
    r"lengths: expected .*\[2\], got \[3\]": lambda x: hico.match(
        x, lengths=torch.tensor([1, 2, 3])
    ),
    "lengths: expected .* got torch.float32": lambda x: hico.match(x, lengths=torch.ones(2)),
    r"src: expected .* got \[1, 1, 1\]": lambda x: hico.match(x, src=torch.zeros(1, 1, 1).long()),
    "src: expected .* got list": lambda x: hico.match(x, src=[0]),
    "src: expected .* got torch.float32": lambda x: hico.match(x, src=torch.zeros(3)),
    r"dst: expected .*\[2, 4\], got \[3, 4\]": lambda x: hico.match(
        x, dst=torch.zeros(3, 4).long()
    ),
    "dst: expected .* got torch.bool": lambda x: hico.match(x, dst=torch.zeros(3).bool()),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message](torch.ones(2, 12, 8))
