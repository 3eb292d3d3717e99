"""More questions of one video: a rewound cache and a question give what the whole prompt would."""

import pytest
import torch
from decoder_layers import SIZES, make_decoder

import hico

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
KINDS = ("uniform", "attention", "uniform0_attention", "uniform1_attention", "random0_attention")
KINDS += ("random",)
LAYERS, RATIOS = [1, 3], [1.0, 0.5, 0.2]
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
SPAN = (4, 40)
QUESTIONS = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11], [5, 6, 7]]


def with_question(model, head, question):
    """The whole prompt's embeddings, and the ids of the question alone."""
    ids = torch.tensor([question], device=head.device)
    return torch.cat([head, model.model.embed_tokens(ids)], 1), ids


def behind(ids, head):
    """The arguments of generate for ids behind a cache of head's rows."""
    ones = torch.ones(1, head.shape[1] + ids.shape[1], dtype=torch.int64, device=head.device)
    return {"input_ids": ids, "attention_mask": ones} | GREEDY


CASES = [(kind, "renumber", LAYERS, RATIOS, "sdpa") for kind in KINDS]
CASES += [(kind, "keep", LAYERS, RATIOS, "sdpa") for kind in KINDS[1:3]]
CASES += [("uniform0_attention", "renumber", LAYERS, RATIOS, "eager")]
CASES += [("attention", "renumber", [2], [1, 0], "sdpa"), ("uniform", "keep", [], [1], "sdpa")]


