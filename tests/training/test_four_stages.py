"""The four stages one after another on a CPU, from random weights to answers about new videos."""

import json

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
from hico.model.training.parts import part_of

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


def test_four_stages(tmp_path):
    """One test, so that it is trained once however many processes test."""
    pytest.importorskip("av")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        folders = train(tmp_path)
    finally:
        torch.set_num_threads(threads)
    for name in ORDER:
        check_log(folders[name], name)
    check_frozen(folders["start"], folders["align"], {"connector"})
    check_frozen(folders["joint"], folders["high_resolution"], {"encoder", "connector"})
    assert accuracy(folders["start"], blank=False) <= 0.5
    for name in ORDER[1:]:
        assert accuracy(folders[name], blank=False) >= 0.85, name
        assert accuracy(folders[name], blank=True) <= 0.5, name
    check_answers(folders["high_resolution"], tmp_path)


def train(root):
    """stage -> the folder that it left behind; "start" is where the first began."""
    folders = {"start": tiny_folder(root / "start")}
    captions = write_videos(root / "captions", 48, 0, caption=True)
    questions = write_videos(root / "questions", 80, 1, films=8, texts=12)
    for before, name in zip(["start", *ORDER], ORDER, strict=False):
        settings = SMALL | STAGES[name] | {"model": folders[before], "output": root / name}
        data = captions if name == "align" else questions
        file = write_stage(root / f"{name}.yaml", extends=name, data=data, **settings)
        assert main(["train", str(file)]) == 0
        folders[name] = root / name
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


def check_log(folder, name):
    """A line a step, and a loss that falls; the last two keep what there is."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").open()]
    assert [line["step"] for line in lines] == list(range(1, STAGES[name]["steps"] + 1))
    first, last = (sum(x["loss"] for x in part) for part in (lines[:3], lines[-3:]))
    assert last < (0.8 if name in ("align", "short") else 3) * first, name
    assert {k[3:] for k in lines[0] if k[:3] == "lr_"} == set(STAGES[name]["tune"])


def check_frozen(before, after, tuned):
    """Parts that are not tuned are the same bit for bit, the others are not."""
    states = [load_model(x, "cpu", torch.float32)[0].state_dict() for x in (before, after)]
    changed = {key for key in states[0] if not torch.equal(states[0][key], states[1][key])}
    assert {part_of(key) for key in changed} == tuned


def check_answers(folder, root):
    """The last stage's folder, loaded as any model, about films that it has not seen."""
    config = json.loads((folder / "config.json").read_text())
    found = config["model_type"], config["mm_vision_tower"]
    assert found == ("videochat_flash_qwen", "umt-hd-large") and config["use_cache"]
    held = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "tokenizer.json", "processor_config.json"} <= held
    assert not [name for name in held if name.endswith((".bin", ".pkl", ".pt"))]
    model, processor = load_model(folder, "cpu")
    assert model.encoder.image_size == processor.image_size == 40
    for i, colour in enumerate(COLOURS):
        film = root / f"{colour}.mp4"
        write_mp4(film, frames_of(colour, [7, i]))
        answer = model.ask(film, QUESTION, processor, frames=8, max_new_tokens=8)
        assert answer.strip() == colour
