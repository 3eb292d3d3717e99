"""hico.merge_tokens where things break: ragged, protected, weighted, zero, tied, not finite."""

import numpy as np
import pytest
import torch
from brute_force import assert_merged, merge, rows

import hico
from hico import reference
from hico.testing import clusters, equal_rows, nonfinite_rows, zero_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
ORDERS = ("position", "reference")
SIZES = (torch.int64, torch.int32, torch.uint8, torch.float16, torch.float64)


def expect(x, target, *, metric=None, size=None, lengths=None, **options):
    """The brute force over a batch."""
    ends = [None] * len(x) if lengths is None else lengths.tolist()
    metric = [None] * len(x) if metric is None else [rows(m) for m in metric]
    size = [None] * len(x) if size is None else [rows(s) for s in size]
    return [
        merge(rows(x[b]), target, metric=metric[b], size=size[b], length=ends[b], **options)
        for b in range(len(x))
    ]


def assert_identity(result, x, size=None):
    """Every token kept, bit by bit."""
    everyone = torch.arange(x.shape[1], device=x.device).expand(x.shape[:2])
    size = torch.ones_like(everyone, dtype=torch.int32) if size is None else size
    assert torch.equal(result.tokens, x) and torch.equal(result.size, size)
    assert torch.equal(result.map.assign, everyone) and torch.equal(result.map.anchor, everyone)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_target_n_is_the_identity(dtype, order, device):
    x = clusters(2, 11, 6, dtype=dtype).to(device)
    assert_identity(hico.merge_tokens(x, 11, num_heads=2, order=order), x)
    size = torch.rand(2, 11, device=device).to(dtype) + 0.3
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert_identity(hico.merge_tokens(x, 11, size=size, order=order), x, size.to(wide))
    counts = torch.randint(1, 9, (2, 11), device=device)
    result = hico.merge_tokens(x, 11, size=counts, protected=11, order=order)
    assert_identity(result, x, counts.int())


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8])
def test_down_to_one(n, device):
    x = clusters(2, n, 5, centres=3).to(device)
    result = hico.merge_tokens(x, 1)
    assert_merged(result, expect(x, 1, order="position"), x)
    assert result.size.eq(n).all() and result.map.assign.eq(0).all()


