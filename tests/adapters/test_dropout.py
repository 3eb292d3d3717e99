"""hico.progressive_dropout in stock decoders: batches, padding, caches, labels and errors."""

import copy
import itertools

import pytest
import torch
from decoder_layers import SIZES, make_decoder
from transformers import StaticCache

import hico

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
KINDS = ("uniform", "attention", "uniform0_attention", "uniform1_attention", "random0_attention")
LAYERS, RATIOS = [1, 3], [1.0, 0.5, 0.2]
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


def prompt(text, visual, after, device):
    """Embeddings [1, N, C] and the span of what is visual."""
    embeds = torch.randn(1, text + visual + after, SIZES["hidden_size"], device=device)
    return embeds, (text, text + visual) if visual else None


def batch(prompts, sides):
    """Embeddings, mask and spans of prompts padded on these sides to one length."""
    width = max(embeds.shape[1] for embeds, _ in prompts)
    padded = prompts[0][0].new_full((len(prompts), width, SIZES["hidden_size"]), 7.0)
    mask = torch.zeros(len(prompts), width, dtype=torch.int64, device=padded.device)
    spans = []
    for b, ((embeds, span), side) in enumerate(zip(prompts, sides, strict=True)):
        by = width - embeds.shape[1] if side == "left" else 0
        padded[b, by : by + embeds.shape[1]] = embeds[0]
        mask[b, by : by + embeds.shape[1]] = 1
        spans.append(None if span is None else (span[0] + by, span[1] + by))
    return padded, mask, spans


def run_one(model, embeds, span, kind="attention", **rest):
    with hico.progressive_dropout(model, LAYERS, RATIOS, kind, [span], **rest) as run:
        return model.generate(inputs_embeds=embeds, **GREEDY), run.kept


PROMPTS = [(3, 20, 4), (5, 31, 2), (6, 0, 5), (2, 9, 8)]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("sides", ["llll", "rrrr", "lrlr"])
@pytest.mark.parametrize("kind", KINDS[:4])
@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_batch_equals_singles(attention, sides, kind, positions, device):
    model = make_decoder(device, attention)
    prompts = [prompt(*sizes, device) for sizes in PROMPTS]
    padded, mask, spans = batch(prompts, ["left" if s == "l" else "right" for s in sides])
    calls = []
    model.model.register_forward_hook(lambda *_: calls.append(1))
    with hico.progressive_dropout(model, LAYERS, RATIOS, kind, spans, positions) as run:
        got = model.generate(inputs_embeds=padded, attention_mask=mask, **GREEDY)
    assert len(calls) == GREEDY["max_new_tokens"]
    for b, (embeds, span) in enumerate(prompts):
        want, kept = run_one(model, embeds, span, kind, positions=positions)
        assert torch.equal(got[b], want[0])
        for stage, rows in enumerate(kept):
            mine = run.kept[stage][b]
            assert (mine[: mine.numel() - rows.numel()] == -1).all()
            first = mine[-rows.numel()] - rows[0, 0]
            assert torch.equal(mine[-rows.numel() :] - first, rows[0])
        if span is None:
            assert torch.equal(want, model.generate(inputs_embeds=embeds, **GREEDY))


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_counts(kind, device):
    """Text stays, the rest falls to the floor of its share, and every layer caches what it saw."""
    model = make_decoder(device)
    embeds, span = prompt(4, 21, 3, device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, kind, [span]) as run:
        out = model(inputs_embeds=embeds, use_cache=True)
        lengths = [out.past_key_values.get_seq_length(layer) for layer in range(5)]
        assert lengths == [28, 17, 17, 11, 11]
        model(torch.tensor([[5]], device=device), past_key_values=out.past_key_values)
        lengths = [out.past_key_values.get_seq_length(layer) for layer in range(5)]
        assert lengths == [29, 18, 18, 12, 12]
    assert out.logits.shape[1] == 11
    assert [kept.shape for kept in run.kept] == [(1, 17), (1, 11)]
    for kept, n in zip(run.kept, (28, 17), strict=True):
        assert (kept.diff() > 0).all() and kept.dtype == torch.int64
        assert torch.equal(kept[0, :4], torch.arange(4, device=device))
        assert torch.equal(kept[0, -3:], torch.arange(n - 3, n, device=device))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["renumber", "keep"])
