"""hico.keep_tokens against select and a loop, and its map beside a merge map."""

import pytest
import torch
from gpu_helpers import replay
from torch.utils.checkpoint import checkpoint

import hico

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def inputs(batch, n, c, device, dtype=torch.float32):
    x = torch.randn(batch, n, c, device=device).to(dtype).requires_grad_()
    return x, torch.randn(batch, n, device=device)


def check_by_loop(x, kept):
    """Tokens, index and map agree with one another, slot by slot."""
    assign, anchor = kept.map.check().assign.tolist(), kept.map.anchor.tolist()
    assert torch.equal(kept.map.anchor, kept.index)
    for b, row in enumerate(kept.index.tolist()):
        for slot, n in enumerate(row):
            assert anchor[b][slot] == n
            assert torch.equal(
                kept.tokens[b, slot], x[b, n] if n >= 0 else torch.zeros_like(x[b, 0])
            )
            assert n < 0 or assign[b][n] == slot
        assert sum(slot >= 0 for slot in assign[b]) == sum(n >= 0 for n in row)


@pytest.mark.parametrize("dtype", DTYPES)
def test_fwd_bwd(dtype, device):
    x, score = inputs(2, 40, 12, device, dtype)
    kept = hico.keep_tokens(x, score.to(dtype), 9)
    assert torch.equal(kept.index, hico.select(score.to(dtype), 9))
    assert kept.tokens.dtype == dtype
    check_by_loop(x, kept)
    dout = torch.randn(2, 9, 12, device=device).to(dtype)
    kept.tokens.backward(dout)
    want = torch.zeros_like(x).scatter(1, kept.index[..., None].expand(-1, -1, 12), dout)
    assert torch.equal(x.grad, want)


def test_every_way(device):
    x, score = inputs(3, 30, 4, device)
    lengths = torch.tensor([30, 11, 0], device=device)
    protect = score < -1
    k = torch.tensor([4, 30, 2], device=device)
    for args, given in (
        ((), {"ratio": 0.4}),
        ((), {"ratio": 0.4, "lengths": lengths, "protect": protect}),
        ((12,), {"lengths": lengths, "order": "score"}),
        ((k,), {"lengths": lengths}),
        ((), {"threshold": 0.5, "protect": protect}),
        ((0,), {}),
        ((30,), {}),
    ):
        kept = hico.keep_tokens(x, score, *args, **given)
        index = hico.select(score, *args, **given)
        assert torch.equal(kept.index, index[0] if isinstance(index, tuple) else index)
        check_by_loop(x, kept)


def test_map_moves_what_belongs_to_the_tokens(device):
    x, score = inputs(2, 30, 4, device)
    kept = hico.keep_tokens(x, score, 7)
    assert torch.equal(kept.map.apply(x), kept.tokens)
    places = torch.arange(30, device=device).expand(2, -1)
    assert torch.equal(kept.map.positions(places), kept.index)
    assert kept.map.size.eq(1).all()


def test_keep_then_merge(device):
    x, score = inputs(2, 40, 8, device)
    kept = hico.keep_tokens(x, score, 20)
    merged = hico.merge_tokens(kept.tokens, 6)
    whole = kept.map.compose(merged.map).check()
    torch.testing.assert_close(whole.apply(x), merged.tokens)
    for b in range(2):
        for n in range(40):
            place = (kept.index[b] == n).nonzero().flatten().tolist()
            want = merged.map.assign[b, place[0]] if place else -1
            assert whole.assign[b, n] == want


def test_merge_then_keep(device):
    x, score = inputs(2, 40, 8, device)
    merged = hico.merge_tokens(x, 20)
    kept = hico.keep_tokens(merged.tokens, score[:, :20], 6)
    whole = merged.map.compose(kept.map).check()
    torch.testing.assert_close(whole.apply(x), kept.tokens)
    for b in range(2):
        for n in range(40):
            assert whole.assign[b, n] == kept.map.assign[b, merged.map.assign[b, n]]


def test_ragged_maps_compose(device):
    x, score = inputs(3, 20, 4, device)
    lengths = torch.tensor([20, 5, 0], device=device)
    first = hico.keep_tokens(x, score, 8, lengths=lengths)
    short = (first.index >= 0).sum(1)
    second = hico.keep_tokens(first.tokens, score[:, :8], 6, lengths=short)
    whole = first.map.compose(second.map).check()
    assert torch.equal(whole.apply(x), second.tokens)


def test_empty(device):
    for batch, n in ((0, 5), (2, 0)):
        x, score = inputs(batch, n, 4, device)
        kept = hico.keep_tokens(x, score, 0)
        assert kept.tokens.shape == (batch, 0, 4) and kept.map.assign.shape == (batch, n)
        assert kept.map.assign.eq(-1).all()
        kept.tokens.sum().backward()
        assert x.grad.eq(0).all()


def test_gradcheck(device):
    x, score = inputs(2, 5, 2, device, torch.float64)
    given = {"lengths": torch.tensor([5, 2], device=device)}
    run = lambda x: hico.keep_tokens(x, score, 3, **given).tokens  # noqa: E731
    assert torch.autograd.gradcheck(run, x, fast_mode=True)


def test_checkpoint(device):
    x, score = inputs(2, 20, 4, device)

    def loss(x):
        return hico.keep_tokens(x.sin(), score, 5).tokens.square().sum()

    (want,) = torch.autograd.grad(loss(x), x)
    assert torch.equal(torch.autograd.grad(checkpoint(loss, x, use_reentrant=False), x)[0], want)


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x, score):
        return hico.keep_tokens(x * 1, score, ratio=0.25)

    for n in (20, 33, 61):
        x, score = inputs(2, n, 4, device)
        got, want = run(x, score), hico.keep_tokens(x, score, ratio=0.25)
        assert torch.equal(got.tokens, want.tokens) and torch.equal(got.index, want.index)
        assert torch.equal(got.map.assign, want.map.assign)
        ours, same = (torch.autograd.grad(t.tokens.square().sum(), x)[0] for t in (got, want))
        assert torch.equal(ours, same)
    assert compiler.frame_count <= 2


@pytest.mark.gpu
def test_cuda_graph_without_synchronisation(device):
    x, score = inputs(2, 3000, 1024, device, torch.bfloat16)
    other = torch.randn_like(score)

    def run():
        kept = hico.keep_tokens(x, score, ratio=0.25)
        return kept.tokens, kept.map.assign, torch.autograd.grad(kept.tokens, x, kept.tokens)[0]

    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    outs = replay(run, lambda: score.copy_(other))
    for ours, want in zip(outs, run(), strict=True):
        assert torch.equal(ours, want)


def test_bad_input():
    x, score = torch.ones(2, 6, 4), torch.ones(2, 6)
    for message, call in {
        r"x: expected .* got \[2, 6\]": lambda: hico.keep_tokens(score, score, 1),
        "x: expected .* got torch.int64": lambda: hico.keep_tokens(x.long(), score, 1),
        r"score: expected \[B, N\], got \[2, 6, 4\]": lambda: hico.keep_tokens(x, x, 1),
        r"score: expected shape \[2, 6\], got \[2, 5\]": lambda: hico.keep_tokens(
            x, score[:, 1:], 1
        ),
        "expected exactly one of k, ratio and threshold": lambda: hico.keep_tokens(x, score),
        "k: expected 0 <= k <= 6, got 7": lambda: hico.keep_tokens(x, score, 7),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
