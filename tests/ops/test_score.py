"""hico.attention_score against the published form, loops, and everything that an op promises."""

import itertools
import math

import pytest
import torch
from score_helpers import check, published, scattered, states

import hico

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HEADS, ROWS = ("mean", "max", "sum", "kv"), ("mean", "max", "sum")
# query heads, key heads, rows, keys, head dimension
SHAPES = [
    pytest.param(*s, id="Hq{}-Hkv{}-M{}-N{}-D{}".format(*s))
    for s in [
        (1, 1, 1, 1, 32), (7, 1, 1, 150, 128), (4, 2, 3, 37, 64), (8, 1, 3, 40, 80),
        (4, 1, 64, 33, 32), (2, 2, 70, 25, 96), (2, 1, 70, 20, 256), (4, 4, 16, 50, 36),
        (1, 1, 2, 9, 5),
    ]
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, kv_heads, rows, n, dim", SHAPES)
def test_accuracy(heads, kv_heads, rows, n, dim, dtype, device):
    q, k = states(1, heads, kv_heads, rows, n, dim, dtype, device)
    score = check(q, k, query_positions=scattered(1, rows, n, device))
    assert score.shape == (1, n)
    if dtype == torch.bfloat16:
        check(q, k, heads="kv", rows="max")


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("over_rows", ROWS)
@pytest.mark.parametrize("over_heads", HEADS)
def test_reductions(over_heads, over_rows, rows, device):
    q, k = states(2, 6, 2, rows, 20, 16, torch.float32, device)
    keep = torch.rand(2, rows, device=device) < 0.7
    score = check(q, k, heads=over_heads, rows=over_rows, query_mask=keep)
    assert score.shape == ((2, 2, 20) if over_heads == "kv" else (2, 20))


def by_loops(q, k, positions, rows, keys, lengths, over_rows, over_heads):
    """One weight at a time, in Python's floats."""
    (batch, heads, _, dim), (_, kv_heads, n, _) = q.shape, k.shape
    reduce = {"mean": lambda v: sum(v) / max(len(v), 1), "sum": sum, "max": max}
    score = torch.zeros(batch, n, dtype=torch.float64)
    for b in range(batch):
        table = []
        for h in range(heads):
            per_row = []
            for m in [m for m in range(q.shape[2]) if rows[b, m]]:
                weight = [0.0] * n
                for j in range(min(n, int(positions[b, m]) + 1, int(lengths[b]))):
                    if keys[b, j]:
                        key = k[b, h // (heads // kv_heads), j]
                        pairs = zip(q[b, h, m].tolist(), key.tolist(), strict=True)
                        weight[j] = math.exp(sum(x * y for x, y in pairs) / math.sqrt(dim))
                total = sum(weight) or 1.0
                per_row.append([w / total for w in weight])
            table.append([reduce[over_rows](col) for col in zip(*per_row, strict=True)])
        for j, column in enumerate(zip(*table, strict=True)):
            score[b, j] = reduce[over_heads](column)
    return score


@pytest.mark.parametrize("over_heads, over_rows", list(itertools.product(HEADS[:3], ROWS)))
def test_loops(over_heads, over_rows, device):
    q, k = states(2, 4, 2, 3, 9, 6, torch.float64, device)
    masks = {
        "query_positions": torch.tensor([[8, -1, 4], [2, 0, 30]]),
        "query_mask": torch.tensor([[True, True, False], [True, False, True]]),
        "key_mask": torch.rand(2, 9) < 0.8,
        "lengths": torch.tensor([9, 6]),
    }
    want = by_loops(q, k, *masks.values(), over_rows, over_heads)
    masks = {name: t.to(device) for name, t in masks.items()}
    got = hico.attention_score(q, k, reduce_heads=over_heads, reduce_queries=over_rows, **masks)
    torch.testing.assert_close(got.cpu(), want, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("rows, dtype", [(1, torch.float32), (9, torch.float16)])
def test_padding(rows, dtype, device):
    """Left and right padding; what is padded may hold anything."""
    q, k = states(4, 4, 2, rows, 30, 32, dtype, device)
    lengths = torch.tensor([30, 0, 1, 23], device=device)
    n = torch.arange(30, device=device)
    right, left = n < lengths[:, None], n >= 30 - lengths[:, None]
    score = check(q, k, lengths=lengths)
    assert score[1].eq(0).all() and torch.equal(check(q, k, key_mask=right), score)
    padded = k.masked_fill(~right[:, None, :, None], torch.nan)
    assert torch.equal(hico.attention_score(q, padded, lengths=lengths.int()), score)
    assert torch.equal(hico.attention_score(q, padded, key_mask=right), score)
    check(q, k, key_mask=left, heads="kv", rows="max")
    check(q, k, key_mask=left, lengths=lengths, query_positions=scattered(4, rows, 30, device))


@pytest.mark.parametrize("rows", [1, 9])
def test_key_range(rows, device):
    q, k = states(2, 4, 2, rows, 70, 16, torch.float32, device)
    positions = scattered(2, rows, 70, device)
    whole = hico.attention_score(q, k, query_positions=positions)
    for start, stop in ((0, 70), (13, 67), (40, 41), (70, 70)):
        part = check(q, k, query_positions=positions, key_range=(start, stop))
        assert part.shape == (2, stop - start)
        torch.testing.assert_close(part, whole[:, start:stop])


@pytest.mark.parametrize("rows", [2, 9])
def test_query_mask(rows, device):
    """A masked row is as if it were not there; one that attends nothing counts."""
    q, k = states(1, 4, 2, rows, 30, 16, torch.float32, device)
    keep = torch.arange(rows, device=device) % 2 == 0
    score = check(q, k, query_mask=keep[None])
    torch.testing.assert_close(score, hico.attention_score(q[:, :, keep], k))
    broken = q.masked_fill(~keep[:, None], torch.nan)
    assert torch.equal(hico.attention_score(broken, k, query_mask=keep), score)
    nothing = torch.where(keep, 30, -1)
    torch.testing.assert_close(
        hico.attention_score(q, k, query_positions=nothing), score * keep.sum() / rows
    )
    assert hico.attention_score(q, k, query_mask=torch.zeros_like(keep)).eq(0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [2, 9])
def test_lse(rows, dtype, device):
    """With the rows' sums at hand the first pass is skipped, and only its rounding is lost."""
    q, k = states(2, 4, 2, rows, 60, 32, dtype, device)
    positions = scattered(2, rows, 60, device)
    logits = q.double() @ k.double().repeat_interleave(2, 1).mT * 0.3
    n = torch.arange(60, device=device)
    logits = logits.masked_fill(n > positions[:, None, :, None], -torch.inf)
    lse = logits.logsumexp(-1).to(torch.float64 if dtype == torch.float64 else torch.float32)
    options = {"query_positions": positions, "scale": 0.3}
    for over_heads, over_rows in (("mean", "mean"), ("max", "sum"), ("kv", "max")):
        check(q, k, lse=lse, heads=over_heads, rows=over_rows, **options)
        # flash attention returns +inf for a row without keys
        lse = lse.masked_fill(lse == -torch.inf, torch.inf)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows, dim", [(1, 80), (9, 64), (3, 256)])
def test_rotary(rows, dim, dtype, device):
    dim = dim if dtype != torch.float64 else 6
    q, k = states(2, 4, 2, rows, 20, dim, dtype, device)
    frequency = 1e4 ** -(torch.arange(0, dim, 2, device=device) / dim)
    positions = torch.stack([torch.arange(20), torch.arange(7, 27)]).to(device)
    angle = (positions[..., None] * frequency).double()
    cos, sin = (torch.cat([t, t], -1).to(dtype) for t in (angle.cos(), angle.sin()))
    options = {"query_positions": scattered(2, rows, 20, device)}
    score = check(q, k, cos=cos, sin=sin, **options)
    check(q, k, cos=cos[0], sin=torch.randn_like(sin[0]), heads="max")  # halves of their own
    check(q, k, cos=cos[1:], sin=sin[1:], heads="kv")
    half = {"cos": cos[..., : dim // 2], "sin": sin[..., : dim // 2]}
    assert torch.equal(hico.attention_score(q, k, **half, **options), score)


@pytest.mark.parametrize("rows", [1, 9])
def test_noncontiguous(rows, device):
    """Keys that lie in a longer cache, or token by token, are read in place."""
    q, k = states(2, 4, 2, rows, 20, 16, torch.float32, device)
    want = hico.attention_score(q, k)
    cache = torch.full((2, 2, 50, 32), torch.nan, device=device)
    cache[:, :, 11:31, 8:24] = k
    by_token = k.transpose(1, 2).contiguous().transpose(1, 2)
    views = (cache[:, :, 11:31, 8:24], by_token, k.mT.contiguous().mT)
    for view in views:
        turned = q.transpose(1, 2).contiguous().transpose(1, 2)
        torch.testing.assert_close(hico.attention_score(turned, view), want)
    one = k[:, :1].expand(-1, 2, -1, -1)
    dense = one.contiguous()
    torch.testing.assert_close(hico.attention_score(q, one), hico.attention_score(q, dense))
    mask, lengths = torch.rand(2, 40, device=device) < 0.5, torch.tensor([20, 0, 3, 0]).to(device)
    strided = hico.attention_score(q, k, key_mask=mask[:, ::2], lengths=lengths[::2])
    dense = {"key_mask": mask[:, ::2].clone(), "lengths": lengths[::2].clone()}
    assert torch.equal(strided, hico.attention_score(q, k, **dense))


@pytest.mark.parametrize("over_heads", HEADS)
def test_empty(over_heads, device):
    per_head = [2] if over_heads == "kv" else []
    for batch, rows, n in ((0, 1, 5), (0, 9, 5), (2, 0, 5), (2, 1, 0), (2, 9, 0)):
        q, k = states(batch, 4, 2, rows, n, 16, torch.float16, device)
        for over_rows in ROWS:
            options = {"reduce_heads": over_heads, "reduce_queries": over_rows}
            score = hico.attention_score(q, k, **options)
            assert score.shape == (batch, *per_head, n) and score.dtype == torch.float32
            assert score.eq(0).all()


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_large_logits(rows, dtype, device):
    """Logits of +-1e4: no overflow, and nothing lost against the published form."""
    shapes = (1, 4, rows, 16), (1, 2, 60, 16)
    q, k = (torch.randint(-50, 51, shape, device=device) for shape in shapes)
    k[:, :, 1:40] = k[:, :, :1]
    k[:, :, 1:40, 0] += torch.randint(-1, 2, k[:, :, 1:40, 0].shape, device=device)
    q[..., 0] = 1
    q, k = q.to(dtype), k.to(dtype)
    check(q, k, scale=1.0)  # of integers: what is lost is the softmax's
    same = torch.ones_like(k) * 100  # all logits 16e4
    score = hico.attention_score(torch.ones_like(q) * 100, same, scale=1.0)
    torch.testing.assert_close(score, torch.full_like(score, 1 / 60))
    sign = torch.where(torch.arange(60, device=device) == 7, 1.0, -1.0)[:, None].to(dtype)
    score = hico.attention_score(torch.ones_like(q) * 25, same / 4 * sign, scale=1.0)
    assert score[0, 7] == 1 and score.sum() == 1


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("over_heads, over_rows", [("mean", "mean"), ("max", "max"), ("kv", "max")])
def test_nonfinite(over_heads, over_rows, rows, device):
    """NaN and +inf spread over what a row attends, as in softmax; -inf is not attended."""
    q, k = states(4, 2, 2, rows, 40, 16, torch.float32, device)
    q[..., 0] = 1
    k[0, 1, 5, 3], k[1, 0, 6, 0], k[2, :, 7, 0] = torch.nan, torch.inf, -torch.inf
    positions = torch.full((4, rows), 30, device=device)
    positions[:, rows // 2 :] = 20
    options = {"reduce_heads": over_heads, "reduce_queries": over_rows}
    score = hico.attention_score(q, k, query_positions=positions, **options)
    hit = score[:2] if over_heads != "kv" else score[[0, 1], [1, 0]]
    last = 31 if rows > 1 else 21
    assert torch.isnan(hit[:, :last]).all() and hit[:, last:].eq(0).all()
    allowed = (torch.arange(40, device=device) != 7).expand(4, -1)
    want = hico.attention_score(q, k, query_positions=positions, key_mask=allowed, **options)
    assert torch.isfinite(score[2:]).all()
    torch.testing.assert_close(score[2], want[2])
    if over_heads == "kv":
        assert torch.isfinite(score[0, 0]).all() and torch.isfinite(score[1, 1]).all()


def test_published_ranking(device):
    """One row over a prompt: softmax over all keys, mean over heads, the image's keys."""
    q, k = states(1, 14, 2, 1, 96, 32, torch.float32, device)
    want = published(q, k, key_range=(10, 80))
    got = hico.attention_score(
        q, k, query_positions=torch.tensor([95]).to(device), key_range=(10, 80)
    )
    torch.testing.assert_close(got, want)
    assert 0 < got.sum() < 1