def test_everything_kept(positions, device):
    model = make_decoder(device)
    prompts = [prompt(3, 12, 4, device), prompt(2, 17, 3, device)]
    padded, mask, spans = batch(prompts, ["left", "left"])
    want = model.generate(inputs_embeds=padded, attention_mask=mask, **GREEDY)
    with hico.progressive_dropout(model, LAYERS, [1, 1, 1], "uniform", spans, positions):
        got = model.generate(inputs_embeds=padded, attention_mask=mask, **GREEDY)
    assert torch.equal(got, want)


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("positions", ["renumber", "keep"])
@pytest.mark.parametrize("padded", [False, True])
def test_many_tokens_on_a_cache(attention, positions, padded, device):
    """Three more tokens at once are three steps of one, and drop nothing."""
    model = make_decoder(device, attention)
    prompts = [prompt(3, 20, 4, device), prompt(2, 9 if padded else 20, 4 if padded else 5, device)]
    embeds, mask, spans = batch(prompts, ["left", "right"])
    more = torch.randint(64, (2, 3), device=device)

    def ask(*parts):
        logits, cache, seen = [], None, mask
        with hico.progressive_dropout(model, LAYERS, RATIOS, "attention", spans, positions) as run:
            for ids in (None, *parts):
                if ids is not None:
                    seen = torch.cat([seen, torch.ones_like(ids)], 1)
                place = (seen.cumsum(1) - 1).clamp(min=0)
                given = {"inputs_embeds": embeds} if ids is None else {"input_ids": ids}
                place = place if ids is None else place[:, -ids.shape[1] :]
                out = model(
                    **given, attention_mask=seen, position_ids=place,
                    past_key_values=cache, use_cache=True,
                )  # fmt: skip
                cache = out.past_key_values
                logits.append(out.logits[:, -1 if ids is None else slice(None)])
        assert len(run.kept) == 2
        return torch.cat(logits[1:], 1)

    torch.testing.assert_close(ask(more), ask(*more.split(1, 1)), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_beams_and_samples(kind, device):
    model = make_decoder(device)
    prompts = [prompt(3, 20, 4, device), prompt(5, 0, 3, device)]
    padded, mask, spans = batch(prompts, ["left", "right"])
    settings = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2, "pad_token_id": 0}
    with hico.progressive_dropout(model, LAYERS, RATIOS, kind, spans):
        got = model.generate(inputs_embeds=padded, attention_mask=mask, do_sample=False, **settings)
        again = model.generate(
            inputs_embeds=padded, attention_mask=mask, do_sample=True, max_new_tokens=3,
            num_return_sequences=2, pad_token_id=0,
        )  # fmt: skip
    assert got.shape == (4, 5) and again.shape == (4, 3)
    if kind.startswith("random"):
        return
    for b, (embeds, span) in enumerate(prompts):
        with hico.progressive_dropout(model, LAYERS, RATIOS, kind, [span]):
            want = model.generate(inputs_embeds=embeds, do_sample=False, **settings)
        assert torch.equal(got[2 * b : 2 * b + 2], want)


@torch.no_grad()
def test_cache_outlives_context(device):
    """A copy of the cache goes on in another context of the same layers, and in no other."""
    model = make_decoder(device)
    prompts = [prompt(3, 20, 4, device), prompt(2, 9, 4, device)]
    embeds, mask, spans = batch(prompts, ["left", "right"])
    step = {
        "input_ids": torch.tensor([[5], [6]], device=device),
        "attention_mask": torch.nn.functional.pad(mask, (0, 1), value=1),
    }
    settings = (model, LAYERS, RATIOS, "attention", spans)
    with hico.progressive_dropout(*settings):
        cache = model(inputs_embeds=embeds, attention_mask=mask, use_cache=True).past_key_values
        copied = copy.deepcopy(cache)
        want = model(**step, past_key_values=cache).logits
    with hico.progressive_dropout(*settings) as run:
        assert torch.equal(model(**step, past_key_values=copied).logits, want)
    assert run.kept == []
    with hico.progressive_dropout(model, [2], [1, 0.5], "attention", spans):
        with pytest.raises(ValueError, match=r"shortened before layers \[2\], got one before"):
            model(**step, past_key_values=copied)


