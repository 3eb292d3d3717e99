"""hico.LayerScorer against the attention that the layer itself would compute."""

import pytest
import torch
from decoder_layers import assert_close, attention, check, make, states, turn
from gpu_helpers import replay
from transformers import DynamicCache

import hico

HALF, BRAIN, SINGLE, DOUBLE = torch.float16, torch.bfloat16, torch.float32, torch.float64
# not qwen3 in float64: its norms of queries and keys are called as they are, and go through fp32
KINDS = [("qwen2", dtype) for dtype in (HALF, BRAIN, SINGLE, DOUBLE)]
KINDS += [("qwen3", BRAIN), ("qwen3", SINGLE), ("llama", HALF)]


@pytest.mark.parametrize("name, dtype", KINDS)
def test_scores(name, dtype, device):
    layer, positions = make(dtype, device, name)
    hidden, place = states(2, 45, dtype, device), positions(torch.arange(45)[None])
    scorer = hico.LayerScorer(layer)
    last = torch.full((2, 1), 44, device=device)
    check(layer, hidden, place, last, scorer(hidden, place))
    rows = torch.tensor([[3, 44, 17], [40, 0, 21]], device=device)
    got = scorer(hidden, place, query_rows=rows)
    check(layer, hidden, place, rows, got)
    part = scorer(hidden, place, query_rows=rows, key_range=(5, 30))
    assert torch.equal(part.score, got.score[:, 5:30])


@pytest.mark.parametrize("heads, kv, dim", [(8, 1, 32), (7, 1, 64), (3, 3, 256), (6, 2, 128)])
def test_head_shapes(heads, kv, dim, device):
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": dim}
    layer, positions = make(torch.float32, device, "qwen3", **sizes)
    hidden, place = states(1, 20, torch.float32, device), positions(torch.arange(20)[None])
    check(
        layer, hidden, place, torch.full((1, 1), 19, device=device),
        hico.LayerScorer(layer)(hidden, place),
    )  # fmt: skip


def test_padding(device):
    """Left, right, both and nothing but padding: the last attended row asks, nothing leaks in."""
    layer, positions = make(torch.float32, device)
    hidden, n = states(4, 12, torch.float32, device), 12
    seen = torch.ones(4, n, dtype=torch.bool, device=device)
    seen[0, :5], seen[1, 7:], seen[2, :2], seen[2, 9:], seen[3] = False, False, False, False, False
    place = positions((seen.cumsum(1) - 1).clamp(min=0))
    rows = torch.tensor([[11], [6], [8], [0]], device=device)
    scorer = hico.LayerScorer(layer)
    got = scorer(hidden, place, key_mask=seen)
    check(layer, hidden, place, rows, got, seen)
    assert got.score[~seen].eq(0).all() and got.score[3].eq(0).all()

    lengths = torch.tensor([12, 7, 9, 0], device=device)
    full = torch.arange(n, device=device) < lengths[:, None]
    place = positions(torch.arange(n)[None])
    got = scorer(hidden, place, lengths=lengths)
    # keys of padding mean nothing
    keys = torch.where(full[:, None, :, None], got.keys, scorer.keys(hidden))
    last = (lengths[:, None] - 1).clamp(min=0)
    check(layer, hidden, place, last, got._replace(keys=keys), full)
    assert torch.equal(scorer(hidden, place, key_mask=full).score, got.score)
    dirty = hidden.masked_fill(~full[..., None], torch.nan)
    again = scorer(dirty, place, lengths=lengths)
    assert torch.equal(again.score, got.score)
    assert torch.equal(again.keys.mT.mT[0], got.keys[0])
    left = seen & full
    want = scorer(hidden, place, key_mask=left).score
    assert torch.equal(scorer(hidden, place, key_mask=seen, lengths=lengths).score, want)


def test_query_rows(device):
    layer, positions = make(torch.float32, device)
    hidden, place = states(2, 12, torch.float32, device), positions(torch.arange(12)[None])
    scorer = hico.LayerScorer(layer)
    rows = torch.tensor([[3, 7], [10, 2]], device=device)
    want = scorer(hidden, place, query_rows=rows).score
    padded = torch.tensor([[3, -1, 7, 12], [99, 10, 2, -7]], device=device)
    assert_close(scorer(hidden, place, query_rows=padded).score, want)
    mask = torch.tensor([[True, False, True], [True, True, False]], device=device)
    more = torch.tensor([[3, 5, 7], [10, 2, 11]], device=device, dtype=torch.int32)
    assert_close(scorer(hidden, place, query_rows=more, query_mask=mask).score, want)
    same = scorer(hidden, place, query_rows=torch.tensor([4, 8], device=device)).score
    both = torch.tensor([[4, 8], [4, 8]], device=device)
    assert torch.equal(same, scorer(hidden, place, query_rows=both).score)
    one = torch.tensor([[True], [False]], device=device)
    got, last = scorer(hidden, place, query_mask=one).score, scorer(hidden, place).score
    assert torch.equal(got[0], last[0]) and got[1].eq(0).all()
    none = scorer(hidden, place, query_rows=rows[:, :0])
    assert none.score.eq(0).all() and none.score.shape == (2, 12)


