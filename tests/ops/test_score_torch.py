"""hico.attention_score inside PyTorch: opcheck, compile, graphs, splits, wrong arguments."""

import pytest
import torch
from gpu_helpers import compiled, replay, trace
from score_helpers import check, scattered, states

import hico


def options(batch, rows, n, dim, device) -> dict:
    """Everything that can be given, but lse."""
    cos, sin = torch.randn(2, batch, n, dim, device=device)
    return {
        "query_positions": scattered(batch, rows, n, device),
        "query_mask": torch.rand(batch, rows, device=device) < 0.8,
        "key_mask": torch.rand(batch, n, device=device) < 0.8,
        "lengths": torch.randint(1, n + 1, (batch,), device=device),
        "key_range": (n // 8, n - 1),
        "cos": cos,
        "sin": sin,
    }


@pytest.mark.parametrize("rows", [1, 9])
def test_repeat_is_bitwise(rows, device):
    q, k = states(2, 4, 2, rows, 70, 32, torch.bfloat16, device)
    given = options(2, rows, 70, 32, device)
    first, second = (hico.attention_score(q, k, **given) for _ in "ab")
    assert torch.equal(first, second)


@pytest.mark.parametrize("rows", [1, 9])
def test_any_split(rows, device, kernels, monkeypatch):
    """The keys in one part, in three, in one a block: the same scores."""
    if not kernels:
        return  # the plain form splits nothing
    from hico.kernels import _score_lse as module

    q, k = states(1, 4, 2, rows, 100, 32, torch.float32, device)
    positions, programs = scattered(1, rows, 100, device), 2 if rows == 1 else 4
    wanted = hico.attention_score(q, k, query_positions=positions)
    for splits, blocks in ((1, 4), (2, 2)):
        monkeypatch.setattr(module, "PROGRAMS", splits * programs)
        assert module.key_splits(4, programs) == (splits, blocks)
        score = check(q, k, query_positions=positions)
        torch.testing.assert_close(score, wanted)
        check(q, k)  # blocks that need no mask


def test_no_gradient(device):
    q, k = (t.requires_grad_() for t in states(1, 2, 1, 3, 9, 16, torch.float32, device))
    assert not hico.attention_score(q, k).requires_grad


@pytest.mark.parametrize("rows, dtype", [(1, torch.bfloat16), (9, torch.float32)])
def test_opcheck(rows, dtype, device):
    op = torch.ops.hico.attention_score.default
    q, k = states(2, 4, 2, rows, 12, 16, dtype, device)
    none = (None,) * 7
    torch.library.opcheck(op, (q, k, *none, 0, 12, None, "mean", "mean"))
    given = options(2, rows, 12, 16, device)
    start, stop = given.pop("key_range")
    names = ("query_positions", "query_mask", "key_mask", "lengths", "cos", "sin")
    args = [given[name] for name in names]
    cache = torch.randn(2, 2, 30, 16, device=device).to(dtype)[:, :, 3:15]
    torch.library.opcheck(op, (q, cache, *args, None, start, stop, 0.5, "kv", "max"))
    lse = torch.ones(2, 4, rows, device=device)
    torch.library.opcheck(op, (q.double(), k.double(), *none[1:], lse, 0, 12, 0.5, "max", "sum"))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(q, k, positions, lengths):
        n = k.shape[2]
        score = hico.attention_score(
            q * 1, k, query_positions=positions, lengths=lengths, key_range=(1, n - 1)
        )
        return score * 2

    for rows, n in ((3, 20), (5, 31), (9, 24)):
        q, k = states(2, 4, 2, rows, n, 16, torch.float32, device)
        positions = scattered(2, rows, n, device)
        lengths = torch.tensor([n, n - 2], device=device)
        want = hico.attention_score(
            q, k, query_positions=positions, lengths=lengths, key_range=(1, n - 1)
        )
        assert torch.equal(run(q, k, positions, lengths), want * 2)
        assert compiler.frame_count == 1


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64])
def test_cuda_graph(rows, device):
    q, k = states(2, 28, 4, rows, 3000, 128, torch.bfloat16, device)
    given, other = options(2, rows, 3000, 128, device), torch.randn_like(k)

    def run():
        return hico.attention_score(q, k, **given), hico.attention_score(q, k, reduce_heads="kv")

    outs = replay(run, lambda: k.copy_(other))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64])
