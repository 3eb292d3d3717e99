"""Where a stage can begin, what is tuned, LoRA, bad rows, and what is drawn at random."""

import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from training_helpers import (
    SMALL,
    VISION,
    frames_of,
    tiny,
    tiny_folder,
    write_png,
    write_stage,
    write_videos,
)
from transformers import Qwen2Config, Qwen2ForCausalLM

from hico.cli import main
from hico.model.load import load_model
from hico.model.training import lora, parts
from hico.model.training.asking import last_rows
from hico.model.training.chance import Skipping, generator, positions
from hico.model.training.settings import Lora, Skips, StageSettings, load_stage
from hico.model.training.start import on_meta, start
from hico.model.vision import VisionEncoder

TOWER, CONNECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."


def shapes(model):
    return {name: tuple(t.shape) for name, t in model.state_dict().items()}


@pytest.fixture
def parts_of_one(tmp_path):
    """A folder of a plain Qwen2 and a file of a raw encoder, with 24 blocks as published."""
    _, processor = tiny()
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 272}
    llm = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads, tie_word_embeddings=True))
    llm.save_pretrained(tmp_path / "qwen")
    processor.tokenizer.save_pretrained(tmp_path / "qwen")
    encoder = VisionEncoder(channels=32, depth=24, num_heads=16)
    raw = {n.replace("vision_layernorm", "norm"): t for n, t in encoder.state_dict().items()}
    torch.save(raw | {"pool.weight": torch.zeros(2)}, tmp_path / "UMT.pt")
    return tmp_path, llm, encoder


