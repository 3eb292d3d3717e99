"""The four stages one after another on a CPU, from random weights to answers about new videos."""

import json
from pathlib import Path

import pytest
import torch
from training_helpers import (
    COLOURS,
    QUESTION,
    SMALL,
    frames_of,
    tiny_folder,
    write_mp4,
    write_stage,
    write_videos,
)

from hico.cli import main
from hico.model.load import load_model

RATES = {"encoder": 2e-3, "connector": 5e-3, "llm": 3e-3}
STAGES = {
    "align": {"steps": 8, "batch": 8, "max_frames": 4, "tune": {"connector": 1e-2}},
    "short": {"steps": 64, "tune": RATES},
    "joint": {
        "steps": 24,
        "tune": RATES,
        "min_frames": 8,
        "gradient_checkpointing": True,
        "dropout": {"layers": [1, 2], "ratios": [1, 0.75, 0.5]},
    },
    "high_resolution": {
        "steps": 6,
        "tune": {"encoder": 1e-4, "connector": 1e-3},
        "tower": "umt-hd-large",
        "resolution": 40,
    },
}
ORDER = list(STAGES)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """stage -> the folder that it left behind; "start" is where the first began."""
    pytest.importorskip("av")
    root = tmp_path_factory.mktemp("stages")
    folders = {"start": tiny_folder(root / "start")}
    captions = write_videos(root / "captions", 48, 0, caption=True)
    questions = write_videos(root / "questions", 80, 1, films=8, texts=12)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for before, name in zip(["start", *ORDER], ORDER, strict=False):
            settings = SMALL | STAGES[name] | {"model": folders[before], "output": root / name}
            data = captions if name == "align" else questions
            file = write_stage(root / f"{name}.yaml", extends=name, data=data, **settings)
            assert main(["train", str(file)]) == 0
            folders[name] = root / name
    finally:
        torch.set_num_threads(threads)
    return folders


def accuracy(folder, blank):
    """How often the answer's first letter is right for 40 videos that no stage has seen."""
    model, processor = load_model(folder, "cpu")
    right = 0
    for i in range(40):
        colour = list(COLOURS)[i % 4]
        frames = torch.from_numpy(frames_of(colour, [99, i]))
        frames = torch.full_like(frames, 128) if blank else frames
        told = processor.time_message(8.0, torch.arange(8))
        prompt = processor.prompt(QUESTION, message=told)
        with torch.no_grad():
            logits = model(**processor(prompt, videos=[frames])).logits[0, -1]
        right += int(logits.argmax()) == processor.tokenizer(colour[0]).input_ids[0]
    return right / 40


@pytest.mark.parametrize("name", ["short", "joint", "high_resolution"])
def test_it_learns_to_see(trained, name):
    assert accuracy(trained[name], blank=False) >= 0.85
    assert accuracy(trained[name], blank=True) <= 0.5
    assert accuracy(trained["start"], blank=False) <= 0.5


def test_every_loss_falls(trained):
    for name in ORDER:
        lines = [json.loads(line) for line in (trained[name] / "log.jsonl").open()]
        assert [line["step"] for line in lines] == list(range(1, STAGES[name]["steps"] + 1))
        first, last = (sum(x["loss"] for x in part) for part in (lines[:3], lines[-3:]))
        assert last < first or name == "high_resolution" and last < 1.2 * first


@pytest.mark.parametrize(("before", "name"), [("start", "align"), ("joint", "high_resolution")])
def test_frozen_parts_stay_as_they_were(trained, before, name):
    states = [load_model(trained[x], "cpu", torch.float32)[0].state_dict() for x in (before, name)]
    changed = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    parts = {"vision_tower": "encoder", "mm_projector": "connector"}
    found = {next((parts[k] for k in parts if k in key), "llm") for key in changed}
    assert found == set(STAGES[name]["tune"])


def test_the_last_folder_answers_about_a_film(trained, tmp_path):
    folder = trained["high_resolution"]
    config = json.loads((folder / "config.json").read_text())
    assert (config["model_type"], config["mm_vision_tower"]) == (
        "videochat_flash_qwen",
        "umt-hd-large",
    )
    assert (folder / "model.safetensors").is_file() and (folder / "tokenizer.json").is_file()
    assert not [p for p in Path(folder).rglob("*") if p.suffix in (".bin", ".pkl")]
    model, processor = load_model(folder, "cpu")
    assert model.encoder.image_size == processor.image_size == 40
    for i, colour in enumerate(COLOURS):
        film = tmp_path / f"{colour}.mp4"
        write_mp4(film, frames_of(colour, [7, i]))
        answer = model.ask(film, QUESTION, processor, frames=8, max_new_tokens=8)
        assert answer.strip() == colour
