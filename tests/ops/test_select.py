"""hico.select against a sort in plain Python, and everything that an op promises."""

import math

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows

import hico
from hico.testing import nonfinite_rows

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SHAPES = [(2, 20), (1, 1), (1, 1025)]


@pytest.fixture(params=["row", "many"])
def path(request, monkeypatch, kernels):
    """A program for each row, and rows of several blocks that several programs share."""
    if request.param == "many" and kernels:
        monkeypatch.setattr("hico.kernels.select.ROW_TILES", ())
        monkeypatch.setattr("hico.kernels.select.BLOCK", 512)
    return request.param


def brute(score, k=None, threshold=None, protect=None, lengths=None, by_score=False):
    """The chosen tokens of every row as lists, by Python's own sort; k and threshold one a row."""
    rows = []
    for b, row in enumerate(score.detach().cpu().double().tolist()):
        guard = [False] * len(row) if protect is None else protect[b].tolist()
        length = len(row) if lengths is None else max(0, min(int(lengths[b]), len(row)))

        def worth(n, row=row):
            return (1, 0.0) if math.isnan(row[n]) else (0, -row[n])

        best = sorted(
            range(length), key=lambda n: (not guard[n], *((0, 0) if guard[n] else worth(n)))
        )
        if threshold is None:
            chosen = sorted(best[: max(0, int(k[b]))])
        else:
            chosen = [n for n in range(length) if guard[n] or row[n] >= float(threshold[b])]
        rows.append(sorted(chosen, key=worth) if by_score else chosen)
    return rows


def padded(rows, width):
    return torch.tensor([row + [-1] * (width - len(row)) for row in rows]).view(len(rows), width)


def some_scores(batch, n, dtype, device):
    """Few enough values that many tie."""
    return (torch.randn(batch, n, device=device) * 8).round().div(8).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n", SHAPES)