def test_empty(device):
    for order in ORDERS:
        result = hico.merge_tokens(torch.zeros(0, 9, 4, device=device), 3, order=order)
        assert result.tokens.shape == (0, 3, 4) and result.map.assign.shape == (0, 9)
        result = hico.merge_tokens(torch.zeros(2, 0, 4, device=device), 0, order=order)
        assert result.tokens.shape == (2, 0, 4) and result.size.shape == (2, 0)
    x = torch.zeros(0, 9, 4, device=device, requires_grad=True)
    hico.merge_tokens(x, 3).tokens.sum().backward()
    assert x.grad.shape == (0, 9, 4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n", [9, 12])
@pytest.mark.parametrize("protected", [1, 2, 3])
def test_protected(protected, n, order, device):
    x = clusters(2, n, 6, centres=4, seed=3).to(device)
    for m in (protected + 1, n - 2):
        result = hico.merge_tokens(x, m, num_heads=2, protected=protected, order=order)
        assert_merged(result, expect(x, m, heads=2, protected=protected, order=order), x)
        first = torch.arange(protected, device=device).expand(2, -1)
        assert torch.equal(result.map.anchor[:, :protected], first)
        assert torch.equal(result.tokens[:, :protected], x[:, :protected])
        assert result.size[:, :protected].eq(1).all()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("protected", [0, 2])
def test_ragged(protected, order, device):
    n, m = 21, 6
    lengths = torch.tensor([21, 0, 1, m - 1, m, m + 1, 20], device=device)
    x = clusters(7, n, 6, centres=5, seed=2).to(device)
    size = torch.randint(1, 7, (7, n), device=device)
    padding = torch.arange(n, device=device) >= lengths[:, None]
    x = x.masked_fill(padding[..., None], torch.nan)
    size = size.masked_fill(padding, -99)
    options = {"protected": protected, "order": order, "lengths": lengths}
    result = hico.merge_tokens(x, m, num_heads=2, size=size, **options)
    assert_merged(result, expect(x, m, heads=2, size=size, **options), x)
    short = lengths <= m
    assert torch.equal(result.map.anchor[short] >= 0, ~padding[short, :m])
    kept = ~padding[short, :m]
    assert torch.equal(result.tokens[short][kept], x[short, :m][kept])
    assert result.tokens[short][~kept].eq(0).all() and result.size[short][~kept].eq(0).all()
    int32 = hico.merge_tokens(x, m, num_heads=2, size=size, **options | {"lengths": lengths.int()})
    assert torch.equal(int32.map.assign, result.map.assign)


def test_ragged_rows_are_rows_alone(device):
    x = clusters(3, 300, 8, centres=1, noise=0.2).to(device)
    x[1:, 1::2] *= -1  # every cosine is negative, so whatever padding is given would win
    lengths = torch.tensor([300, 151, 64], device=device)
    together = hico.merge_tokens(x, 20, lengths=lengths)
    for b, end in enumerate(lengths.tolist()):
        alone = hico.merge_tokens(x[b : b + 1, :end].contiguous(), 20)
        assert torch.equal(together.tokens[b], alone.tokens[0])
        assert torch.equal(together.map.assign[b, :end], alone.map.assign[0])


@pytest.mark.parametrize("kind", SIZES)
def test_size_weights(kind, device):
    x = clusters(2, 22, 6, centres=4).to(device)
    size = torch.randint(1, 9, (2, 22), device=device).to(kind)
    if kind.is_floating_point:
        size = size + torch.rand(2, 22, device=device).to(kind)
    result = hico.merge_tokens(x, 5, num_heads=2, size=size)
    assert result.size.dtype == (torch.float32 if kind.is_floating_point else torch.int32)
    want = expect(x, 5, heads=2, size=size, order="position")
    for b, row in enumerate(want):
        assert result.map.assign[b].tolist() == row.assign and row.margin > 1e-6
        for ours, true in ((result.tokens[b], row.tokens), (result.size[b], row.size)):
            np.testing.assert_allclose(rows(ours), true, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("d", [1, 60, 88, 130, 300])
def test_metric_widths(d, dtype, device):
    x = torch.randn(1, 21, 3, device=device)
    metric = clusters(1, 21, d, centres=4, seed=1).to(device, dtype)
    want = expect(x, 4, metric=metric)
    # on a line all cosines are 1 or -1, exactly, and every round is full of ties
    assert_merged(hico.merge_tokens(x, 4, metric=metric, order="reference"), want, x, sure=d > 1)


def test_metric_of_another_dtype(device):
    x = clusters(2, 20, 6, dtype=torch.bfloat16).to(device).requires_grad_()
    metric = clusters(2, 20, 8, seed=1, dtype=torch.float64).to(device).requires_grad_()
    result = hico.merge_tokens(x, 5, metric=metric)
    assert_merged(result, expect(x, 5, metric=metric, order="position"), x)
    result.tokens.sum().backward()
    assert x.grad is not None and metric.grad is None


@pytest.mark.parametrize("order", ORDERS)
def test_ties(order, device):
    ones = torch.ones(2, 20, 4, device=device)
    for m in (1, 5, 13):  # everything ties in every round
        want = expect(ones, m, order=order)
        assert_merged(hico.merge_tokens(ones, m, order=order), want, ones, sure=False)
    axes = torch.eye(4, device=device).repeat(1, 6, 1)[:, torch.randperm(24)]
    result = hico.merge_tokens(axes, 16, order=order)  # eight of twelve, among many equals
    assert_merged(result, expect(axes, 16, order=order), axes, sure=False)
    wide = torch.eye(8, device=device).repeat(1, 40, 1)[:, torch.randperm(320)]
    assert_merged(
        hico.merge_tokens(wide, 250, order=order), expect(wide, 250, order=order), wide, sure=False
    )


@pytest.mark.parametrize("seed", [0, 6, 10])
def test_narrow_range(seed, device):
    x = 1 + 0.02 * clusters(1, 60, 16, centres=60, seed=seed).to(device)  # all cosines above 0.998
    assert_merged(hico.merge_tokens(x, 20, order="reference"), expect(x, 20), x)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_adversarial(dtype, order, device):
    x = clusters(2, 24, 6, centres=4, seed=5, dtype=dtype).to(device)
    zeros = torch.zeros_like(x)
    result = hico.merge_tokens(zeros, 5, order=order)
    assert result.tokens.eq(0).all() and result.size.sum(1).eq(24).all()
    same = equal_rows(x)
    tokens = hico.merge_tokens(same, 5, order=order).tokens
    eps = torch.finfo(dtype).eps
    assert (tokens - same[:, :5]).abs().max() <= 2 * eps * same.abs().max()
    some = zero_rows(x)
    result = hico.merge_tokens(some, 12, order=order)
    assert_merged(result, expect(some, 12, order=order), some, sure=False)


def test_zero_tokens_gather_among_themselves(device):
    x = clusters(1, 24, 6, centres=4).to(device)
    x[:, 1::2] = 0  # every destination is zero
    x[0, 2] = 0
    result = hico.merge_tokens(x, 23)  # of twelve sources the zero one alone has a cosine of 1
    assert result.map.assign[0, 2] == result.map.assign[0, 1]
    assert result.size[0, 1] == 2 and result.tokens[0, 1].eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nonfinite_tokens_stay_in_their_slots(dtype, device):
    x = nonfinite_rows(clusters(2, 24, 6, centres=4, seed=1, dtype=dtype).to(device), 7)
    ok = torch.isfinite(x).all(-1)
    for m in (1, 6, 14, 24) if dtype == torch.float32 else (6,):
        result = hico.merge_tokens(x, m)
        # the choice is that of zero vectors in their place
        zeroed = hico.merge_tokens(torch.where(ok[..., None], x, 0), m)
        assert torch.equal(result.map.assign, zeroed.map.assign)
        touched = (
            torch.zeros(2, m, device=device).scatter_add(1, result.map.assign, (~ok).float()) > 0
        )
        assert torch.equal(torch.isfinite(result.tokens).all(-1), ~touched)
        assert torch.equal(result.tokens[~touched], zeroed.tokens[~touched])


def test_a_huge_token_disturbs_nobody(device):
    x = clusters(1, 24, 4, centres=4).to(device)
    x[0, 2] = 3e38  # finite, but its norm is not, and no sum with it
    result = hico.merge_tokens(x, 4, order="reference")
    metric = reference.merge.head_mean(x.cpu(), 1)
    assign, anchor = reference.merge.merge_rounds(metric, 4, None, None, 0, False)[:2]
    assert torch.equal(result.map.assign.cpu(), assign)
    assert torch.equal(result.map.anchor.cpu(), anchor)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_magnitudes(scale, device):
    x = clusters(1, 24, 6, centres=4, seed=1).to(device) * scale
    result = hico.merge_tokens(x, 5, order="reference")
    assert_merged(result, expect(x, 5), x)


def test_every_form_gives_the_same(device, kernels, monkeypatch):
    """Wide tiles for few rows or narrow ones: the same bits, whatever the launcher chose."""
    if not kernels:
        pytest.skip("one form only")
    from hico.kernels import merge as module

    x = clusters(3, 90, 8).to(device)
    x[:, 1::2] *= -1  # partners are far from each other
    x[1, 3], x[2, 4] = 0, torch.nan
    lengths = torch.tensor([90, 41, 9], device=device)
    ragged = {
        "lengths": lengths,
        "order": "reference",
        "size": torch.rand(3, 90, device=device) + 1,
    }
    for dtype, options in ((torch.bfloat16, {}), (torch.float32, ragged | {"protected": 3})):
        plain = hico.merge_tokens(x.to(dtype), 20, num_heads=2, **options)
        for few in (0, 1 << 30):
            with monkeypatch.context() as patch:
                patch.setattr(module, "FEW_ROWS", few)
                other = hico.merge_tokens(x.to(dtype), 20, num_heads=2, **options)
            for ours, same in zip(other[:2], plain[:2], strict=True):
                torch.testing.assert_close(ours, same, rtol=0, atol=0, equal_nan=True)
            assert torch.equal(other.map.assign, plain.map.assign)
            assert torch.equal(other.map.anchor, plain.map.anchor)


BAD = {
    "x: expected .* got list": lambda x: hico.merge_tokens([x], 3),
    r"x: expected .* got \[12, 8\]": lambda x: hico.merge_tokens(x[0], 3),
    "x: expected .* got torch.int64": lambda x: hico.merge_tokens(x.long(), 3),
    "num_tokens: expected .*12, got 13": lambda x: hico.merge_tokens(x, 13),
    "num_tokens: expected 1 <= .* got 0": lambda x: hico.merge_tokens(x, 0),
    "num_tokens: expected 4 <= .* got 3": lambda x: hico.merge_tokens(x, 3, protected=3),
    "num_tokens: expected .* got float": lambda x: hico.merge_tokens(x, 3.0),
    "protected: expected .* got -1": lambda x: hico.merge_tokens(x, 3, protected=-1),
    "num_heads: expected a divisor of 8.* got 3": lambda x: hico.merge_tokens(x, 3, num_heads=3),
    "num_heads: expected .* got 0": lambda x: hico.merge_tokens(x, 3, num_heads=0),
    "expected num_heads or metric, got both": lambda x: hico.merge_tokens(
        x, 3, num_heads=2, metric=x
    ),
    r"metric: expected .*\[2, 12, 8\], got \[2, 11, 8\]": lambda x: hico.merge_tokens(
        x, 3, metric=x[:, :11]
    ),
    "metric: expected .* got torch.int32": lambda x: hico.merge_tokens(x, 3, metric=x.int()),
    r"size: expected .*\[2, 12\], got \[2, 12, 1\]": lambda x: hico.merge_tokens(
        x, 3, size=torch.ones(2, 12, 1)
    ),
    "size: expected .* got torch.bool": lambda x: hico.merge_tokens(
        x, 3, size=torch.ones(2, 12).bool()
    ),
    "order: expected .* got 'random'": lambda x: hico.merge_tokens(x, 3, order="random"),
    r"lengths: expected .*\[2\], got \[1\]": lambda x: hico.merge_tokens(
        x, 3, lengths=torch.tensor([3])
    ),
    "lengths: expected .* got list": lambda x: hico.merge_tokens(x, 3, lengths=[3, 4]),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises(ValueError, match=message):
        BAD[message](torch.ones(2, 12, 8))