@pytest.mark.parametrize(
    "heads, queries",
    [("mean", "sum"), ("mean", "max"), ("sum", "mean"), ("max", "max"), ("kv", "mean")],
)
def test_reductions(heads, queries, device):
    layer, positions = make(torch.float64, device)
    hidden, place = states(1, 12, torch.float64, device), positions(torch.arange(12)[None])
    rows = torch.tensor([[3, 11, 5]], device=device)
    got = hico.LayerScorer(layer, heads, queries)(hidden, place, query_rows=rows).score
    full = attention(layer, hidden, place, rows)
    full = full.unflatten(1, (2, 2)) if heads == "kv" else full[:, None]
    over = {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}
    want = over["mean" if heads == "kv" else heads](over[queries](full, 3), 2)
    torch.testing.assert_close(got, want if heads == "kv" else want[:, 0])


def test_keys_serve_the_layer(device):
    """The kept rows' keys, rotated to their new positions, are what the layer computes of them."""
    layer, positions = make(torch.float32, device)
    hidden, place = states(1, 30, torch.float32, device), positions(torch.arange(30)[None])
    score, keys = hico.LayerScorer(layer)(hidden, place)
    kept, ours = hico.compact(hico.select(score, 10), hidden, keys, dims=(1, 2))
    place, cache = positions(torch.arange(10)[None]), DynamicCache()
    with torch.no_grad():
        layer(kept, position_embeddings=place, past_key_values=cache)
    torch.testing.assert_close(turn(ours, *place), cache.layers[0].keys, rtol=1e-5, atol=1e-5)


def test_only_the_asked_rows_are_queries(device):
    layer, positions = make(torch.float32, device)
    hidden, place = states(2, 30, torch.float32, device), positions(torch.arange(30)[None])
    sizes = []
    layer.self_attn.q_proj.register_forward_hook(lambda m, args, out: sizes.append(out.shape[:2]))
    layer.self_attn.v_proj.register_forward_hook(lambda *_: pytest.fail("values are not needed"))
    hico.LayerScorer(layer)(hidden, place)
    hico.LayerScorer(layer)(hidden, place, query_rows=torch.arange(3, device=device))
    assert sizes == [(2, 1), (2, 3)]


def test_no_gradient_and_no_rotation(device):
    layer, positions = make(torch.float32, device)
    hidden = states(1, 9, torch.float32, device).requires_grad_()
    score, keys = hico.LayerScorer(layer)(hidden)
    assert not score.requires_grad and not keys.requires_grad
    still = [torch.ones(1, 9, 16, device=device), torch.zeros(1, 9, 16, device=device)]
    assert_close(hico.LayerScorer(layer)(hidden, still).score, score)


def test_empty(device):
    layer, positions = make(torch.float32, device)
    for batch, n in ((0, 5), (2, 0)):
        hidden, place = states(batch, n, torch.float32, device), positions(torch.arange(n)[None])
        rows = torch.zeros(batch, 3, dtype=torch.int64, device=device)
        seen = torch.ones(batch, n, dtype=torch.bool, device=device)
        for how in ({}, {"query_rows": rows}, {"key_mask": seen}, {"lengths": rows[:, 0]}):
            score, keys = hico.LayerScorer(layer, "kv")(hidden, place, **how)
            assert score.shape == (batch, 2, n) and keys.shape == (batch, 2, n, 16)


@pytest.mark.gpu
def test_graph_without_synchronisation(device):
    layer, positions = make(torch.bfloat16, device)
    hidden, place = states(2, 300, torch.bfloat16, device), positions(torch.arange(300)[None])
    seen = torch.rand(2, 300, device=device) < 0.9
    scorer, other = hico.LayerScorer(layer), torch.randn_like(hidden)
    scorer(hidden, place, key_mask=seen)
    torch.cuda.set_sync_debug_mode("error")
    try:
        scorer(hidden, place, key_mask=seen)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    out = replay(lambda: scorer(hidden, place, key_mask=seen), lambda: hidden.copy_(other))
    for ours, want in zip(out, scorer(hidden, place, key_mask=seen), strict=True):
        assert torch.equal(ours, want)


@pytest.mark.gpu
def test_memory(device, unpoisoned):
    """Beside the keys, nothing that grows with N times the width of the model."""
    sizes = {"hidden_size": 2048, "num_attention_heads": 16, "num_key_value_heads": 2}
    layer, positions = make(torch.bfloat16, device, **sizes)
    hidden = torch.randn(1, 65536, 2048, device=device, dtype=torch.bfloat16)
    place, scorer = positions(torch.arange(65536)[None]), hico.LayerScorer(layer)
    scorer(hidden, place)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    score, keys = scorer(hidden, place)
    used = torch.cuda.max_memory_allocated() - before
    assert used < keys.nbytes + 24 * score.nbytes + (16 << 20)
