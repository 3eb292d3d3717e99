"""What progressive_dropout needs beside the rows: chunks, and no mask of rows by rows."""

import threading

import pytest
import torch
from decoder_layers import SIZES, make_decoder
from torch.nn import functional as F
from transformers import DynamicCache

import hico
from hico.adapters import _dropout_attention, _dropout_chunks

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
LAYERS, RATIOS, KIND = [1, 2], [1, 0.5, 0.25], "uniform0_attention"
N, SPANS = 300, [(10, 210), (120, 280)]


@pytest.fixture
def model(device):
    return make_decoder(device)


@pytest.fixture
def masks(monkeypatch):
    """The sizes of all masks that torch's attention is given."""
    sizes, attention = [], F.scaled_dot_product_attention

    def watched(*args, attn_mask=None, **rest):
        sizes.append(0 if attn_mask is None else attn_mask.numel())
        return attention(*args, attn_mask=attn_mask, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    return sizes


def padded(device):
    """Two prompts, padded on different sides."""
    mask = torch.ones(2, N, dtype=torch.int64, device=device)
    mask[0, 220:], mask[1, :100] = 0, 0
    return torch.randn(2, N, SIZES["hidden_size"], device=device), mask


@torch.no_grad()
def test_no_mask_of_rows_by_rows(model, masks, device):
    embeds, mask = padded(device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, SPANS):
        out = model(inputs_embeds=embeds, attention_mask=mask, use_cache=True)
        assert masks and not any(masks)
        mask = torch.cat([mask, mask.new_ones(2, 1)], 1)
        ids = torch.tensor([[3], [4]], device=device)
        model(ids, attention_mask=mask, past_key_values=out.past_key_values)
    assert 0 < max(masks) <= 2 * 2 * (N + 1)
    assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
@pytest.mark.parametrize("padding", [False, True])
def test_rows_behind_a_cache_in_parts(model, masks, device, padding, monkeypatch):
    """Many rows at once behind a cache get what they get one by one, with small masks."""
    embeds, mask = padded(device)
    mask = mask if padding else torch.ones_like(mask)
    ids = torch.arange(14, device=device).reshape(2, 7)

    def go_on(steps):
        with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, SPANS):
            cache = DynamicCache()
            model(inputs_embeds=embeds, attention_mask=mask, past_key_values=cache)
            known, out = mask, []
            for part in ids.split(steps, 1):
                known = torch.cat([known, torch.ones_like(part)], 1)
                out.append(model(part, attention_mask=known, past_key_values=cache).logits)
        return torch.cat(out, 1)

    want = go_on(1)
    monkeypatch.setattr(_dropout_attention, "MASKED", 3000)
    masks.clear()
    torch.testing.assert_close(go_on(7), want, rtol=1e-4, atol=1e-4)
    assert 0 < max(masks) <= 3000


@torch.no_grad()
def test_padding_between_tokens(model, device):
    """Such a mask is no run of tokens: then a mask is made after all, and rows stay right."""
    embeds, mask = padded(device)
    holes = mask.clone()
    holes[0, 3:6] = 0
    short = torch.cat([embeds[:1, :3], embeds[:1, 6:220]], 1)
    with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, SPANS):
        got = model(inputs_embeds=embeds, attention_mask=holes).logits[0, -1]
    with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, [(7, 207)]):
        position_ids = torch.cat([torch.arange(3), torch.arange(6, 220)])[None].to(device)
        want = model(inputs_embeds=short, position_ids=position_ids).logits[0, -1]
    torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_norms_and_mlps_in_chunks(model, device, monkeypatch):
    embeds, _ = padded(device)
    settings = (model, LAYERS, RATIOS, KIND, SPANS)
    with hico.progressive_dropout(*settings):
        want = model(inputs_embeds=embeds).logits
    monkeypatch.setattr(_dropout_chunks, "CHUNK", 64)
    rows = []
    for layer in model.model.layers:
        layer.mlp.gate_proj.register_forward_pre_hook(lambda _, a: rows.append(a[0].shape[1]))
    with hico.progressive_dropout(*settings):
        got = model(inputs_embeds=embeds).logits
    assert max(rows) <= 64 / 2
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert not any("forward" in vars(part) for part in model.modules())
    rows.clear()
    model(inputs_embeds=embeds)
    assert set(rows) == {N}


@pytest.fixture
def switches():
    """Sets torch's switches of cuDNN's, the flash and the memory-efficient attention."""
    cuda = torch.backends.cuda
    usual = [cuda.cudnn_sdp_enabled(), cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()]

    def switch(cudnn, flash, efficient):
        cuda.enable_cudnn_sdp(bool(cudnn))
        cuda.enable_flash_sdp(bool(flash))
        cuda.enable_mem_efficient_sdp(bool(efficient))

    yield switch
    switch(*usual)


