"""Stages as YAML, strictly; and the published ones at their published sizes, without weights."""

import json
import math
from pathlib import Path

import pytest
import yaml
from training_helpers import write_stage

from hico.cli import main
from hico.model.training import parts
from hico.model.training.settings import StageSettings, load_stage
from hico.model.training.start import on_meta

GOLDEN = Path(__file__).parents[1] / "golden" / "state_dict_qwen2_7b.json"
# reference.md 7.1: learning rates, frames, resolution, length, processes, passes a step
PUBLISHED = {
    "align": ({"connector": 1e-3}, (4, 4), 224, 8192, 8, 4),
    "short": ({"encoder": 2e-6, "connector": 1e-5, "llm": 1e-5}, (1, 8), 224, 32768, 32, 8),
    "joint": ({"encoder": 2e-6, "connector": 1e-5, "llm": 1e-5}, (64, 512), 224, 32768, 32, 8),
    "high_resolution": ({"encoder": 2e-6, "connector": 1e-5}, (64, 512), 448, 32768, 32, 8),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_stages(name):
    tune, frames, size, length, processes, passes = PUBLISHED[name]
    stage = load_stage(name, ["model=random:7b"])
    assert stage.tune == tune and (stage.min_frames, stage.max_frames) == frames
    assert stage.max_length == length and stage.accumulation(processes) == passes
    assert (stage.warmup, stage.weight_decay, stage.clip) == (0.03, 0.0, 1.0)
    assert stage.precision == "bf16" and stage.gradient_checkpointing and stage.epochs == 1
    first = name == "align"
    assert (stage.template, stage.image_mode, stage.sampling) == (
        ("plain", "square", "middle") if first else ("qwen_2", "anyres", "dynamic_fps1")
    )
    model = on_meta(stage)
    assert model.encoder.image_size == size
    assert {p.device.type for p in model.parameters()} == {"meta"}
    parts.freeze(model, stage.tune)
    # what is counted comes from names and shapes of the published model, not from ours
    golden = json.loads(GOLDEN.read_text())
    expected = {}
    for key, shape in golden.items():
        tower, projector = ".vision_tower." in key, ".mm_projector." in key
        part = "encoder" if tower else "connector" if projector else "llm"
        where = expected.setdefault((part, len(shape) > 1), [set(), 0])
        where[0].add(key)
        where[1] += math.prod(shape)
    groups = {(g.part, g.decays): g for g in parts.groups(model, stage.tune)}
    assert set(groups) == {key for key in expected if key[0] in tune}
    for key, group in groups.items():
        assert (set(group.names), group.count) == tuple(expected[key])
        assert group.rate == tune[key[0]]
    held = parts.for_optimizer(model, stage.tune, 0.1)
    assert {(g["part"], g["lr"]) for g in held} == set(tune.items())
    assert {g["weight_decay"] for g in held} == {0.0, 0.1}
    trained = sum(p.numel() for g in held for p in g["params"])
    assert trained == sum(count for key, (_, count) in expected.items() if key[0] in tune)


def test_dry_run_tells(capsys):
    assert main(["train", "high_resolution", "--model", "random:7b", "--dry-run"]) == 0
    told = capsys.readouterr().out
    for words in ("umt-hd-large at 448", "290,479,104", "7,615,616,512", "frozen", "2e-06"):
        assert words in told


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"learning_rate": 1}, "learning_rate: unknown; expected one of name, model"),
        ({"tune": {"vit": 1e-5}}, "tune: expected some of encoder, connector, llm, got .'vit'"),
        ({"tune": {}}, "tune: expected some of"),
        ({"tune": {"llm": -1}}, "tune.llm: expected a learning rate above 0, got -1"),
        ({"tune": {"llm": "fast"}}, "tune.llm: expected a number, got 'fast'"),
        ({"batch": 1.5}, "batch: expected a whole number, got 1.5"),
        ({"batch": True}, "batch: expected a whole number, got True"),
        ({"batch": 0}, "batch: expected 1 <= batch"),
        ({"fsdp": "yes please"}, "fsdp: expected true or false, got 'yes please'"),
        ({"template": "llama"}, "template: expected 'qwen_2' or 'plain', got 'llama'"),
        ({"warmup": 2}, "warmup: expected a number from 0 to 1, got 2"),
        ({"betas": [0.9]}, "betas: expected two numbers"),
        ({"min_frames": 9, "max_frames": 8}, "max_frames: expected 9 <="),
        ({"dropout": {"layers": [4]}}, "dropout.ratios: expected a value, got none"),
        ({"dropout": {"layers": [4], "ratios": [1]}}, "dropout.ratios: expected 2, one more"),
        ({"dropout": {"layers": [4], "ratios": [1, 2]}}, "dropout.ratios: expected them to fall"),
        (
            {"position_skips": {"max": 9, "ramp": 2}},
            "position_skips.ramp: expected a number from 0",
        ),
        ({"dropout": 3}, "dropout.: expected a mapping, got 3"),
        ({"lora": {"rnk": 3}}, "lora.rnk: unknown; expected one of rank"),
        ({"lora": {}, "tune": {"connector": 1}}, "lora: expected llm among what is tuned"),
        ({"extends": 5}, "extends: expected a file or a stage's name, got 5"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, given, message):
    file = write_stage(tmp_path / "a.yaml", **{"extends": "short"} | given)
    with pytest.raises(ValueError, match=message) as error:
        load_stage(file)
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_files_that_are_no_stage(tmp_path, capsys):
    (tmp_path / "a.yaml").write_text("a: [1")
    with pytest.raises(ValueError, match=r"a\.yaml: not valid YAML"):
        load_stage(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("- 1\n")
    with pytest.raises(ValueError, match=r"b\.yaml: expected a mapping"):
        load_stage(tmp_path / "b.yaml")
    (tmp_path / "c.yaml").write_text("!!python/object/apply:os.system ['true']")
    with pytest.raises(ValueError, match="not valid YAML"):
        load_stage(tmp_path / "c.yaml")
    write_stage(tmp_path / "d.yaml", extends="e.yaml")
    write_stage(tmp_path / "e.yaml", extends="d.yaml")
    with pytest.raises(ValueError, match="extends itself"):
        load_stage(tmp_path / "d.yaml")
    assert main(["train", "nowhere"]) == 2
    assert "expected a stage's YAML file, or one of align" in capsys.readouterr().err


def test_extends_and_paths(tmp_path):
    (tmp_path / "deep").mkdir()
    base = {"extends": "joint", "data": "d.yaml", "model": "../m", "seed": 3}
    write_stage(tmp_path / "deep" / "base.yaml", **base)
    write_stage(tmp_path / "own.yaml", extends="deep/base.yaml", output="out", batch=2)
    stage = load_stage(tmp_path / "own.yaml", ["batch=4", "tune.llm=1e-4", "steps=null"])
    assert (stage.seed, stage.batch, stage.max_frames) == (3, 4, 512)
    assert stage.tune == {"encoder": 2e-6, "connector": 1e-5, "llm": 1e-4}
    assert Path(stage.data) == tmp_path / "deep" / "d.yaml"
    assert Path(stage.model).resolve() == tmp_path / "m"
    assert Path(stage.output) == tmp_path / "out"
    write_stage(tmp_path / "hub.yaml", model="owner/name")
    assert load_stage(tmp_path / "hub.yaml").model == "owner/name"
    assert load_stage("short", ["model=m"]).model == "m"
    with pytest.raises(ValueError, match="--set: expected key=value, got 'batch'"):
        load_stage("short", ["batch"])
    with pytest.raises(ValueError, match="expected a mapping at batch"):
        load_stage("short", ["batch.x=1"])


def test_settings_survive_yaml():
    stage = load_stage("short", ["lora={rank: 8}", "dropout={layers: [1], ratios: [1, .5]}"])
    held = yaml.safe_load(yaml.safe_dump(stage.plain()))
    assert held["lora"]["rank"] == 8 and held["dropout"]["ratios"] == [1.0, 0.5]
    with pytest.raises(ValueError, match="global_batch: expected a multiple of batch x processes"):
        StageSettings(batch=3, global_batch=8).accumulation(2)