def loss_of(model, labels, query_rows, prompts, sides, kind="attention"):
    embeds, mask, spans = batch(prompts, sides)
    with hico.progressive_dropout(model, LAYERS, RATIOS, kind, spans, query_rows=query_rows) as run:
        out = model(inputs_embeds=embeds, attention_mask=mask, labels=labels)
    return out, run


@pytest.mark.parametrize("query_rows", ["auto", "last", "answers"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("training", [True, False])
def test_labels(query_rows, side, training, device):
    """The loss of a batch is the mean over the labels of its rows alone."""
    model = make_decoder(device).train(training)
    prompts = [prompt(3, 20, 7, device), prompt(2, 10, 5, device), prompt(6, 0, 4, device)]
    width, total, count, labels = 30, 0.0, 0, []
    for b, (embeds, span) in enumerate(prompts):
        n = embeds.shape[1]
        own = torch.full((1, n), -100, device=device)
        own[0, -3:] = torch.tensor([5, 6 + b, 7])
        out, run = loss_of(model, own, query_rows, [(embeds, span)], [side])
        assert out.logits.shape[1] == run.kept[-1].shape[1]
        total, count = total + 3 * out.loss, count + 3
        pad = (width - n, 0) if side == "left" else (0, width - n)
        labels.append(torch.nn.functional.pad(own, pad, value=-100))
    out, run = loss_of(model, torch.cat(labels), query_rows, prompts, [side] * 3)
    torch.testing.assert_close(out.loss, total / count, **CLOSE)
    out.loss.backward()
    # dropped rows are padded behind the others in training, in front of them else
    assert (run.kept[-1][2, -1 if training else 0] == -1).item()


def test_no_row_asks(device):
    """Without an answer nothing is dropped by attention."""
    model = make_decoder(device).train()
    one = prompt(3, 20, 4, device)
    labels = torch.full((1, 27), -100, device=device)
    _, run = loss_of(model, labels, "auto", [one], ["left"])
    assert [kept.shape[1] for kept in run.kept] == [27, 27]
    _, run = loss_of(model, labels, "auto", [one], ["left"], "uniform0_attention")
    assert [kept.shape[1] for kept in run.kept] == [17, 17]


@pytest.mark.parametrize("inside", [True, False])
def test_gradient_checkpointing(inside, device):
    """The same gradients, with the backward pass in the context or behind it."""
    embeds, span = prompt(3, 20, 6, device)
    labels = torch.full((1, 29), -100, device=device)
    labels[0, -3:] = 5
    model = make_decoder(device).train()
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        with hico.progressive_dropout(model, LAYERS, RATIOS, "attention", [span]):
            loss = model(inputs_embeds=embeds, labels=labels).loss
            if inside:
                loss.backward()
        if not inside:
            loss.backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for a, b in itertools.zip_longest(*grads):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_after_all_layers(device):
    model = make_decoder(device)
    embeds, span = prompt(3, 20, 4, device)
    whole = model(inputs_embeds=embeds).logits
    with hico.progressive_dropout(model, [5], [1, 0.3], "uniform", [span]) as run:
        short = model(inputs_embeds=embeds, use_cache=True)
    torch.testing.assert_close(short.logits, whole[:, run.kept[0][0]], **CLOSE)
    assert short.past_key_values.get_seq_length(4) == 27


def state(model):
    return [
        (sorted(vars(m)), len(m._forward_pre_hooks), len(m._forward_hooks))
        for m in model.modules()
    ]  # fmt: skip


def test_undone(device):
    model = make_decoder(device)
    model.gradient_checkpointing_enable()
    embeds, span = prompt(3, 20, 4, device)
    want, before = model(inputs_embeds=embeds).logits, state(model)
    with pytest.raises(RuntimeError, match="mine"):
        with hico.progressive_dropout(model, LAYERS, RATIOS, "attention", [span]):
            assert model(inputs_embeds=embeds).logits.shape[1] == 11
            raise RuntimeError("mine")
    assert state(model) == before
    assert torch.equal(model(inputs_embeds=embeds).logits, want)


def test_base_model_and_text(device):
    """The model below the head serves too, ids without -200 are text, spans may be a keyword."""
    model = make_decoder(device)
    ids = torch.randint(64, (2, 9), device=device)
    embeds, span = prompt(3, 20, 4, device)
    want = model.model(ids).last_hidden_state
    with hico.progressive_dropout(model.model, LAYERS, RATIOS):
        torch.testing.assert_close(model.model(ids).last_hidden_state, want, **CLOSE)
        out = model.model(inputs_embeds=embeds, visual_spans=[span]).last_hidden_state
        assert out.shape[1] == 11
        with pytest.raises(ValueError, match="visual_spans: expected one"):
            model.model(inputs_embeds=embeds)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"layers": [0, 3]}, "layers: expected 1 <= layers <= 5, got 0"),
        ({"layers": [1, 6]}, "layers: expected 1 <= layers <= 5, got 6"),
        ({"layers": [1, 5]}, "layers: expected at most 4 for an attention stage"),
        ({"layers": [3, 1]}, "layers: expected them to ascend"),
        ({"ratios": [0.9, 0.5, 0.2]}, "ratios: expected the first to be 1, got 0.9"),
        ({"ratios": [1, 0.5]}, "ratios: expected 3, one more than layers, got 2"),
        ({"ratios": [1, 0.2, 0.5]}, "ratios: expected them to fall"),
        ({"kind": "best"}, "kind: expected one of"),
        ({"positions": "same"}, "positions: expected one of"),
        ({"query_rows": "all"}, "query_rows: expected one of"),
        ({"model": torch.nn.Linear(2, 2)}, "model: expected one decoder"),
    ],
)
def test_wrong_settings(wrong, message, device):
    given = {"model": make_decoder(device), "layers": LAYERS, "ratios": RATIOS} | wrong
    with pytest.raises(ValueError, match=message):
        with hico.progressive_dropout(**given):
            pass


