"""hico.merge_map against a loop, and the merges of two papers written with it."""

import pytest
import torch
from brute_force import cosines, rows
from torch.utils.checkpoint import checkpoint

import hico
from hico.testing import clusters

ORDERS = ("position", "reference")


def loop(value, index, r, src, dst, n, protected, order):
    """One row, token by token: (assign, anchor)."""
    able = [i for i in range(len(src)) if src[i] >= protected]
    ranked = sorted(able, key=lambda i: (-value[i], i))
    merged, stay = ranked[:r], ranked[r:]
    home = {src[i]: dst[index[i]] if index[i] >= 0 else None for i in merged}
    if order == "position":
        anchor = [t for t in range(n) if t not in home]
    else:
        free = [t for t in range(protected, n) if t not in home]
        tail = [src[i] for i in (sorted(stay) if protected else stay)]
        tail += [t for t in dst if t in free]
        anchor = [*range(protected), *tail, *(t for t in free if t not in tail)]
    slot = {t: m for m, t in enumerate(anchor)}
    slot[None] = -1
    return [slot[home.get(t, t)] for t in range(n)], anchor


def random_case(batch, n, ns, nd, seed, device):
    generator = torch.Generator().manual_seed(seed)
    order = torch.stack([torch.randperm(n, generator=generator) for _ in range(batch)])
    src, dst = order[:, :ns].contiguous(), order[:, ns : ns + nd].contiguous()
    value = torch.randint(0, 5, (batch, ns), generator=generator) / 4  # many ties
    index = torch.randint(-1, nd, (batch, ns), generator=generator)
    return [t.to(device) for t in (value, index, src, dst)]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("protected", [0, 1, 3])
@pytest.mark.parametrize("r", [0, 1, 4, 6])
def test_fwd_bwd(r, protected, order, device):
    value, index, src, dst = random_case(3, 17, 9, 5, 10 * r + protected, device)
    got = hico.merge_map(
        value, index, r, src=src, dst=dst, n=17, protected=protected, order=order
    ).check()
    for b in range(3):
        row = [t[b].tolist() for t in (value, index)], [t[b].tolist() for t in (src, dst)]
        assign, anchor = loop(*row[0], r, *row[1], 17, protected, order)
        assert got.assign[b].tolist() == assign and got.anchor[b].tolist() == anchor
    assert got.num_slots == 17 - r


@pytest.mark.parametrize("order", ORDERS)
def test_adversarial(order, device):
    even, odd = torch.arange(0, 8, 2, device=device), torch.arange(1, 8, 2, device=device)
    value = torch.zeros(1, 4, device=device)
    index = torch.zeros(1, 4, dtype=torch.int64, device=device)
    sets = {"src": even, "dst": odd, "n": 8, "order": order}
    ties = hico.merge_map(value, index, 2, **sets)  # the lower places go first
    assert ties.assign[0, [0, 2]].tolist() == [ties.assign[0, 1]] * 2
    assert hico.merge_map(value, index, 4, **sets).size.tolist() == [[5, 1, 1, 1]]
    dropped = hico.merge_map(value, index - 1, 4, **sets)  # partners of -1
    assert dropped.assign[0].tolist() == [-1, 0, -1, 1, -1, 2, -1, 3]
    nobody = hico.merge_map(torch.full_like(value, -torch.inf), index, 0, **sets)
    assert nobody.num_slots == 8 and nobody.size.eq(1).all()
    none = torch.zeros(2, 0, dtype=torch.int64, device=device)
    empty = hico.merge_map(none.float(), none, 0, src=none, dst=none, n=0, order=order)
    assert empty.assign.shape == (2, 0) and empty.anchor.shape == (2, 0)
    rest = hico.merge_map(none.float(), none, 0, src=none, dst=none, n=4, order=order)
    assert rest.anchor.tolist() == [[0, 1, 2, 3]] * 2  # tokens of neither set keep their slots
    none = none[:0]
    gone = hico.merge_map(none.float(), none, 0, src=none, dst=none, n=4, order=order)
    assert gone.assign.shape == (0, 4)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("n, m", [(20, 12), (21, 14), (20, 10)])
def test_one_round_is_merge_tokens(n, m, order, device):
    x = clusters(2, n, 6, centres=4, seed=1).to(device)
    for protected in (0, 1, 2):
        if n - m > (n - protected) // 2:
            continue
        first = torch.arange(n, device=device)
        src, dst = first[0::2], first[1::2]
        free = torch.where(dst < protected, -1, dst)  # a protected destination receives nothing
        value, index = hico.match(x, src=src, dst=free)
        options = {"protected": protected, "order": order}
        got = hico.merge_map(value, index, n - m, src=src, dst=dst, n=n, **options)
        want = hico.merge_tokens(x, m, **options)
        assert torch.equal(got.assign, want.map.assign)
        assert torch.equal(got.anchor, want.map.anchor)
        assert torch.equal(got.apply(x), want.tokens)