def test_no_sync(rows, device):
    q, k = states(2, 28, 4, rows, 3000, 128, torch.bfloat16, device)
    given, lse = options(2, rows, 3000, 128, device), torch.ones(2, 28, rows, device=device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        hico.attention_score(q, k, **given)
        hico.attention_score(q, k, lse=lse, reduce_heads="max")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_no_recompile(device):
    def run(batch, rows, n, start):
        q, k = states(batch, 28, 4, rows, n, 128, torch.bfloat16, device)
        positions = scattered(batch, rows, n, device)
        hico.attention_score(q, k, query_positions=positions, key_range=(start, n))

    run(2, 1, 1000, 16)
    run(2, 64, 1000, 16)
    run(2, 64, 200_000, 16)  # enough rows and keys for a kernel to add up the parts
    before = compiled()
    for shape in ((1, 1, 1, 0), (3, 1, 77, 1), (1, 65, 4097, 3), (2, 100, 50_000, 1)):
        run(*shape)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_launches(device, unpoisoned):
    """Two kernels for few rows, and for many four at most; nothing is copied."""
    cache = torch.randn(1, 4, 9000, 128, dtype=torch.bfloat16, device=device)
    for rows, most in ((1, 2), (64, 4)):
        q, _ = states(1, 28, 4, rows, 1, 128, torch.bfloat16, device)
        names = trace(lambda q=q: hico.attention_score(q, cache[:, :, 500:8000]))
        assert len(names) <= most, names


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 64])
def test_memory(rows, device, unpoisoned):
    """No weights of M x N, no repeated keys: little more than the scores."""
    q, k = states(1, 28, 4, rows, 100_000, 128, torch.bfloat16, device)
    hico.attention_score(q, k)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    hico.attention_score(q, k)
    peak = torch.cuda.max_memory_allocated() - before
    few = 4 * 28 * 100_352 if rows == 1 else 0  # the logits of few rows
    assert peak <= few + 4 * 5 * 100_000 + (8 << 20)


@pytest.mark.gpu
@pytest.mark.parametrize("rows", [1, 20])
def test_large_offsets(rows, device):
    """More than 2**31 elements of k, in one row and over rows."""
    for batch, n in ((1, 5_000_000), (700, 8000)):
        k = torch.empty(batch, 4, n, 128, dtype=torch.bfloat16, device=device).normal_()
        q = torch.randn(batch, 4, rows, 128, dtype=torch.bfloat16, device=device)
        near = (n - 500, n)
        last = torch.arange(n, device=device) >= near[0]
        score = hico.attention_score(q, k, key_range=near, key_mask=last)
        want = hico.attention_score(q[-1:], k[-1:, :, near[0] :].clone())
        torch.testing.assert_close(score[-1:], want)
        del k


def test_bad_input():
    q, k, score = torch.ones(2, 4, 3, 8), torch.ones(2, 2, 5, 8), hico.attention_score
    table = torch.ones(5, 8)
    for message, call in {
        r"q: expected \[B, Hq, M, D\].* got \[4, 3, 8\]": lambda: score(q[0], k),
        "q: expected .* got NoneType": lambda: score(None, k),
        "q: expected .* got torch.int64": lambda: score(q.long(), k),
        "q: expected D <= 256, got 300": lambda: score(torch.ones(1, 1, 1, 300), k),
        r"k: expected .* got \[2, 5, 8\]": lambda: score(q, k[:, 0]),
        r"k: expected \[2, Hkv, N, 8\].* got \[1, 2, 5, 8\]": lambda: score(q, k[:1]),
        "k: expected .*torch.float32.* got .*torch.float16": lambda: score(q, k.half()),
        "k: expected heads that divide 4.* got 3": lambda: score(q, torch.ones(2, 3, 5, 8)),
        "query_positions: expected .* got": lambda: score(q, k, query_positions=torch.ones(2, 3)),
        r"query_positions: .*\[3\], got \[4\]": lambda: score(
            q, k, query_positions=torch.ones(4, dtype=torch.int64)
        ),
        "query_mask: expected bool": lambda: score(q, k, query_mask=torch.ones(2, 3)),
        r"key_mask: expected .*\[2, 5\], got \[2, 3\]": lambda: score(q, k, key_mask=q[:, 0, :, 0]),
        "lengths: expected int64 or int32": lambda: score(q, k, lengths=torch.ones(2)),
        r"lse: expected .*\[2, 4, 3\], got \[4, 3\]": lambda: score(q, k, lse=q[0, ..., 0]),
        "cos, sin: expected both.* only cos": lambda: score(q, k, cos=table),
        "cos, sin: expected both.* only sin": lambda: score(q, k, sin=table),
        r"sin: expected .*\[5, 8\], got \[5, 4\]": lambda: score(q, k, cos=table, sin=table[:, :4]),
        r"cos: expected .*\[5, 8\], got \[5, 6\]": lambda: score(
            q, k, cos=table[:, :6], sin=table[:, :6]
        ),
        "cos: expected floats": lambda: score(q, k, cos=table.long(), sin=table.long()),
        "cos: expected an even D": lambda: score(q[..., :7], k[..., :7], cos=table, sin=table),
        "scale: expected a number > 0.* got inf": lambda: score(q, k, scale=float("inf")),
        "scale: expected a number > 0.* got -1": lambda: score(q, k, scale=-1),
        "scale: expected a number > 0.* got 'big'": lambda: score(q, k, scale="big"),
        r"key_range: expected \(start, stop\)": lambda: score(q, k, key_range=3),
        "key_range stop: expected 0 <= .* got 6": lambda: score(q, k, key_range=(0, 6)),
        "key_range start: expected 0 <= .* got 3": lambda: score(q, k, key_range=(3, 2)),
        "reduce_heads: expected one of .* got 'all'": lambda: score(q, k, reduce_heads="all"),
        "reduce_queries: expected one of .* got 'kv'": lambda: score(q, k, reduce_queries="kv"),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
