"""hico.recipes against the published rules in plain PyTorch, and against loops."""

import math

import pytest
import torch
from decoder_layers import attention, make, states
from torch.nn import functional as F

import hico
from hico import recipes


def queries(batch, heads, kv, m, n, dim, device, dtype=torch.float32):
    q = torch.randn(batch, heads, m, dim, device=device) * 2
    return q.to(dtype), torch.randn(batch, kv, n, dim, device=device).to(dtype)


def whole(q, k, causal):
    """[B, Hq, M, N] softmax weights; causal: row m stands at key N - M + m."""
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = q.double() @ k.double().mT / q.shape[3] ** 0.5
    m, n = logits.shape[2:]
    if causal:
        future = torch.ones(m, n, dtype=torch.bool, device=q.device).triu(n - m + 1)
        logits = logits.masked_fill(future, -torch.inf)
    return logits.softmax(-1)


def loop_weights(q, k, last):
    """One row's softmax over keys 0..last, in Python floats."""
    logits = [sum(a * b for a, b in zip(q, k[n], strict=True)) for n in range(last + 1)]
    scaled = [v / len(q) ** 0.5 for v in logits]
    exps = [math.exp(v - max(scaled)) for v in scaled]
    return [v / sum(exps) for v in exps]


def best(scores, count):
    """Positions of the highest, ties to the lowest, ascending."""
    return sorted(sorted(range(len(scores)), key=lambda n: (-scores[n], n))[:count])