def test_k(batch, n, dtype, path, device):
    score = some_scores(batch, n, dtype, device)
    for k in {0, n // 2, n}:
        index = hico.select(score, k)
        assert index.dtype == torch.int64 and index.shape == (batch, k)
        assert torch.equal(index.cpu(), padded(brute(score, [k] * batch), k))


def adversarial(kind, n, dtype, device):
    """Scores that a sloppy comparison would confuse."""
    info = torch.finfo(dtype)
    step = torch.arange(n, device=device, dtype=torch.float64)
    if kind == "equal":
        return torch.full((1, n), 0.7, dtype=dtype, device=device)
    if kind == "two values":
        return (step.fmod(7) < 2).to(dtype)[None]
    if kind == "subnormal":  # multiples of the smallest number, below and above zero
        tiny = info.smallest_normal * info.eps
        return ((step * 37 % 101 - 50) * tiny).to(dtype)[None]
    if kind == "narrow":  # apart in the last bits only
        return (1 + (step * 29 % 64) * info.eps).to(dtype)[None]
    if kind == "extreme":
        values = torch.tensor([info.max, -info.max, 0.0, -0.0, 1.0, math.inf, -math.inf])
        return values.to(device, torch.float64)[(step * 5 % 7).long()].to(dtype)[None]
    if kind == "nan":
        x = torch.randn(1, n, 1, device=device).to(dtype)
        x = nonfinite_rows(x, 3)[..., 0]
        x[0, 1::9] = -x[0, 0].abs()  # a NaN with its sign set
        return x
    assert kind == "all nan"
    return torch.full((1, n), torch.nan, dtype=dtype, device=device)


KINDS = ("equal", "two values", "subnormal", "narrow", "extreme", "nan", "all nan")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_adversarial(kind, dtype, path, device):
    n = 700
    score = adversarial(kind, n, dtype, device)
    for k in (1, 350):
        assert torch.equal(hico.select(score, k).cpu(), padded(brute(score, [k]), k))
    # a float sort that is stable agrees, wherever it is defined
    if kind not in ("nan", "all nan"):
        want = score.cpu().double().sort(descending=True, stable=True).indices[:, :350]
        assert torch.equal(hico.select(score, 350, order="score").cpu(), want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_ragged_and_protected(dtype, path, device):
    score = some_scores(3, 600, dtype, device)
    score[:, 10:40] = torch.nan
    lengths, protect = torch.tensor([600, 250, 0]), torch.rand(3, 600) < 0.1
    both = {"lengths": lengths, "protect": protect}
    for k, given in ((260, {"protect": protect}), (20, both), (260, both)):
        there = {name: t.to(device) for name, t in given.items()}
        index = hico.select(score, k, **there)
        assert torch.equal(index.cpu(), padded(brute(score, [k] * 3, **given), k))
    want = brute(score, [300] * 3, protect=protect[:1].expand(3, -1))
    got = hico.select(score, 300, protect=protect[0].to(device))
    assert torch.equal(got.cpu(), padded(want, 300))


@pytest.mark.parametrize("kind", [torch.int64, torch.int32])
def test_k_of_each_row(kind, path, device):
    score = some_scores(6, 600, torch.float32, device)
    k = torch.tensor([0, 1, 300, 600, 9999, -3], dtype=kind)
    lengths = torch.tensor([600, 600, 200, 600, 600, 600])
    index, count = hico.select(score, k.to(device), lengths=lengths.to(device))
    want = brute(score, k.clamp(max=600), lengths=lengths)
    assert index.shape == (6, 600) and torch.equal(index.cpu(), padded(want, 600))
    assert count.dtype == torch.int64 and count.tolist() == [0, 1, 200, 600, 600, 0]
    best, count = hico.select(score, k.to(device), order="score")
    want = brute(score, k.clamp(max=600), by_score=True)
    assert torch.equal(best.cpu(), padded(want, 600)) and count.tolist() == list(map(len, want))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_threshold(dtype, path, device):
    score = some_scores(6, 600, dtype, device)
    score[:, ::7], score[:, 1::50], score[:, 2::50] = torch.nan, torch.inf, -torch.inf
    cuts = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 0.375], device=device)
    lengths = torch.tensor([600, 20, 600, 600, 600, 0])
    protect = torch.rand(6, 600) < 0.05
    for given in ({}, {"lengths": lengths, "protect": protect}):
        there = {name: t.to(device) for name, t in given.items()}
        index, count = hico.select(score, threshold=cuts, **there)
        want = brute(score, threshold=cuts, **given)
        assert torch.equal(index.cpu(), padded(want, 600)) and count.tolist() == list(
            map(len, want)
        )
    index, count = hico.select(score, threshold=0.25)
    want = brute(score, threshold=[0.25] * 6)
    assert torch.equal(index.cpu(), padded(want, 600)) and count.tolist() == list(map(len, want))


@pytest.mark.parametrize("dtype", DTYPES)
def test_order_score(dtype, device):
    score = some_scores(3, 300, dtype, device)
    score[0, ::5], score[1, ::4], score[2, 1] = torch.nan, -0.0, torch.inf
    lengths, protect = torch.tensor([300, 120, 40]), torch.rand(3, 300) < 0.1
    there = {"lengths": lengths.to(device), "protect": protect.to(device), "order": "score"}
    got = hico.select(score, 200, **there)
    want = brute(score, [200] * 3, protect=protect, lengths=lengths, by_score=True)
    assert torch.equal(got.cpu(), padded(want, 200))


def test_ratio(device):
    score = torch.randn(3, 100, device=device)
    assert torch.equal(hico.select(score, ratio=0.29), hico.select(score, 28))
    assert (
        hico.select(score, ratio=0).shape == (3, 0) and hico.select(score, ratio=1).shape[1] == 100
    )
    lengths = torch.tensor([100, 50, 7], device=device)
    index = hico.select(score, ratio=0.29, lengths=lengths)
    assert index.shape == (3, 28) and (index >= 0).sum(1).tolist() == [28, 14, 2]
    for b, n in enumerate(lengths.tolist()):  # a row of a batch keeps what it keeps alone
        alone = hico.select(score[b : b + 1, :n], ratio=0.29)
        assert torch.equal(index[b : b + 1, : alone.shape[1]], alone)