@torch.no_grad()
@pytest.mark.parametrize("kind, positions, layers, ratios, attention", CASES)
def test_equal_to_fresh_runs(device, kind, positions, layers, ratios, attention):
    model = make_decoder(device, attention)
    head = torch.randn(1, SPAN[1], SIZES["hidden_size"], device=device)
    settings = (model, layers, ratios, kind, [SPAN], positions)
    torch.manual_seed(3)  # the stage that draws
    with hico.progressive_dropout(*settings) as run:
        cache = run.watch(head)
    for question in QUESTIONS:
        embeds, ids = with_question(model, head, question)
        torch.manual_seed(3)
        with hico.progressive_dropout(*settings) as fresh:
            want = model.generate(inputs_embeds=embeds, **GREEDY)
            torch.manual_seed(3)
            logits = model(inputs_embeds=embeds).logits[:, -1]
        with hico.progressive_dropout(*settings) as run:
            got = model.generate(**behind(ids, head), past_key_values=cache)[:, ids.shape[1] :]
            assert all(torch.equal(*rows) for rows in zip(run.kept, fresh.kept, strict=True))
            run.rewind(cache)
        assert torch.equal(got, want)
        with hico.progressive_dropout(*settings) as run:
            again = model(input_ids=ids, past_key_values=cache).logits[:, -1]
            run.rewind(cache)
        torch.testing.assert_close(again, logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_only_what_the_question_needs_runs(device):
    """Layers before the first that asks see the question alone; the video stays where it was."""
    model = make_decoder(device)
    head = torch.randn(1, SPAN[1], SIZES["hidden_size"], device=device)
    ids = torch.tensor([[1, 2, 3]], device=device)
    seen = []
    for layer in model.model.layers:
        layer.self_attn.q_proj.register_forward_pre_hook(lambda _, a: seen.append(a[0].shape[1]))
    with hico.progressive_dropout(model, LAYERS, RATIOS, "uniform0_attention", [SPAN]) as run:
        cache = run.watch(head)
        assert seen == [40, 22, 22]  # the layers from the third on wait for a question
        assert [cache.get_seq_length(i) for i in range(5)] == [40, 22, 22, 0, 0]
        seen.clear()
        model(input_ids=ids, past_key_values=cache)
    # one row more: the query that ranks
    assert [n for n in seen if n > 1] == [3, 3, 3, 4 + 7 + 3, 4 + 7 + 3]


@torch.no_grad()
def test_beams_and_several_answers(device):
    model = make_decoder(device)
    head = torch.randn(1, SPAN[1], SIZES["hidden_size"], device=device)
    settings = (model, LAYERS, RATIOS, "uniform0_attention", [SPAN])
    beams = {"num_beams": 3, "num_return_sequences": 2}
    with hico.progressive_dropout(*settings) as run:
        cache = run.watch(head)
    for question in QUESTIONS:
        embeds, ids = with_question(model, head, question)
        with hico.progressive_dropout(*settings):
            want = model.generate(inputs_embeds=embeds, **beams, **GREEDY)
        with hico.progressive_dropout(*settings) as run:
            cache.batch_repeat_interleave(3)
            got = model.generate(**behind(ids, head), **beams, past_key_values=cache)
            run.rewind(cache, batch=1)
        assert torch.equal(got[:, ids.shape[1] :], want)


@torch.no_grad()
def test_batches(device):
    """Several heads of one length at once."""
    model = make_decoder(device)
    head = torch.randn(2, SPAN[1], SIZES["hidden_size"], device=device)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]], device=device)
    embeds = torch.cat([head, model.model.embed_tokens(ids)], 1)
    with hico.progressive_dropout(model, LAYERS, RATIOS, visual_spans=[SPAN] * 2) as run:
        want = model(inputs_embeds=embeds).logits[:, -1]
        kept = run.kept
        got = model(input_ids=ids, past_key_values=run.watch(head)).logits[:, -1]
    assert all(torch.equal(*rows) for rows in zip(run.kept, kept, strict=True))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_errors(device):
    model = make_decoder(device)
    embeds = torch.randn(2, 40, SIZES["hidden_size"], device=device)
    ids = torch.tensor([[1, 2]], device=device)
    with hico.progressive_dropout(model, LAYERS, RATIOS) as run:
        for spans in ([SPAN, None], [(4, 39)] * 2, [(3, 40), SPAN]):
            with pytest.raises(ValueError, match=r"visual_spans: expected \(start, 40\)"):
                run.watch(embeds, spans)
        plain = model(inputs_embeds=embeds[:1], visual_spans=[SPAN], use_cache=True)
        with pytest.raises(ValueError, match="a cache that watch began"):
            run.rewind(plain.past_key_values)
        cache = run.watch(embeds[:1], [SPAN])
    with (
        hico.progressive_dropout(model, LAYERS, [1, 0.5, 0.1], visual_spans=[SPAN]),
        pytest.raises(ValueError, match="as when it was filled"),
    ):
        model(input_ids=ids, past_key_values=cache)
    cache.layers[0].keys = cache.layers[0].keys[:, :, :5]
    with pytest.raises(ValueError, match="at least 40 rows in layer 0, got 5"):
        run.rewind(cache)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["random", "random0_attention"])
def test_a_seed_draws_the_same_in_every_pass(device, kind):
    model = make_decoder(device)
    embeds = torch.randn(1, SPAN[1] + 3, SIZES["hidden_size"], device=device)

    def kept(seed):
        with hico.progressive_dropout(model, LAYERS, RATIOS, kind, [SPAN], seed=seed) as run:
            model(inputs_embeds=embeds)
        return run.kept

    first, state = kept(7), torch.random.get_rng_state()
    assert [index.shape[1] for index in first] == [4 + 18 + 3, 4 + 7 + 3]
    assert all(torch.equal(*rows) for rows in zip(first, kept(7), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(first[0], kept(8)[0]) and not torch.equal(first[0], kept(None)[0])


@pytest.mark.parametrize("seed", [-1, 0.5, "a", True, 1 << 60])
def test_seeds_that_are_none(seed):
    with (
        pytest.raises(ValueError, match="seed"),
        hico.progressive_dropout(make_decoder("cpu"), [1], [1, 0.5], "random", seed=seed),
    ):
        pass
