"""The reference against brute force on tiny inputs, ties and all: what the kernels are held to."""

import itertools

import pytest
import torch
from brute_force import assert_partners, match, merge, rows

from hico import reference
from hico.testing import clusters, nonfinite_rows, zero_rows

merging, matching, segments = reference.merge, reference.match, reference.segment


def grid_vectors(n, seed):
    """On the axes, or zero: cosines of -1, 0 and 1, exact in any precision, and many ties."""
    generator = torch.Generator().manual_seed(seed)
    axis = torch.randint(0, 3, (1, n), generator=generator)
    sign = torch.randint(-1, 2, (1, n, 1), generator=generator)
    return torch.eye(3, dtype=torch.float64)[axis] * sign


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_match(seed, dtype):
    metric = grid_vectors(11, seed).to(dtype)
    order = torch.randperm(11)[None]
    for src, dst in ((order[:, :6], order[:, 6:]), (order[:, :2], order[:, 2:]), (order, order)):
        for lag, size, end in itertools.product((None, 0, 1), (2, 4), (11, 7, 0)):
            value, index = matching.match(metric, src, dst, lag, size, torch.tensor([end]))

            def allowed(i, j, lag=lag, size=size, end=end):
                return i < end and j < end and (lag is None or i // size - j // size == lag)

            expected = match(rows(metric[0]), src[0].tolist(), dst[0].tolist(), allowed)
            assert_partners(value[0], index[0], expected)


def test_match_protects_both_sides():
    metric = clusters(1, 12, 4)
    even, odd = torch.arange(0, 12, 2)[None], torch.arange(1, 12, 2)[None]
    value, index = matching.match(metric, even, odd, protected=3)
    expected = match(
        rows(metric[0]), even[0].tolist(), odd[0].tolist(), lambda i, j: i >= 3 and j >= 3
    )
    assert_partners(value[0], index[0], expected)


def test_cosine_of_zero_and_nonfinite_vectors():
    v = torch.tensor([[[0.0, 0.0], [1.0, 2.0], [torch.nan, 1.0], [torch.inf, 0.0], [1e-42, 0.0]]])
    cos = matching.cosine(v, v)[0]
    ordinary = [False, True, False, False, False]
    for i, j in itertools.product(range(5), range(5)):
        want = 1.0 if ordinary[i] == ordinary[j] else -1.0
        assert abs(cos[i, j] - want) < 1e-6


@pytest.mark.parametrize("protected", range(4))
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 9])
def test_merge_rounds(n, protected):
    for seed, m in itertools.product(range(3), range(min(protected + 1, n), n + 1)):
        metric = clusters(1, n, 3, centres=3, seed=seed, dtype=torch.float64)
        for order in ("reference", "position"):
            assign, anchor = merging.merge_rounds(
                metric, m, None, None, protected, order == "position"
            )[:2]
            want = merge(rows(metric[0]), m, protected=protected, order=order)
            assert assign[0].tolist() == want.assign and anchor[0].tolist() == want.anchor


def test_one_round_of_ties():
    for seed in range(20):
        metric = grid_vectors(12, seed).float()
        for m in range(6, 12):
            assign, anchor = merging.merge_rounds(metric, m, None, None, 0, False)[:2]
            want = merge(rows(metric[0]), m)
            assert assign[0].tolist() == want.assign and anchor[0].tolist() == want.anchor


def test_all_equal_tokens():
    for n, d, m in ((9, 5, 3), (20, 130, 15), (66, 60, 40), (131, 64, 100)):
        same = clusters(1, 1, d).expand(1, n, d)
        assign, anchor = merging.merge_rounds(same, m, None, None, 0, False)[:2]
        if m >= n - n // 2:  # one round: the first sources join the first destination
            assert anchor[0].tolist() == [*range(2 * (n - m), n, 2), *range(1, n, 2)]
            home = anchor[0][assign[0, : 2 * (n - m) : 2]]
            assert home.eq(1).all()


@pytest.mark.parametrize("make", [zero_rows, nonfinite_rows])
def test_zero_and_nonfinite_metrics(make):
    for seed in range(5):
        metric = make(clusters(1, 13, 4, seed=seed, dtype=torch.float64))
        for m in (7, 9, 12):
            assign, anchor = merging.merge_rounds(metric, m, None, None, 0, False)[:2]
            want = merge(rows(metric[0]), m)
            assert assign[0].tolist() == want.assign and anchor[0].tolist() == want.anchor


def test_sizes_and_lengths():
    metric = clusters(5, 11, 4, centres=3, dtype=torch.float64)
    size, lengths = torch.rand(5, 11) + 0.2, torch.tensor([11, 0, 3, 4, 8])
    assign, anchor = merging.merge_rounds(metric, 3, size, lengths, 1, True)[:2]
    for b, end in enumerate(lengths.tolist()):
        want = merge(
            rows(metric[b]), 3, size=rows(size[b]), protected=1, order="position", length=end
        )
        assert assign[b].tolist() == want.assign + [-1] * (11 - end)
        assert anchor[b].tolist() == want.anchor + [-1] * (3 - min(end, 3))


@pytest.mark.parametrize("mean", [True, False])
@pytest.mark.parametrize("weighted", [None, "float", "int"])
def test_segment_reduce(weighted, mean):
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    assign = torch.tensor([[0, 2, 2, -1, 0, 0, 2, -1, 4], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
    weights = {
        None: None,
        "float": torch.rand(2, 9, dtype=torch.float64),
        "int": torch.randint(0, 5, (2, 9)),
    }[weighted]
    out, total = segments.segment_reduce(x, assign, 5, weights, mean)
    for b, m in itertools.product(range(2), range(5)):
        members = [n for n in range(9) if assign[b, n] == m]
        w = [1.0 if weights is None else float(weights[b, n]) for n in members]
        want = torch.zeros(3, dtype=torch.float64)
        for w_n, n in zip(w, members, strict=True):
            want += w_n * x[b, n]
        if mean:
            want = want / sum(w) if sum(w) else want * 0
        torch.testing.assert_close(out[b, m], want)
        assert abs(float(total[b, m]) - sum(w)) < 1e-12


def test_weight_grad_is_autograds():
    x, dout = torch.randn(2, 9, 3, dtype=torch.float64), torch.randn(2, 4, 3, dtype=torch.float64)
    assign = torch.tensor([[0, 2, 2, -1, 0, 0, 2, -1, 3], [1, 1, 1, 1, 1, 1, 1, 1, 1]])
    weights = torch.rand(2, 9, dtype=torch.float64, requires_grad=True)
    for mean in (True, False):
        out, total = segments.segment_reduce(x, assign, 4, weights, mean)
        (want,) = torch.autograd.grad(out, weights, dout)
        parts = (out.detach(), total.detach()) if mean else (None, None)
        torch.testing.assert_close(segments.weight_grad(x, dout, assign, *parts), want)


def test_head_mean():
    x = torch.randn(2, 3, 12)
    want = sum(x[..., 4 * h : 4 * h + 4].double() for h in range(3)) / 3
    torch.testing.assert_close(merging.head_mean(x, 3).double(), want)
    assert merging.head_mean(x.bfloat16(), 3).dtype == torch.float32