def test_long_rows(device):
    """More tokens than one program has registers for, in the tiles that users get."""
    score = some_scores(2, 16500, torch.float32, device)
    lengths = torch.tensor([16500, 9000])
    got = hico.select(score, 5000, lengths=lengths.to(device))
    assert torch.equal(got.cpu(), padded(brute(score, [5000] * 2, lengths=lengths), 5000))


def test_empty(path, device):
    for batch, n in ((0, 5), (2, 0), (0, 0)):
        score = torch.empty(batch, n, device=device)
        assert hico.select(score, 0).shape == (batch, 0)
        assert hico.select(score, ratio=1.0, order="score").shape == (batch, n)
        index, count = hico.select(score, threshold=0.0)
        assert index.shape == (batch, n) and count.tolist() == [0] * batch
        index, count = hico.select(score, torch.ones(batch, dtype=torch.int64, device=device))
        assert index.shape == (batch, n) and count.tolist() == [0] * batch


def test_no_gradient(device):
    score = torch.randn(2, 30, device=device, requires_grad=True)
    index, count = hico.select(score, threshold=score[:, 0])
    assert not index.requires_grad and not count.requires_grad


def test_repeat_is_bitwise(path, device):
    score = torch.randn(2, 900, device=device)
    assert torch.equal(hico.select(score, 300), hico.select(score, 300))


