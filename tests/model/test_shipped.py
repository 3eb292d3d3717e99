"""hico-tiny as it ships: what is in its folder, and what it finds on a CPU with both levels on.

HICO_FILES=n asks about n files in place of 4; python -m hico.bench files takes any number.
"""

import json
import os

import pytest
import torch

from hico.bench import files
from hico.model import VideoSession
from hico.model.load import SHIPPED, load_model, shipped
from hico.model.needle.asking import is_free, letter_answers
from hico.model.settings import DropoutSettings
from hico.model.training.worlds import make_world
from hico.model.training.worlds.spec import WorldSpec
from hico.model.training.worlds.write import write_worlds

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
CASES, FRAMES, SEED = 20, 64, 60_000
HOLDS = {"README.md", "config.json", "generation_config.json", "model.safetensors"}
HOLDS |= {"tokenizer.json", "tokenizer_config.json"}
SECTIONS = ("can", "can't", "Architecture", "Data", "Seeds", "Training", "Cost", "Figures")


@pytest.fixture(scope="module")
def opened():
    """(model, processor, dropout); missing weights fail every test that asks for it."""
    model, processor = load_model(device="cpu")
    return model, processor, DropoutSettings.from_config(model.config)


def test_the_folder_holds_weights_json_and_a_card_alone():
    assert {path.name for path in shipped().iterdir()} == HOLDS
    assert (SHIPPED / "model.safetensors").stat().st_size <= 15 << 20
    for path in SHIPPED.glob("*.json"):
        found = json.loads(path.read_text(encoding="utf-8"))
        assert isinstance(found, dict) and not {"auto_map", "custom_pipelines"} & set(found), path


def test_the_card_leaves_nothing_to_measure():
    card = (SHIPPED / "README.md").read_text(encoding="utf-8")
    assert "TO MEASURE" not in card
    headings = [line for line in card.splitlines() if line.startswith("## ")]
    assert all(any(word in line for line in headings) for word in SECTIONS)


def test_it_is_what_its_card_says(opened):
    model, processor, dropout = opened
    assert dropout.ratios == (1.0, 0.75, 0.25) and dropout.kind == "uniform0_attention"
    depth = model.config.num_hidden_layers
    assert [round(layer / depth, 1) for layer in dropout.layers] in ([0.1, 0.6], [0.2, 0.7])
    encoder, connector = model.encoder, model.model.mm_projector
    assert (encoder.image_size, encoder.patch_size, encoder.num_frames) == (224, 16, 4)
    assert connector.tokens_per_clip == 64 and processor.tokenizer.is_fast
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_a_needle_among_64_frames(opened):
    """In words and by its letter; every world is asked as often as its cards allow."""
    model, processor, dropout = opened
    right = {"free": [], "letter": []}
    number = SEED
    while len(right["free"]) < CASES:
        world = make_world("needle", number, FRAMES, "test", questions=2)
        session = VideoSession.open(model, processor, world.all_frames(), dropout=dropout)
        assert session.tokens == [1024, 768, 256]
        for asked in world.questions[: CASES - len(right["free"])]:
            question, answer = asked.turn("free")
            right["free"].append(is_free(session.ask(question, max_new_tokens=16), [answer]))
            said = session.ask(asked.text, max_new_tokens=8)
            right["letter"].append(is_free(said, letter_answers(asked.text, asked.letter)))
        number += 1
    assert all(sum(outcomes) >= 0.95 * CASES for outcomes in right.values()), right


def test_video_files_the_way_of_hico_ask(opened, tmp_path):
    """Through decoder, encoder, merge, dropout and generation."""
    pytest.importorskip("av")
    count = int(os.environ.get("HICO_FILES", "4"))
    spec = WorldSpec("needle", SEED, FRAMES, count, "test", questions=2)
    write_worlds(spec, tmp_path / "worlds")
    answers = list(files.asked(tmp_path / "worlds", opened, None))
    assert len({one["file"] for one in answers}) == count
    for form in ("free", "options"):
        outcomes = [one["ok"] for one in answers if one["form"] == form]
        assert sum(outcomes) >= 0.95 * len(outcomes), [one for one in answers if not one["ok"]]


@torch.no_grad()
def test_words_alone_do_not_answer(opened):
    """Of a video without the card the model does not find its number, so it is not in the words."""
    model, processor, dropout = opened
    worlds = [make_world("needle", SEED + i, FRAMES, "test") for i in range(5)]
    blank = torch.zeros(FRAMES, 224, 224, 3, dtype=torch.uint8)
    session = VideoSession.open(model, processor, blank, dropout=dropout)
    turns = [world.questions[0].turn("free") for world in worlds]
    said = [is_free(session.ask(q, max_new_tokens=16), [answer]) for q, answer in turns]
    assert sum(said) <= 1
