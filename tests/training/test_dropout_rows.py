"""Dropout in training keeps what it keeps at inference, and gaps in positions reach the decoder."""

import pytest
import torch
from training_helpers import QUESTION, frames_of, tiny

from hico import progressive_dropout
from hico.model.training.asking import last_rows
from hico.model.training.chance import Skipping
from hico.model.training.extras import Skips
from hico.model.training.templates import encode
from hico.model.training.trainer import undropped

PLAN = {"layers": [1, 2], "ratios": [1, 0.5, 0.25], "kind": "attention"}


@pytest.fixture
def sample():
    """A model, a conversation as it is trained on, and its prompt as it is asked."""
    model, processor = tiny()
    frames = torch.from_numpy(frames_of("lime", 3))
    turns = (("human", f"<image>\n{QUESTION}"), ("gpt", "lime, as far as one can see"))
    told = processor.time_message(8.0, range(8))
    ids, labels = encode(processor.tokenizer, turns, "qwen_2", told)
    seen = processor("<image>", videos=[frames])
    seen = {name: seen[name] for name in ("pixel_values_videos", "modalities", "image_grids")}
    header = processor.ids("<|im_start|>assistant\n")[0]
    ends = (ids.unfold(0, len(header), 1) == header).all(1).nonzero()
    prompt = ids[None, : int(ends) + len(header)]
    learned = {"input_ids": ids[None], "labels": labels[None]}
    return model, header.tolist(), learned | seen, {"input_ids": prompt} | seen


def kept(run):
    return [rows[0].tolist() for rows in run.kept]


def test_training_asks_as_inference_does(sample):
    model, header, learned, asked = sample
    with torch.no_grad(), progressive_dropout(model, **PLAN, query_rows="last") as run:
        model(**asked)
    expected = kept(run)
    found = {}
    model.train()
    for rule in ("last", "answers", "here"):
        given = last_rows(header) if rule == "here" else rule
        with progressive_dropout(model, **PLAN, query_rows=given) as run:
            model(**learned).loss.backward()
        found[rule] = kept(run)
    for stage, rows in enumerate(expected):
        assert found["here"][stage][: len(rows)] == rows
    # the published rows, and the last row of an answer, do not ask for the same
    assert all(found[rule][0][: len(expected[0])] != expected[0] for rule in ("answers", "last"))


def test_what_the_config_drops_is_for_inference(sample):
    """Where a stage drops nothing, training sees every token; the config says what it did."""
    model, _, learned, _ = sample
    model.train()
    whole = model(**learned).loss.item()
    fields = {"mm_llm_compress": True, "llm_compress_layer_list": [1, 2]}
    fields |= {"llm_image_token_ratio_list": [1, 0.5, 0.25], "llm_compress_type": "attention"}
    model.config.update(fields)
    assert model(**learned).loss.item() != whole
    with undropped(model.config):
        assert model(**learned).loss.item() == whole
    assert model.config.mm_llm_compress


def test_gaps_reach_the_decoder_in_training_alone(sample):
    model, _, learned, _ = sample
    plain = model(**learned).loss.item()
    skipping, seen = Skipping(Skips(max=3000, ramp=0.0)), []
    model.model.register_forward_pre_hook(skipping, with_kwargs=True)
    model.model.register_forward_pre_hook(lambda *a: seen.append(a[2]), with_kwargs=True)
    skipping.at(seed=0, step=1, steps=2, place=0)
    assert model(**learned).loss.item() == plain and seen[-1].get("position_ids") is None
    model.train()
    with_gaps = model(**learned).loss.item()
    place, mask = seen[-1]["position_ids"], seen[-1]["attention_mask"]
    assert place.shape == mask.shape and mask.all() and int(place[0, -1]) > place.shape[1]
    assert with_gaps != plain
    skipping.skips = Skips(max=8, ramp=0.0)  # no room for gaps: the same as without
    assert model(**learned).loss.item() == pytest.approx(plain, rel=1e-5)