def test_noncontiguous(device):
    score = torch.randn(3, 200, device=device)
    protect = torch.rand(3, 200, device=device) < 0.1
    lengths = torch.tensor([200, 150, 10], device=device)
    want = hico.select(score, 50, protect=protect, lengths=lengths)
    spread = torch.full((3, 400), torch.nan, device=device)
    spread[:, ::2] = score
    wide = torch.stack([lengths, -lengths], 1)
    for view in (score.mT.contiguous().mT, spread[:, ::2]):
        flags = protect.mT.contiguous().mT
        assert torch.equal(hico.select(view, 50, protect=flags, lengths=wide[:, 0]), want)
    one = hico.select(score[:1].expand(3, -1), 50)
    assert torch.equal(one, hico.select(score[:1], 50).expand(3, -1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_opcheck(dtype, device):
    score = torch.randn(2, 40, device=device).to(dtype)
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    flags, ints = score > 1, torch.tensor([40, 9], device=device)
    op = torch.ops.hico.select.default
    torch.library.opcheck(op, (score, 10, None, None, None, None))
    torch.library.opcheck(op, (score, 40, ints, None, flags, ints))
    cuts = torch.zeros(2, dtype=kind, device=device)
    torch.library.opcheck(op, (score, 40, None, cuts, flags, ints))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(score, lengths, k):
        score = score * 2
        ragged = hico.select(score, ratio=0.25, lengths=lengths)
        best = hico.select(score, 5, protect=score[0] > 1, order="score")
        return ragged + 1, best, hico.select(score, threshold=0.5), hico.select(score, k)

    for n in (20, 33, 61):
        score, lengths = torch.randn(3, n, device=device), torch.tensor([n, 7, 0], device=device)
        k = torch.tensor([3, n, 0], device=device)
        got, double = run(score, lengths, k), score * 2
        assert torch.equal(got[0], hico.select(double, ratio=0.25, lengths=lengths) + 1)
        assert torch.equal(got[1], hico.select(double, 5, protect=double[0] > 1, order="score"))
        for ours, want in zip(got[2], hico.select(double, threshold=0.5), strict=True):
            assert torch.equal(ours, want)
        for ours, want in zip(got[3], hico.select(double, k), strict=True):
            assert torch.equal(ours, want)
        assert compiler.frame_count <= 2


def every_way(score, k, lengths, protect):
    return (
        hico.select(score, 700, lengths=lengths, protect=protect),
        hico.select(score, ratio=0.25, lengths=lengths),
        *hico.select(score, k, order="score"),
        *hico.select(score, threshold=0.5, protect=protect[0]),
    )


@pytest.mark.gpu
@pytest.mark.parametrize("n", [3000, 160_256])
def test_cuda_graph_without_synchronisation(n, device):
    score, other = torch.randn(2, 2, n, device=device)
    protect, lengths = other > 2, torch.tensor([n, n // 2], device=device)
    k = torch.tensor([5, 700], device=device)
    run = lambda: every_way(score, k, lengths, protect)  # noqa: E731
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    outs = replay(run, lambda: score.copy_(other))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
@pytest.mark.parametrize("n", [1000, 16_384, 131_072, 160_256])
def test_is_the_stable_sort(n, device):
    score = torch.randn(4, n, device=device).bfloat16().float()  # ties at every cut
    for k in (1, n // 4, n - 1):
        best = score.sort(dim=1, descending=True, stable=True).indices[:, :k]
        assert torch.equal(hico.select(score, k), best.sort(dim=1).values)
        assert torch.equal(hico.select(score, k, order="score"), best)


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, n, k):
        score = torch.randn(batch, n, device=device)
        hico.select(score, k)
        hico.select(score, threshold=0.0)

    for n in (1000, 4000, 16_000, 20_000):
        run(2, n, 250)
    before = compiled()
    for shape in ((1, 1, 1), (3, 1024, 16), (64, 784, 0), (1, 160_256, 40_064), (5, 16_400, 16)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
@pytest.mark.parametrize("n", [784, 131_072])
def test_large_offsets(n, device):
    score = many_rows(n, 1)[..., 0]
    index = hico.select(score, 16)
    for part in some_rows(len(score)):
        assert torch.equal(index[part], hico.select(score[part].clone(), 16))


def test_bad_input():
    score, select = torch.ones(2, 6), hico.select
    flags = torch.ones(2, 6, dtype=torch.bool)
    for message, call in {
        r"score: expected \[B, N\], got \[6\]": lambda: select(score[0], 1),
        "score: expected .* got list": lambda: select([0.5], 1),
        "score: expected .* got torch.int64": lambda: select(score.long(), 1),
        "expected exactly one of k, ratio and threshold, got k=None": lambda: select(score),
        "expected exactly one of .* ratio=0.5": lambda: select(score, 2, ratio=0.5),
        "expected exactly one of .* threshold=0": lambda: select(score, 2, threshold=0),
        "k: expected 0 <= k <= 6, got 7": lambda: select(score, 7),
        "k: expected 0 <= k <= 6, got -1": lambda: select(score, -1),
        "k: expected an integer, got float": lambda: select(score, 2.0),
        "k: expected an integer, got bool": lambda: select(score, True),
        r"k: expected shape \[2\], got \[3\]": lambda: select(score, torch.ones(3).long()),
        "k: expected int64 or int32, got torch.float32": lambda: select(score, torch.ones(2)),
        "ratio: expected 0 <= ratio <= 1, got 1.5": lambda: select(score, ratio=1.5),
        "ratio: expected 0 <= ratio <= 1, got nan": lambda: select(score, ratio=math.nan),
        "ratio: expected a number, got str": lambda: select(score, ratio="half"),
        "threshold: expected a number .* got str": lambda: select(score, threshold="low"),
        "threshold: expected a number .* got bool": lambda: select(score, threshold=True),
        r"threshold: expected shape \[2\], got \[6\]": lambda: select(score, threshold=score[0]),
        r"protect: expected shape \[2, 6\], got \[2, 5\]": lambda: select(
            score, 1, protect=flags[:, 1:]
        ),
        r"protect: expected shape \[6\], got \[5\]": lambda: select(score, 1, protect=flags[0, 1:]),
        "protect: expected bool, got torch.float32": lambda: select(score, 1, protect=score),
        r"lengths: expected shape \[2\]": lambda: select(score, 1, lengths=torch.ones(3).long()),
        "lengths: expected int64 or int32": lambda: select(score, 1, lengths=torch.ones(2)),
        "order: expected one of 'position', 'score', got 'up'": lambda: select(
            score, 1, order="up"
        ),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("far", [1e300, 10**400])
def test_far_thresholds(far, device):
    """Beyond what the scores' type holds it is an infinity."""
    score = torch.tensor([[1.0, torch.inf, -torch.inf]], device=device)
    assert hico.select(score, threshold=far)[0].tolist() == [[1, -1, -1]]
    assert hico.select(score, threshold=-far)[1].tolist() == [3]