def test_a_language_model_and_an_encoder(parts_of_one):
    root, llm, encoder = parts_of_one
    stage = load_stage("align", [f"model={root / 'qwen'}", f"encoder={root / 'UMT.pt'}"])
    model, processor = start(stage)
    held = model.state_dict()
    for name, tensor in llm.state_dict().items():
        assert torch.equal(held[name], tensor)
    named = {n: t for n, t in encoder.state_dict().items() if ".blocks.23." not in n}
    assert all(torch.equal(held[TOWER + name], t) for name, t in named.items())
    assert sum(name.startswith(TOWER) for name in held) == len(named)
    assert model.config.model_type == "videochat_flash_qwen" and processor.image_size == 224
    again = start(stage)[0].state_dict()  # the new connector comes from the seed
    assert all(torch.equal(held[n], again[n]) for n in held)
    model.save_pretrained(root / "whole")
    processor.save_pretrained(root / "whole")
    assert shapes(load_model(root / "whole", "cpu")[0]) == shapes(model)
    with pytest.raises(ValueError, match="encoder: expected a file of weights for"):
        start(load_stage("align", [f"model={root / 'qwen'}"]))
    (root / "bad.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"bad\.pt: expected a file of tensors"):
        start(load_stage("align", [f"model={root / 'qwen'}", f"encoder={root / 'bad.pt'}"]))


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_a_connector_of_stage_1(tmp_path, form):
    folder, (donor, _) = tiny_folder(tmp_path / "m"), tiny(seed=1)
    file = tmp_path / f"mm_projector.{form}"
    state = {n: t for n, t in donor.state_dict().items() if n.startswith(CONNECTOR)}
    (save_file if form == "safetensors" else torch.save)(state, file)
    words = [f"model={folder}", f"connector={file}", "resolution=32"]
    held = start(load_stage("short", words))[0].state_dict()
    assert all(torch.equal(held[name], t) for name, t in state.items())
    wide = torch.nn.Sequential(torch.nn.Linear(32, 8), torch.nn.GELU(), torch.nn.Linear(8, 8))
    save_file(
        {f"{CONNECTOR}mlp.{n}": t for n, t in wide.state_dict().items()}, tmp_path / "w.safetensors"
    )
    with pytest.raises(ValueError, match=r"expected a connector of \(32, 64\) channels, got"):
        start(load_stage("short", [words[0], f"connector={tmp_path / 'w.safetensors'}", words[2]]))


def test_another_resolution_keeps_the_weights(tmp_path):
    folder = tiny_folder(tmp_path / "m")
    words = [f"model={folder}", "resolution=40", "tower=umt-hd-large"]
    stage = load_stage("high_resolution", words)
    model, processor = start(stage)
    before, _ = load_model(folder, "cpu")
    assert all(torch.equal(a, b) for a, b in zip(
        model.state_dict().values(), before.state_dict().values(), strict=True))  # fmt: skip
    assert model.encoder.image_size == processor.image_size == 40
    assert model.config.vision_config == VISION | {"image_size": 40}
    assert shapes(on_meta(stage)) == shapes(model) and model.config.mm_vision_tower == words[2][6:]
    with pytest.raises(ValueError, match="weights: expected"):
        start(load_stage("short", [words[0], "tower=internvideo2", "resolution=null"]))
    with pytest.raises(ValueError, match="model: expected random:SIZE with one of demo"):
        on_meta(load_stage("short", ["model=random:9b"]))
    assert main(["train", "short"]) == 2


def test_random_start():
    model, _ = start(load_stage("short", ["model=random:demo", "seed=3"]))
    parts.freeze(model, {"connector": 1.0})
    assert {parts.part_of(n) for n, _ in parts.trainable(model)} == {"connector"}
    assert parts.counts(model)["llm"][1] == 0


def test_lora_without_peft(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ImportError, match=r"lora needs peft: pip install 'hico\[lora\]'"):
        lora.adapt(tiny()[0], Lora())


def test_merged_adapters_are_what_they_did():
    state = {f"a.{n}.weight": torch.randn(3, 3) for n in ("base_layer", "lora_A.default")}
    state |= {"a.lora_B.default.weight": torch.randn(3, 3), "a.base_layer.bias": torch.ones(3)}
    found = lora.merged(state | {"b.weight": torch.ones(1)}, Lora(rank=2, alpha=8))
    weights = [state[f"a.{n}.weight"] for n in ("base_layer", "lora_A.default", "lora_B.default")]
    assert set(found) == {"a.weight", "a.bias", "b.weight"}
    assert torch.equal(found["a.weight"], weights[0] + 4.0 * (weights[2] @ weights[1]))


@pytest.mark.skipif(not importlib.util.find_spec("peft"), reason="needs peft")
def test_a_run_with_lora(tmp_path):
    folder, data = tiny_folder(tmp_path / "m"), write_videos(tmp_path / "d", 8, 0)
    given = {"model": folder, "data": data, "output": tmp_path / "o", "steps": 2, "lora": {}}
    file = write_stage(tmp_path / "s.yaml", extends="short", **SMALL | given | {"keep": 2})
    assert main(["train", str(file), "--set", "lora.rank=4", "save_every=1"]) == 0
    assert main(["train", str(file), "--set", "lora.targets=[nothing]"]) == 2
    before, after = load_file(folder / "model.safetensors"), load_file(
        tmp_path / "o" / "model.safetensors"
    )  # fmt: skip
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {n.split(".")[-2] for n in changed if ".layers." in n} == set(Lora().targets)
    assert not {"model.embed_tokens.weight", "model.norm.weight"} & changed
    load_model(tmp_path / "o", "cpu")
    kept = load_file(tmp_path / "o" / "checkpoint-1" / "model.safetensors")
    assert {n.split(".")[-4] for n in kept if "lora_B" in n} == set(Lora().targets)


def test_rows_that_ask():
    header, user, other = [7, 8, 9], [7, 5], -100
    labels = torch.tensor(
        [
            [other, 4, other, *header, 1, 2, 4, other, *header, 3, 4],
            [other, *user, 6, 6, *header, 3, 3, 3, 3, 3, 3, 3],
            [other, other, other, 6, 6, 6, other, 6, *[other] * 7],
            [other] * 15,
        ]
    )
    rows, counts = last_rows(header)(labels, None)
    assert counts == [2, 1, 1, 0] and rows.tolist() == [[5, 12], [7, -1], [2, -1], [-1, -1]]
    mask = torch.ones_like(labels, dtype=torch.bool)
    mask[0, 6:] = False
    assert last_rows(header)(labels, mask)[1] == [1, 1, 1, 0]
    # it is the row from which inference goes on
    _, processor = tiny()
    prompt = processor.prompt("What?", message=None)
    ids = processor.ids(prompt + "red<|im_end|>\n")[0]
    supervised = torch.full_like(ids, -100)
    ids_of = processor.ids("<|im_start|>assistant\n")[0]
    supervised[len(processor.ids(prompt)[0]) - len(ids_of) :] = ids[
        len(processor.ids(prompt)[0]) - len(ids_of) :
    ]
    rows, counts = last_rows(ids_of.tolist())(supervised[None], None)
    assert counts == [1] and rows.tolist() == [[len(processor.ids(prompt)[0]) - 1]]


def test_positions_with_gaps():
    for place in range(50):
        found = positions(20, 1000, 4, generator(0, 7, place))
        assert found[0] == 0 and (found.diff() >= 1).all() and found[-1] < 1000
        assert (found.diff() > 1).sum() <= 4
        assert torch.equal(found, positions(20, 1000, 4, generator(0, 7, place)))
    ends = [int(positions(20, 1000, 4, generator(0, 0, p))[-1]) for p in range(200)]
    assert min(ends) < 100 and max(ends) > 900
    assert positions(20, 10, 4, generator(0, 0, 0)).tolist() == list(range(20))
    assert positions(1, 100, 4, generator(0, 0, 0)).tolist() == [0]
    skipping = Skipping(Skips(100, start=0.5, ramp=0.25))
    reached = []
    for step in range(8):
        skipping.at(0, step, 8, 0)
        reached.append(skipping.reach)
    assert reached == [0, 0, 0, 0, 0.5, 1, 1, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_bad_rows(tmp_path, capsys, workers):
    folder, data = tiny_folder(tmp_path / "m"), write_videos(tmp_path / "d", 7, 0)
    rows = json.loads((tmp_path / "d" / "img.json").read_text())
    rows += [rows[0] | {"video": "gone"}, rows[1] | {"conversations": [{"from": "who"}]}]
    # found out only when its pictures are read
    (tmp_path / "d" / "img5" / "00003.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "d" / "img.json").write_text(json.dumps(rows))
    given = {"model": folder, "data": data, "output": tmp_path / "o", "workers": workers}
    file = write_stage(
        tmp_path / "s.yaml", extends="short", **SMALL | given | {"epochs": 2, "global_batch": 4}
    )
    assert main(["train", str(file)]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("hico: error:") and "img.json" in told
    assert not (tmp_path / "o").exists()
    assert main(["train", str(file), "--on-bad", "skip"]) == 0
    assert "bad rows skipped: 3" in capsys.readouterr().err
    lines = [json.loads(line) for line in (tmp_path / "o" / "bad_rows.jsonl").open()]
    assert sorted(line["index"] for line in lines) == [5, 7, 8]
    assert all(line["file"].endswith("img.json") and line["reason"] for line in lines)


def test_a_bad_row_while_training(tmp_path, capsys):
    """What was learned before stays, and no half of anything."""
    folder, data = tiny_folder(tmp_path / "m"), write_videos(tmp_path / "d", 8, 0)
    (tmp_path / "d" / "img5" / "00003.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    given = {"model": folder, "data": data, "output": tmp_path / "o", "workers": 1}
    given |= {"batch": 1, "global_batch": 1, "save_every": 1, "log_every": 2}
    file = write_stage(tmp_path / "s.yaml", extends="short", **SMALL | given)
    assert main(["train", str(file)]) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith(f"hico: error: {tmp_path / 'd' / 'img.json'}: row 5:")
    assert "Traceback" not in told
    left = {path.name.split("-")[0] for path in (tmp_path / "o").iterdir()}
    assert left <= {"checkpoint", "log.jsonl", "stage.json", "lengths.json"}
    write_png(tmp_path / "d" / "img5" / "00003.png", frames_of("red", 0)[0])
    assert main(["train", str(file)]) == 0


def test_a_loss_that_is_no_number(tmp_path, capsys):
    model, processor = tiny()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "m")
    data = write_videos(tmp_path / "d", 8, 0)
    given = {"model": tmp_path / "m", "data": data, "output": tmp_path / "o"}
    file = write_stage(tmp_path / "s.yaml", extends="short", **SMALL | given)
    assert main(["train", str(file)]) == 2
    assert "loss: expected a finite number in step 1, got nan" in capsys.readouterr().err


def test_what_has_to_be_named(tmp_path, capsys):
    folder, data = tiny_folder(tmp_path / "m"), write_videos(tmp_path / "d", 4, 0)
    for words, message in (
        (["--model", "m"], "output: expected a folder for the run"),
        (["--model", str(folder), "--output", str(tmp_path / "o")], "data: expected a YAML file"),
        (["--output", str(tmp_path / "o"), "--data", "nowhere.yaml"], "nowhere.yaml"),
        (
            ["--model", str(folder), "--data", str(data), "--output", str(tmp_path / "o")]
            + ["--set", "dropout={layers: [9], ratios: [1, 0.5]}", "resolution=32"],
            "dropout.layers: expected 1 <= layers <= 3, got 9",
        ),
        (["--output", str(folder / "config.json")], "output: expected a folder, got the file"),
    ):
        few = ["--set", "device=cpu", "global_batch=4", "max_length=1000"]
        assert main(["train", "short", *few, *words]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "o").exists()
    assert StageSettings().accumulation(8) == 32