@pytest.mark.parametrize("heads, kv", [(4, 4), (6, 2)])
def test_fastv(heads, kv, device):
    (start, stop), n, keep = (3, 40), 47, 11
    q, k = queries(2, heads, kv, 5, n, 16, device)
    got = recipes.fastv(q, k, (start, stop), keep)
    mean = whole(q, k, causal=True).mean(1)[:, -1, start:stop]
    for b in range(2):
        top = mean[b].topk(keep).indices + start
        text = torch.cat((torch.arange(start), torch.arange(stop, n))).to(device)
        assert torch.equal(got[b], torch.cat((text, top)).sort().values)
        rows = [
            loop_weights(q[b, h, -1].tolist(), k[b, h // (heads // kv)].tolist(), n - 1)
            for h in range(heads)
        ]
        scores = [sum(row[i] for row in rows) for i in range(start, stop)]
        want = [*range(start), *(start + i for i in best(scores, keep)), *range(stop, n)]
        assert got[b].tolist() == want


def test_pyramiddrop(device):
    """The published stages: half of the visual tokens go at each, ranked in the next layer."""
    layers = [make(torch.float32, device, "llama")[0] for _ in range(2)]
    _, positions = make(torch.float32, device, "llama")
    hidden, first, visual, left = states(2, 60, torch.float32, device), 4, 48, 48
    for layer, ratio in zip(layers, (0.5, 0.25), strict=True):
        n, keep = hidden.shape[1], int(visual * ratio)
        place = positions(torch.arange(n)[None])
        last = torch.tensor([n - 1, n - 3], device=device)
        got = recipes.pyramiddrop(
            hico.LayerScorer(layer), hidden, place, (first, first + left), keep, last
        )
        paid = attention(layer, hidden, place, last[:, None]).mean((1, 2))
        for b in range(2):
            top = paid[b, first : first + left].topk(keep).indices + first
            rest = torch.cat((torch.arange(first), torch.arange(first + left, n))).to(device)
            assert torch.equal(got[b], torch.cat((rest, top)).sort().values)
            scores = paid[b].tolist()[first : first + left]
            want = [*range(first), *(first + i for i in best(scores, keep))]
            assert got[b].tolist() == [*want, *range(first + left, n)]
        (hidden,) = hico.compact(got, hidden, dims=1)
        left = keep
    scorer = hico.LayerScorer(layers[0])
    place = positions(torch.arange(hidden.shape[1])[None])
    last = torch.full((2,), hidden.shape[1] - 1, device=device)
    args = (scorer, hidden, place, (4, 16), 5)
    assert torch.equal(recipes.pyramiddrop(*args), recipes.pyramiddrop(*args, last))


@pytest.mark.parametrize("heads, kv, window, kernel", [(4, 4, 8, 5), (6, 2, 5, 3), (2, 1, 1, 1)])
def test_snapkv(heads, kv, window, kernel, device):
    n, capacity = 40, 17
    q, k = queries(2, heads, kv, n, n, 16, device)
    got = recipes.snapkv(q, k, capacity, window, kernel)
    assert got.shape == (2, kv, capacity)
    sums = whole(q, k, causal=True)[:, :, -window:, :-window].sum(2)
    pooled = F.avg_pool1d(sums, kernel, stride=1, padding=kernel // 2)
    pooled = pooled.unflatten(1, (kv, -1)).mean(2)
    tail = torch.arange(n - window, n, device=device).expand(2, kv, -1)
    want = torch.cat((pooled.topk(capacity - window).indices, tail), -1).sort().values
    assert torch.equal(got, want)

    for b, h in ((0, 0), (1, kv - 1)):
        score = [0.0] * (n - window)
        for head in range(h * (heads // kv), (h + 1) * (heads // kv)):
            for m in range(n - window, n):
                row = loop_weights(q[b, head, m].tolist(), k[b, h].tolist(), m)
                score = [s + row[i] for i, s in enumerate(score)]
        around = range(-(kernel // 2), kernel // 2 + 1)
        smooth = [
            sum(score[i + d] for d in around if 0 <= i + d < n - window) for i in range(n - window)
        ]
        assert got[b, h].tolist() == [*best(smooth, capacity - window), *range(n - window, n)]
    kept = hico.compact(got.flatten(0, 1), k.flatten(0, 1), dims=1)[0].unflatten(0, (2, kv))
    assert torch.equal(kept, k.gather(2, got[..., None].expand(-1, -1, -1, 16)))


def test_snapkv_edges(device):
    q, k = queries(1, 2, 1, 6, 6, 16, device)
    everything = torch.arange(6, device=device)[None, None]
    assert torch.equal(recipes.snapkv(q, k, 6, window=6), everything)
    assert torch.equal(recipes.snapkv(q, k, 6, window=2), everything)
    assert torch.equal(recipes.snapkv(q, k, 2, window=2), everything[..., 4:])
    assert torch.equal(recipes.snapkv(q[:, :, -3:], k, 4, 3), recipes.snapkv(q, k, 4, 3))


def test_visionzip(device):
    n, keep = 30, 12
    q, k = queries(2, 2, 2, n, n, 16, device)
    weights = whole(q, k, causal=False)
    got = recipes.visionzip(q, k, keep)
    top = weights[:, :, 0, 1:].sum(1).topk(keep).indices + 1
    zero = torch.zeros(2, 1, dtype=torch.int64, device=device)
    assert torch.equal(got, torch.cat((zero, top), 1).sort().values)
    assert torch.equal(recipes.visionzip(q[:, :, :1], k, keep), got)  # nothing else is read
    columns = recipes.visionzip(q, k, keep, class_token=False)
    assert torch.equal(columns, weights.mean((1, 2)).topk(keep).indices.sort().values)

    rows = [
        [loop_weights(row, k[0, h].tolist(), n - 1) for row in q[0, h].tolist()] for h in range(2)
    ]
    paid = [sum(rows[h][0][i] for h in range(2)) for i in range(1, n)]
    assert got[0].tolist() == [0, *(1 + i for i in best(paid, keep))]
    paid = [sum(rows[h][m][i] for h in range(2) for m in range(n)) for i in range(n)]
    assert columns[0].tolist() == best(paid, keep)


@pytest.mark.parametrize("rate", [0.0, 0.35, 0.75, 0.99, 1.0])
def test_evs(rate, device):
    frames, per_frame, c = 6, 7, 12
    x = torch.randn(2, frames * per_frame, c, device=device)
    x[:, 2 * per_frame : 3 * per_frame] = x[:, per_frame : 2 * per_frame]  # a still: ties
    got = recipes.evs(x, per_frame, rate)
    n = frames * per_frame
    kept = max(per_frame, int(n * (1 - rate)))
    for b in range(2):
        video = x[b].view(frames, per_frame, c)
        change = 1 - F.cosine_similarity(video[1:], video[:-1], dim=-1)
        change = torch.cat((torch.full_like(change[:1], 255), change)).flatten()
        order = change.argsort(descending=True, stable=True)[:kept]
        assert torch.equal(got[b], order.sort().values)

        rows = x[b].double().tolist()
        scores = [255.0] * per_frame
        for i in range(per_frame, n):
            now, then = rows[i], rows[i - per_frame]
            dot = sum(u * v for u, v in zip(now, then, strict=True))
            scores.append(1 - dot / math.sqrt(sum(u * u for u in now) * sum(v * v for v in then)))
        # of equal tokens the loop's rounding must not decide
        scores = [round(s, 9) for s in scores]
        assert got[b].tolist() == best(scores, kept)


def test_evs_single_frame(device):
    x = torch.randn(1, 5, 4, device=device)
    assert recipes.evs(x, 5, 0.9).tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("keep", [0, 1, 2, 9, 20])
def test_divprune(keep, device):
    n, c = 20, 8
    x = torch.randn(2, n, c, device=device)
    got = recipes.divprune(x, keep)
    assert got.shape == (2, keep)
    for b in range(2):
        unit = x[b].double() / x[b].double().norm(dim=1, keepdim=True)
        far = 1 - unit @ unit.T
        chosen = []
        for step in range(keep):
            rows = far if step == 0 else far[chosen]
            scores = rows.topk(2, 0, largest=False).values[1] if step == 0 else rows.amin(0)
            scores[chosen] = -1
            chosen.append(int(scores.argmax()))
        assert got[b].tolist() == sorted(chosen)

        rows, picked = x[b].tolist(), []
        while len(picked) < keep:
            left = [i for i in range(n) if i not in picked]
            others = {i: picked or [j for j in range(n) if j != i] for i in left}
            gap = {i: min(distance(rows[i], rows[j]) for j in others[i]) for i in left}
            picked.append(max(left, key=lambda i: (gap[i], -i)))
        assert got[b].tolist() == sorted(picked)


def distance(u, v):
    dot = sum(a * b for a, b in zip(u, v, strict=True))
    return 1 - dot / math.sqrt(sum(a * a for a in u) * sum(b * b for b in v))


def test_divprune_of_equal_tokens(device):
    x = torch.ones(1, 6, 4, device=device)
    assert recipes.divprune(x, 3).tolist() == [[0, 1, 2]]
    zero = torch.zeros(1, 6, 4, device=device)
    assert recipes.divprune(zero, 6).tolist() == [[0, 1, 2, 3, 4, 5]]
    assert recipes.divprune(x[:, :0], 0).shape == (1, 0)


def test_divprune_in_blocks(device):
    unit = F.normalize(torch.randn(2, 25, 4, device=device), dim=-1)
    none = torch.zeros(2, 25, dtype=torch.bool, device=device)
    torch.testing.assert_close(recipes._to_nearest(unit, none, 7), recipes._to_nearest(unit, none))


@pytest.mark.gpu
def test_no_synchronisation(device):
    q, k = queries(1, 4, 2, 64, 512, 64, device, torch.bfloat16)
    x = torch.randn(1, 512, 32, device=device)

    def run():
        recipes.fastv(q, k, (10, 400), 100)
        recipes.snapkv(q, k, 128, 32)
        recipes.visionzip(q, k, 64)
        recipes.evs(x, 64, 0.5)
        recipes.divprune(x, 8)

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_bad_input():
    q, k = torch.ones(1, 2, 6, 4), torch.ones(1, 1, 6, 4)
    x = torch.ones(1, 6, 4)
    for message, call in {
        "visual stop: expected": lambda: recipes.fastv(q, k, (1, 7), 1),
        "visual start: expected": lambda: recipes.fastv(q, k, (4, 3), 1),
        "keep: expected 0 <= keep <= 2": lambda: recipes.fastv(q, k, (1, 3), 3),
        "window: expected 1 <= window <= 6": lambda: recipes.snapkv(q, k, 6, 7),
        "capacity: expected 3 <= capacity <= 6": lambda: recipes.snapkv(q, k, 2, 3),
        "kernel: expected an odd": lambda: recipes.snapkv(q, k, 5, 3, 4),
        "keep: expected 0 <= keep <= 5": lambda: recipes.visionzip(q, k, 6),
        "x: expected whole frames of 4": lambda: recipes.evs(x, 4, 0.5),
        "tokens_per_frame: expected": lambda: recipes.evs(x, 7, 0.5),
        "ratio: expected": lambda: recipes.evs(x, 3, 1.5),
        r"x: expected .* got \[6, 4\]": lambda: recipes.evs(x[0], 3, 0.5),
        "keep: expected 0 <= keep <= 6": lambda: recipes.divprune(x, 7),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize("broken", [0, 2, 5])
def test_divprune_takes_broken_tokens_last(broken, device):
    x = torch.randn(1, 6, 4, device=device)
    whole = torch.cat((x[:, :broken], x[:, broken + 1 :]), 1)
    for value in (torch.nan, torch.inf):
        x[0, broken, 1] = value
        chosen = hico.recipes.divprune(x, 3)[0].tolist()
        assert chosen == [i + (i >= broken) for i in hico.recipes.divprune(whole, 3)[0].tolist()]
        assert hico.recipes.divprune(x, 6)[0].tolist() == list(range(6))


def test_visionzip_counts(device):
    q = torch.randn(1, 2, 5, 4, device=device)
    assert hico.recipes.visionzip(q, q, 4).tolist() == [[0, 1, 2, 3, 4]]
    for keep, class_token in ((-1, True), (5, True), (6, False)):
        with pytest.raises(ValueError, match="keep: expected"):
            hico.recipes.visionzip(q, q, keep, class_token)
