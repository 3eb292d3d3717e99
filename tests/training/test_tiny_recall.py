"""Stage 0b: what the model is given, what is learned, and that it goes on from weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_helpers import invented_bank, small_model
from torch._dynamo.testing import CompileCounter

from hico.model.training.tiny.align import align, words_of
from hico.model.training.tiny.levels import Level
from hico.model.training.tiny.masters import Masters
from hico.model.training.tiny.recall import (
    Tally,
    answers,
    compiled,
    dropped,
    loss_of,
    positions,
    recall,
)
from hico.model.training.tiny.samples import Drawer
from hico.model.training.tiny.tokenizer import train_tokenizer

EASY = Level(1, 2, rows=16, watch=1.0)
HARD = Level(4, 6, rows=3, turns=2)


@pytest.fixture(scope="module")
def bank():
    return invented_bank(4, 16, tokens=2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def drawn(bank, tokenizer, level, seed=0):
    return Drawer(bank, tokenizer).batch(np.random.default_rng(seed), level)


@pytest.mark.parametrize(("skip", "tokens"), [(0, None), (3000, None), (3000, 1)])
def test_answers_are_the_models_own(bank, tokenizer, skip, tokens):
    """Each row alone, unpadded, in one plain forward of the whole model, gives the same logits."""
    model = small_model().eval()
    model.config.mm_llm_compress = False
    batch = drawn(bank, tokenizer, replace(HARD, skip=skip, tokens=tokens))
    with torch.no_grad():
        logits, wanted = answers(model, bank, batch)
        places, table = positions(batch, len(batch.head), 2), model.get_input_embeddings()
        found = []
        for row, ids in enumerate(batch.ids):
            clips = zip(batch.clips[row], batch.seen[row], strict=True)
            shown = torch.cat([bank.features[clip, at] for clip, at in clips])
            seen = model.model.mm_projector.mlp(shown)
            stop = max(stop for r, _, stop, *_ in batch.spans if r == row)
            whole = torch.cat([table(batch.head), seen, table(ids[:stop])])[None]
            ones = torch.ones(whole.shape[:2], dtype=torch.int64)
            place = places[row : row + 1, : whole.shape[1]]
            out = model(inputs_embeds=whole, attention_mask=ones, position_ids=place).logits[0]
            begin = len(batch.head) + len(seen)
            for r, first, stop, *_ in batch.spans:
                if r == row:
                    found.append(out[begin + first - 1 : begin + stop - 1])
    torch.testing.assert_close(logits, torch.cat(found), atol=1e-4, rtol=1e-4)
    spans = [batch.ids[r, first:stop] for r, first, stop, *_ in batch.spans]
    assert torch.equal(wanted, torch.cat(spans))


def test_tokens_are_dropped_as_in_inference(bank, tokenizer):
    """Of one question a row: what is kept is what the last row of its prompt alone would keep."""
    model = small_model().train()
    batch = drawn(
        bank, tokenizer, replace(HARD, rows=1, turns=1, drop=1.0, forms=(1.0, 0.0, 0.0, 0.0))
    )
    with torch.no_grad():
        logits, _ = answers(model, bank, batch)
        seen = model.model.mm_projector.mlp(bank.features[batch.clips].flatten(1, 2))
        asked = batch.ids[:, : batch.spans[0][1]]
        table, head = model.get_input_embeddings(), len(batch.head)
        whole = torch.cat([table(batch.head)[None], seen, table(asked)], 1)
        span = [(head, head + seen.shape[1])]
        out = model.eval()(inputs_embeds=whole, visual_spans=span).logits
    assert out.shape[1] < whole.shape[1]
    torch.testing.assert_close(logits[0], out[0, -1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("drop", "kept"), [("none", []), ("uniform", [0.75]), ("all", [0.75, 0.5])]
)
def test_what_of_the_models_dropout_a_batch_has(drop, kept):
    sizes = {"num_hidden_layers": 3, "llm_compress_layer_list": [1, 2]}
    sizes |= {"llm_image_token_ratio_list": [1.0, 0.75, 0.5]}
    model = small_model(**sizes, llm_compress_type="uniform0_attention")
    found = dropped(model, drop)
    assert (list(found.ratios[1:]) if found else []) == kept
    model.config.mm_llm_compress = False
    assert dropped(model, drop) is None


def test_answers_weigh_by_the_root_of_their_length(bank, tokenizer):
    batch = drawn(bank, tokenizer, replace(HARD, forms=(0.5, 0.0, 0.0, 0.5)))
    sizes = torch.tensor([stop - first for _, first, stop, *_ in batch.spans])
    assert sizes.unique().numel() > 1
    logits = torch.zeros(int(sizes.sum()), 8)
    wanted = torch.zeros(int(sizes.sum()), dtype=torch.int64)
    torch.testing.assert_close(loss_of(logits, wanted, batch), torch.tensor(8.0).log())
    first = int(sizes[0])
    logits[:first, 0] = 50.0  # the first answer is known
    share = sizes[1:].sqrt().sum() / sizes.sqrt().sum()
    torch.testing.assert_close(loss_of(logits, wanted, batch), share * torch.tensor(8.0).log())


def test_compiled_layers_are_left_as_they_were(bank, tokenizer):
    """What they compute stays the same, and one graph does for all layers and lengths."""
    model = small_model(num_hidden_layers=3).train()
    batches = [drawn(bank, tokenizer, replace(HARD, clips=n)) for n in (4, 8)]
    plain = [answers(model, bank, batch)[0] for batch in batches]
    counted = CompileCounter()
    with compiled(model.model.layers, backend=counted):
        for batch, wanted in zip(batches, plain, strict=True):
            torch.testing.assert_close(answers(model, bank, batch)[0], wanted)
    assert counted.frame_count == 1
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_positions(bank, tokenizer):
    batch = drawn(bank, tokenizer, replace(HARD, skip=5000))
    found = positions(batch, 7, 2)
    rows, clips = batch.clips.shape
    assert found.shape == (rows, 7 + 2 * clips + batch.ids.shape[1])
    steps = found.diff(dim=1)
    assert (found[:, :7] == torch.arange(7)).all() and (steps >= 1).all()
    inside = torch.arange(6, 6 + 2 * clips).reshape(clips, 2)[:, 1]
    assert (steps[:, inside] == 1).all()  # a clip stays whole
    between = torch.arange(6, 6 + 2 * clips + 1, 2)
    assert torch.equal(steps[:, between] - 1, batch.gaps)


def test_positions_of_a_part_of_the_tokens(bank, tokenizer):
    """They are those that the same tokens have where all are there."""
    some = drawn(bank, tokenizer, replace(HARD, skip=5000, tokens=1))
    rows, clips = some.clips.shape
    whole = replace(some, seen=torch.arange(2).expand(rows, clips, 2))
    found, whole_places = positions(some, 7, 2), positions(whole, 7, 2)
    visual = whole_places[:, 7 : 7 + 2 * clips].unflatten(1, (clips, 2))
    assert torch.equal(found[:, 7 : 7 + clips], visual.gather(2, some.seen)[..., 0])
    assert torch.equal(found[:, :7], whole_places[:, :7])
    assert torch.equal(found[:, 7 + clips :], whole_places[:, 7 + 2 * clips :])


def test_words_of_clips(bank, tokenizer):
    said = words_of(bank, tokenizer)
    card = bank.decks[0].cards[0]
    words = tokenizer.convert_ids_to_tokens([i for i in said[0].tolist() if i >= 0])
    assert words[:3] == [card.shape, card.colour, card.word]
    assert said[bank.hay :, 0].unique().tolist() == [tokenizer.pad_token_id]
    assert (said[bank.hay :, 1:] == -1).all()


def test_it_learns_to_read_a_card(bank, tokenizer):
    """Untrained, nothing is right; the loss of 0.6 is where shapes and colours are known."""
    model = small_model(hidden_size=96, intermediate_size=96, initializer_range=0.1)
    align(model, bank, tokenizer, steps=60, batch=128)
    frozen = [one.clone() for one in model.encoder.parameters()]
    levels = [EASY, HARD]
    records = []
    given = {"levels": levels, "peak": 2e-3, "warm": 20, "every": 10}
    for record in recall(model, bank, tokenizer, 600, steps=400, **given):
        records.append(record)
        if record["loss"] < 0.6:
            break
    assert records[-1]["loss"] < 0.6 and records[0]["loss"] > 2
    assert {"step", "seconds", "level", "loss", "right", "lr"} <= set(records[0])
    assert set(records[0]["right"]) == {"watch/1"}
    assert all(map(torch.equal, frozen, model.encoder.parameters()))


def test_the_next_level_when_most_is_right(bank, tokenizer, monkeypatch):
    monkeypatch.setattr("hico.model.training.tiny.recall.OVER", 2)
    levels = [replace(EASY, rows=rows, right=0.5) for rows in (2, 3, 4)]
    found = []
    for record in recall(small_model(), bank, tokenizer, 60, levels=levels, slack=0.5, every=1):
        found.append((record["step"], record["level"]))
        if len(found) == 7:
            break
    # a step is counted when the next one is under way; what is drawn ahead is none here
    assert found == [(2, 0), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2), (8, 2)]


def test_so_many_steps_and_no_more(bank, tokenizer):
    model = small_model()
    found = list(recall(model, bank, tokenizer, 60, levels=[EASY], steps=6, every=2, warm=1))
    assert [record["step"] for record in found] == [2, 4, 6]
    assert found[-1]["lr"] < found[0]["lr"]


@pytest.mark.parametrize("alone", [False, True])
def test_earlier_levels_can_be_left_out(bank, tokenizer, monkeypatch, alone):
    drawn, batch = [], Drawer.batch
    monkeypatch.setattr(Drawer, "batch", lambda *given: (drawn.append(given[-1]), batch(*given))[1])
    levels = [EASY, EASY, EASY, replace(EASY, again=1.0)]
    given = {"levels": levels, "level": 3, "alone": alone}
    list(recall(small_model(), bank, tokenizer, 60, steps=3, warm=1, **given))
    assert set(drawn) == ({3} if alone else {2})


def test_no_step_waits_for_plans_of_its_lengths(bank, tokenizer, monkeypatch):
    found = []

    def watched(*args):
        found.append(torch.backends.cuda.cudnn_sdp_enabled())
        return loss_of(*args)

    monkeypatch.setattr("hico.model.training.tiny.recall.loss_of", watched)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    list(recall(small_model(), bank, tokenizer, 60, levels=[EASY], steps=2, warm=1))
    assert found == [False, False] and torch.backends.cuda.cudnn_sdp_enabled() == before


@pytest.mark.parametrize("level", [-1, 12])
def test_a_level_that_is_not_there(bank, tokenizer, level):
    with pytest.raises(ValueError, match="level: expected 0 to 11"):
        next(recall(small_model(), bank, tokenizer, 1, level=level))


def test_tally(bank, tokenizer):
    batch = drawn(bank, tokenizer, HARD)
    sizes = [stop - first for _, first, stop, *_ in batch.spans]
    hits = torch.ones(sum(sizes), dtype=torch.bool)
    hits[: sizes[0]] = False
    tally = Tally()
    assert tally.add(batch, hits, torch.tensor(2.0)) == pytest.approx(1 - 1 / len(sizes))
    told = tally.told(1.0)
    assert told["loss"] == 2.0 and told["answers"] == len(sizes)
    assert min(told["right"].values()) < 1


def test_muon_is_that_of_torch():
    """Of every shape, square, wide and tall, in several steps."""
    torch.manual_seed(0)
    shapes = [(8, 8), (8, 20), (20, 8), (8, 8), (20, 8)]
    theirs = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    ours = [torch.nn.Parameter(one.detach().clone()) for one in theirs]
    muon = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.3, adjust_lr_fn="match_rms_adamw")
    masters = Masters(ours, 0.1, 0.3, matrices=ours)
    for _ in range(3):
        for one, other in zip(theirs, ours, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        muon.step()
        masters.step(0.1)
        for one, other in zip(theirs, ours, strict=True):
            torch.testing.assert_close(other, one, atol=2e-2 * 0.1, rtol=0)


def test_masters_move_what_bf16_would_round_away():
    weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.bfloat16))
    masters = Masters([weight], 1e-3, 0.0)
    for _ in range(20):
        F.mse_loss(weight.float(), torch.zeros(4, 4)).backward()
        masters.step(1e-3)
    assert weight.grad is None and float(masters.copies[0].detach().mean()) < 0.985
    assert float(weight.detach().float().mean()) < 0.985