@torch.no_grad()
@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [((1, 1, 1), False), ((0, 1, 1), False), ((1, 0, 1), True), ((1, 1, 0), True)],
)
def test_no_plans_for_short_prompts(model, device, monkeypatch, switches, before, meanwhile):
    """cuDNN plans for every new length, for longer than so few rows take: others go first."""
    found, attention = [], F.scaled_dot_product_attention

    def watched(*args, **rest):
        found.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attention(*args, **rest)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    switches(*before)
    embeds, mask = padded(device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, SPANS):
        model(inputs_embeds=embeds, attention_mask=mask)
    assert set(found) == {meanwhile}
    assert torch.backends.cuda.cudnn_sdp_enabled() == bool(before[0])


def test_two_threads_switch_back(switches):
    """The one that comes second also ends second, and saw the switch off."""
    switches(1, 1, 1)
    inside, ended = threading.Event(), threading.Event()

    def second():
        with _dropout_attention.unplanned():
            inside.set()
            assert ended.wait(30)
            found.append(torch.backends.cuda.cudnn_sdp_enabled())

    found: list[bool] = []
    with _dropout_attention.unplanned():
        thread = threading.Thread(target=second)
        thread.start()
        assert inside.wait(30)
    ended.set()
    thread.join()
    assert found == [False] and torch.backends.cuda.cudnn_sdp_enabled()


@torch.no_grad()
def test_layers_compiled_as_one_graph_each(model, device):
    embeds = torch.randn(1, 40, SIZES["hidden_size"], device=device)
    found = []
    for compiled in (False, True):
        for layer in model.model.layers if compiled else ():
            layer.forward = torch.compile(layer.forward, fullgraph=True, backend="eager")
        with hico.progressive_dropout(model, LAYERS, RATIOS, "uniform", [(5, 30)]):
            found.append(model(inputs_embeds=embeds, use_cache=False).logits)
    torch.testing.assert_close(*found)


def test_nothing_is_left_of_a_pass_that_was_ended(model, device, monkeypatch):
    def ended(*_, **__):
        raise KeyboardInterrupt

    before = torch.backends.cuda.cudnn_sdp_enabled()
    monkeypatch.setattr(_dropout_attention, "_causal", ended)
    embeds = torch.randn(1, 40, SIZES["hidden_size"], device=device)
    with (
        pytest.raises(KeyboardInterrupt),
        torch.no_grad(),
        hico.progressive_dropout(model, LAYERS, RATIOS, "uniform", [(5, 30)]),
    ):
        model(inputs_embeds=embeds)
    assert model.config._attn_implementation == "sdpa"
    assert torch.backends.cuda.cudnn_sdp_enabled() == before
    assert not any("forward" in vars(part) for part in model.modules())


def test_gradients_take_the_usual_way(model, masks, device):
    embeds, mask = padded(device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, KIND, SPANS):
        model(inputs_embeds=embeds.requires_grad_(), attention_mask=mask).logits.sum().backward()
        assert model.config._attn_implementation == "sdpa"
    assert embeds.grad is not None and embeds.grad.isfinite().all()


def test_switched_back_after_an_error(model, device):
    with (
        torch.no_grad(),
        hico.progressive_dropout(model, LAYERS, RATIOS, KIND, [(0, 5)]),
        pytest.raises(ValueError, match="visual_spans"),
    ):
        model(inputs_embeds=torch.zeros(2, 3, SIZES["hidden_size"], device=device))
    assert model.config._attn_implementation == "sdpa"


@torch.no_grad()
@pytest.mark.parametrize("rows", [2, 61, 300])
def test_rows_behind_a_cache_in_half_precision(device, rows):
    """On a GPU by flash attention, whose rows end with the keys: as exact as torch's own mask."""
    torch.manual_seed(0)
    q, k, v = (
        torch.randn(2, heads, n, 64, device=device, dtype=torch.bfloat16)
        for heads, n in [(6, rows), (2, 3001), (2, 3001)]
    )
    got = _dropout_attention.attend(None, q, k, v, None)[0].transpose(1, 2)
    mask = torch.ones(rows, 3001, dtype=torch.bool, device=device).tril(3001 - rows)

    def usual(*given):
        return F.scaled_dot_product_attention(*given, attn_mask=mask, enable_gqa=True).double()

    exact = usual(q.double(), k.double(), v.double())
    wrong, allowed = ((one.double() - exact).norm(dim=-1) for one in (got, usual(q, k, v)))
    assert wrong.max() <= 2 * allowed.max()
    by_flash = _dropout_attention._splits_keys(q, k, v, 0.0)
    assert by_flash == (device == "cuda")