def test_grid_destinations(device):
    """As in tomesd: one destination in every 2 x 2 of an image, all other tokens are sources."""
    x = clusters(2, 64, 16, centres=8).to(device)
    grid = torch.arange(64, device=device).view(8, 8)
    dst = grid[::2, ::2].flatten()
    src = grid.flatten()[~torch.isin(grid.flatten(), dst)]
    value, index = hico.match(x, src=src, dst=dst)
    merged = hico.merge_map(value, index, 32, src=src, dst=dst, n=64).check()
    assert merged.num_slots == 32 and bool((merged.anchor.diff() > 0).all())
    for b in range(2):
        scores = cosines(rows(x[b, src]), rows(x[b, dst]))
        best = sorted(range(48), key=lambda i: -scores[i].max())[:32]
        for i in best:
            partner = int(dst[int(scores[i].argmax())])
            assert merged.assign[b, src[i]] == merged.assign[b, partner]
    y = torch.randn(2, 32, 16, device=device)
    slots = merged.assign[:, dst, None].expand(-1, -1, 16)
    assert torch.equal(merged.unmerge(y)[:, dst], y.gather(1, slots))


def test_previous_frame(device):
    """As in DyCoke: tokens of odd frames join the frame before them where they hardly changed."""
    frames, per_frame = 4, 10
    x = clusters(1, frames * per_frame, 8, centres=6).to(device)
    tokens = torch.arange(40, device=device).view(frames, per_frame)
    src, dst = tokens[1::2].flatten(), tokens[0::2].flatten()
    value, index = hico.match(
        x, src=src, dst=dst, mask="previous_frame", tokens_per_frame=per_frame
    )
    merged = hico.merge_map(value, index, 14, src=src, dst=dst, n=40).check()
    assert merged.num_slots == 26
    for n in range(40):
        home = int(merged.anchor[0, merged.assign[0, n]])
        assert home == n or n // per_frame - home // per_frame == 1


def test_repeat_is_bitwise(device):
    value, index, src, dst = random_case(3, 17, 9, 5, 1, device)
    runs = [hico.merge_map(value, index, 5, src=src, dst=dst, n=17) for _ in range(2)]
    assert torch.equal(runs[0].assign, runs[1].assign)
    assert torch.equal(runs[0].anchor, runs[1].anchor)


def test_noncontiguous(device):
    value, index, src, dst = random_case(3, 17, 9, 5, 2, device)
    want = hico.merge_map(value, index, 5, src=src, dst=dst, n=17)
    turned = [t.mT.contiguous().mT for t in (value, index, src, dst)]
    got = hico.merge_map(*turned[:2], 5, src=turned[2].int(), dst=turned[3], n=17)
    assert torch.equal(got.assign, want.assign) and torch.equal(got.anchor, want.anchor)


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x):
        n = x.shape[1]
        tokens = torch.arange(n, device=x.device)
        src, dst = tokens[0::2], tokens[1::2]
        value, index = hico.match(x, src=src, dst=dst)
        return hico.merge_map(value, index, 3, src=src, dst=dst, n=n).apply(x)

    for n in (12, 21, 30):
        x = clusters(2, n, 8).to(device)
        torch.testing.assert_close(run(x), hico.merge_tokens(x, n - 3).tokens)
    assert compiler.frame_count == 1


def test_checkpoint(device):
    value, index, src, dst = random_case(2, 17, 9, 5, 3, device)
    x = torch.randn(2, 17, 4, device=device, requires_grad=True)

    def loss(x):
        # value may carry a gradient; the map does not
        merged = hico.merge_map(value + x[:, :9, 0], index, 5, src=src, dst=dst, n=17)
        return merged.apply(x).square().sum()

    (want,) = torch.autograd.grad(loss(x), x)
    (got,) = torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)
    assert torch.equal(got, want)


def test_bad_input():
    value, index = torch.rand(2, 4), torch.zeros(2, 4, dtype=torch.int64)
    src, dst = torch.arange(0, 8, 2), torch.arange(1, 8, 2)
    good = {"value": value, "index": index, "r": 2, "src": src, "dst": dst, "n": 8}
    for message, wrong in {
        r"value: expected \[B, Ns\], got \[4\]": {"value": value[0]},
        "value: expected .* got list": {"value": [1.0]},
        r"index: expected .*\[2, 4\], got \[2, 3\]": {"index": index[:, :3]},
        "index: expected .* got torch.float32": {"index": value},
        "r: expected 0 <= r <= 4, got 5": {"r": 5},
        "r: expected .* got -1": {"r": -1},
        "r: expected .* got float": {"r": 0.5},
        "n: expected .* got -8": {"n": -8},
        r"src: expected .*\[4\], got \[3\]": {"src": src[:3]},
        "src: expected .*": {"src": [0, 2, 4, 6]},
        r"dst: expected .*\[2, 4\], got \[3, 4\]": {"dst": dst.expand(3, -1)},
        "dst: expected .* got torch.float32": {"dst": dst.float()},
        "protected: expected .* got -1": {"protected": -1},
        "order: expected .* got 'any'": {"order": "any"},
    }.items():
        with pytest.raises(ValueError, match=message):
            hico.merge_map(**good | wrong)