@pytest.mark.parametrize(
    "spans, message",
    [
        ([(3, 28)], "expected 0 <= start <= stop <= 27"),
        ([(5, 3)], "expected 0 <= start <= stop <= 27"),
        ([(3, 9), (3, 9)], "for each of 1 batch rows, got 2"),
        ([], "for each of 1 batch rows, got 0"),
    ],
)
def test_wrong_spans(spans, message, device):
    model = make_decoder(device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, visual_spans=spans):
        with pytest.raises(ValueError, match=message):
            model(inputs_embeds=prompt(3, 20, 4, device)[0])


def test_what_cannot_work(device):
    model = make_decoder(device)
    embeds, span = prompt(3, 20, 4, device)
    with hico.progressive_dropout(model, LAYERS, RATIOS, "attention", [span]):
        with pytest.raises(ValueError, match="past_key_values: expected a DynamicCache"):
            cache = StaticCache(config=model.config, max_cache_len=40)
            model(inputs_embeds=embeds, past_key_values=cache)
        with pytest.raises(ValueError, match="past_key_values: expected a DynamicCache"):
            model.generate(inputs_embeds=embeds, cache_implementation="static", **GREEDY)
        with pytest.raises(ValueError, match="prefill_chunk_size: expected None"):
            model.generate(inputs_embeds=embeds, prefill_chunk_size=8, **GREEDY)
        with pytest.raises(ValueError, match="attention_mask: expected"):
            model(inputs_embeds=embeds, attention_mask=torch.ones(1, 1, 27, 27, device=device))
        with pytest.raises(ValueError, match="visual_spans: expected no padding inside"):
            model(inputs_embeds=embeds, attention_mask=torch.arange(27, device=device)[None] > 4)
    window = make_decoder(device, use_sliding_window=True, sliding_window=4, max_window_layers=1)
    with pytest.raises(ValueError, match="model: expected full attention"):
        with hico.progressive_dropout(window, LAYERS, RATIOS):
            pass
    with hico.progressive_dropout(model, LAYERS, RATIOS, "attention", [span], query_rows="answers"):
        with pytest.raises(ValueError, match="query_rows: expected labels"):
            model(inputs_embeds=embeds)
