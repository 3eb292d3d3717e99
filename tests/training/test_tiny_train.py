"""Stages 1 to 4 of hico-tiny: what they tune, what they are shown, and each on from the last."""

import json
from itertools import count

import pytest
import torch
import yaml
from tiny_helpers import SMALL

from hico.model.training import parts, trainer
from hico.model.training.settings import load_stage
from hico.model.training.start import on_meta
from hico.model.training.tiny import command, tune
from hico.model.training.tiny.passes import WORLDS, Passes, paint_worlds
from hico.model.training.tiny.tune import Clock, stage_of
from hico.model.training.tiny.weights import new_model, open_model, write_model
from hico.model.training.worlds import make_world

NEEDLES = {"world": "needle", "frames": 8, "cards": 2, "density": 1.0, "form": "mixed"}
CHAINS = {"world": "multihop", "frames": 16, "density": 1.0, "hops": 1, "form": "mixed"}
SHORT = [NEEDLES | {"count": 3}, CHAINS | {"questions": 4, "count": 1}]


def data_file(path, entries):
    path.write_text(yaml.safe_dump({"datasets": entries}))
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of hardly any size, as stage 0 leaves one."""
    path = tmp_path_factory.mktemp("tiny") / "0"
    return write_model(*new_model(**SMALL), path, {"level": 2, "runs": [{"stage": "0b"}]})


@pytest.fixture
def staged(folder, tmp_path):
    """A stage with short worlds for data."""

    def make(number="2", entries=SHORT, **changed):
        data = data_file(tmp_path / "data.yaml", entries)
        given = {"model": str(folder), "output": str(tmp_path / "out"), "data": data}
        return stage_of(number, given | {"device": "cpu", "precision": "fp32"} | changed)

    return make


@pytest.mark.parametrize(
    ("number", "frames", "size", "tuned"),
    [
        ("1", (4, 8), 224, {"connector"}),
        ("2", (4, 16), 224, {"encoder", "connector", "llm"}),
        ("3", (64, 1000), 224, {"encoder", "connector", "llm"}),
        ("4", (64, 256), 448, {"encoder", "connector"}),
    ],
)
def test_groups_are_the_published_ones(number, frames, size, tuned, tmp_path):
    """Tuned is what the published stage tunes; rates keep to its proportions but in stage 4."""
    new_model()[0].config.save_pretrained(tmp_path)
    stage = stage_of(number, {"model": str(tmp_path)})
    published = load_stage(tune.STAGES[number])
    assert stage.name == published.name and set(stage.tune) == set(published.tune) == tuned
    times = {part: rate / published.tune[part] for part, rate in stage.tune.items()}
    wanted = {"1": {1}, "2": {30}, "3": {30}, "4": {30, 150}}[number]
    assert {round(found, 6) for found in times.values()} == wanted
    assert (stage.min_frames, stage.max_frames) == frames
    assert (stage.weight_decay, stage.clip, stage.betas) == (0.0, 1.0, (0.9, 0.98))
    model = on_meta(stage)
    assert model.encoder.image_size == size
    parts.freeze(model, stage.tune)
    found = parts.groups(model, stage.tune)
    assert {(group.part, group.rate) for group in found} == set(stage.tune.items())
    named = [name for group in found for name in group.names]
    assert sorted(named) == sorted(
        n for n, _ in model.named_parameters() if parts.part_of(n) in tuned
    )
    if number == "3":  # both levels as the config has them
        config, dropout = model.config, stage.dropout
        assert list(dropout.layers) == config.llm_compress_layer_list
        assert list(dropout.ratios) == config.llm_image_token_ratio_list
        assert dropout.kind == config.llm_compress_type and 0.5 < dropout.share < 1


@pytest.mark.parametrize("number", tune.STAGES)
def test_data_that_ships_fits(number, folder):
    """Every entry has rows for a pass, within the lengths of its stage."""
    stage = stage_of(number, {"model": str(folder)})
    passes = Passes(stage, new_model(**SMALL)[1])
    frames = [part.spec.span[1] for part in passes.parts]
    assert min(passes.rows) >= 2 and max(frames) == stage.max_frames
    most = stage.batch * stage.max_frames
    assert all(most / 2 <= rows * n <= most for rows, n in zip(passes.rows, frames, strict=True))


def test_each_goes_on_from_the_last(folder, tmp_path, capsys, monkeypatch):
    dropped = []
    real = trainer.hico.progressive_dropout
    monkeypatch.setattr(
        trainer.hico, "progressive_dropout", lambda *a, **k: dropped.append(a[1:4]) or real(*a, **k)
    )
    short = data_file(tmp_path / "short.yaml", SHORT)
    common = {"data": short, "batch": 2, "log_every": 1, "min_frames": 4, "max_frames": 16}
    own = {
        "1": {"resolution": 32},
        "2": {"resolution": 32},
        "3": {"resolution": 32, "dropout.layers": [1], "dropout.ratios": [1, 0.5], "workers": 1},
        "4": {"resolution": 48, "dropout": None},
    }
    ticks = count()  # a step takes a few, on whatever machine
    monkeypatch.setattr(tune.time, "perf_counter", lambda: next(ticks) * 0.1)
    before = folder
    for number, given in own.items():
        out = tmp_path / number
        done = command.main(
            [number, "--seconds", "2", "--from", str(before), "--out", str(out), "--device", "cpu"]
            + ["--workers", "0", "--set", json.dumps(common | given), "--peak", "1e-2"]
        )
        assert done == 0 and bool(dropped) == (number == "3")
        dropped.clear()
        check(before, out, number)
        before = out
    assert not list(tmp_path.glob("*/.*"))
    capsys.readouterr()


def check(before, after, number):
    """What a stage left: a curve, weights of what it tunes, and a folder for the next."""
    tuned = set(stage_of(number, {}).tune)
    curve = [json.loads(line) for line in (after / f"curve-{number}.jsonl").open()]
    assert [line["step"] for line in curve] == list(range(1, len(curve) + 1)) and len(curve) > 2
    rates = [line["lr_connector"] for line in curve]
    assert {key[3:] for key in curve[0] if key[:3] == "lr_"} == tuned
    assert rates[-1] < 0.5 * max(rates) <= 5e-3
    (old, *_), (new, processor, notes) = open_model(before, "cpu"), open_model(after, "cpu")
    pairs = zip(old.named_parameters(), new.parameters(), strict=True)
    changed = {parts.part_of(name) for (name, a), b in pairs if not torch.equal(a, b)}
    assert changed == tuned
    assert new.config.mm_llm_compress and new.config.use_cache and notes["level"] == 2
    assert new.encoder.image_size == processor.image_size == (48 if number == "4" else 32)
    assert notes["runs"][-1] == {"stage": number, "seconds": 2.0}


def test_worlds_painted_together_are_the_same(monkeypatch):
    worlds = [make_world("needle", i, 8 + 4 * i, cards=1 + i // 2) for i in range(3)]
    worlds.append(make_world("multihop", 0, 16, hops=1, density=1.0, card="static"))
    monkeypatch.setattr("hico.model.training.tiny.passes.frames_at_once", lambda *_: 5)
    for world, found in zip(worlds, paint_worlds(worlds, 24, "cpu"), strict=True):
        assert torch.equal(found, world.all_frames(24))


def test_passes(staged):
    """Of one length and one kind each; learned are the answers alone, half without a message."""
    processor = new_model(**SMALL)[1]
    passes, told = Passes(staged(batch=2), processor), set()
    again = iter(Passes(staged(batch=2), processor))
    for batch, _ in zip(passes, range(8), strict=False):
        other = next(again)
        assert torch.equal(batch["input_ids"], other["input_ids"])
        worlds = batch[WORLDS]
        assert len({(world.kind, world.frames) for world in worlds}) == 1
        assert len(worlds) * worlds[0].frames == 32
        shown = [range(worlds[0].frames)] * len(worlds)
        assert batch["pixel_values_videos"] == shown
        text = processor.tokenizer.decode(batch["input_ids"][0].clamp(min=0))
        told.add("The video lasts for" in text)
        answers = processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] >= 0])
        said = [turn.split("<|im_end|>")[0] for turn in text.split("assistant\n")[1:]]
        assert said and answers == "".join(f"{one}<|im_end|>" for one in said)
    assert told == {True, False}
    seeded = next(iter(Passes(staged(batch=2, seed=1), processor)))[WORLDS]
    assert seeded != next(iter(passes))[WORLDS]


LONG = {"frames": 64, "density": 0.75}


@pytest.mark.parametrize(
    ("entry", "answers"),
    [
        ({"world": "needle", "form": "mixed", "questions": 8} | LONG, 8),
        ({"world": "needle", "form": "describe", "questions": 8} | LONG, 1),
        ({"world": "multihop", "form": "mixed", "questions": 4} | LONG, 4),
        ({"world": "multihop", "form": "steps", "questions": 3} | LONG, 3),
        ({"world": "ordering", "form": "mixed", "questions": 2} | LONG, 1),
    ],
)
def test_a_video_is_asked_as_often_as_it_may(staged, entry, answers):
    """Each card or chain once, whoever asks; all of them in every video of the entry."""
    processor = new_model(**SMALL)[1]
    stage = staged(entries=[entry], max_frames=64, max_length=4096)
    part = Passes(stage, processor).parts[0]
    for number in range(4):
        sample = part.numbered(number)
        assert int((sample["labels"] == processor.tokenizer.eos_token_id).sum()) == answers
        text = processor.tokenizer.decode(sample["input_ids"].clamp(min=0))
        asked = [turn.split("\nOptions")[0] for turn in text.split("Find the frame of ")[1:]]
        assert len(set(asked)) == len(asked)
    assert torch.equal(part.numbered(3)["input_ids"], sample["input_ids"])


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([NEEDLES | {"frames": 20}], "frames: expected worlds of 4 to 16, .* got 20 to 20"),
        ([{"json_path": "rows.json"}], "data: expected worlds alone, got 1 rows"),
    ],
)
def test_data_that_does_not_fit(staged, tmp_path, entries, message):
    said = [{"from": "human", "value": "1 and 1?"}, {"from": "gpt", "value": "2"}]
    (tmp_path / "rows.json").write_text(json.dumps([{"conversations": said}]))
    with pytest.raises(ValueError, match=message):
        Passes(staged(entries=entries), new_model(**SMALL)[1])


def test_nowhere_to_start_from(tmp_path):
    with pytest.raises(ValueError, match="--from: expected a folder of the stage before 2, got"):
        command.main(["2", "--seconds", "1", "--out", str(tmp_path / "a"), "--device", "cpu"])
    assert not list(tmp_path.iterdir())


class Run:
    """What callbacks are handed."""

    global_step, max_steps, should_training_stop, should_log = 0, 0, False, False


def test_the_clock(monkeypatch):
    """Warm-up begins behind the first step, and no step begins that would end late."""
    now, run, rates = [0.0], Run(), []
    monkeypatch.setattr(tune.time, "perf_counter", lambda: now[0])
    clock = Clock(50.0, 0.1, lambda record: None)
    now[0] = 8.3  # a slow start
    while not run.should_training_stop:
        rates.append(clock.rate())
        now[0] += 1.7
        run.global_step += 1
        clock.on_step_end(None, run, run)
        assert run.max_steps > run.global_step
    assert run.should_log  # a curve ends where training does
    assert 48.3 < now[0] <= 50 and abs(run.max_steps - 1 - 40 / 1.7) < 3
    assert rates[:2] == [0.01, 0.01] and max(rates) == max(rates[3:6]) > 0.9 and rates[-1] < 0.05


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number(loss):
    clock = Clock(1.0, 0.1, lambda record: None)
    with pytest.raises(ValueError, match="loss: expected a finite number in step 0"):
        clock.on_log(None, Run(), Run(), logs={"loss": loss})
