"""Folders that are not what config.json says: one clear error before any work."""

import json
import pickle

import pytest
import torch
from model_helpers import TOWER, official, published_state, random_parts, write_folder
from transformers import AutoModel

from hico.model import VideoChatFlashForConditionalGeneration

LAYER = "model.layers.1.mlp.up_proj.weight"
load = VideoChatFlashForConditionalGeneration.from_pretrained


@pytest.fixture(scope="module")
def state():
    return published_state(*random_parts(official()))


@pytest.fixture(autouse=True)
def nothing_is_read(monkeypatch):
    """Fails when weights begin to be read."""
    name = "convert_and_load_state_dict_in_model"

    def read(*args, **kwargs):
        raise AssertionError("weights were read")

    monkeypatch.setattr(f"transformers.modeling_utils.{name}", read)


def message_of(path, **kwargs):
    with pytest.raises((ValueError, OSError)) as caught:
        load(path, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("form", ["safetensors", "sharded", "bin"])
def test_names_and_shapes(form, state, tmp_path):
    wrong = dict(state)
    del wrong[LAYER], wrong[TOWER + "encoder.blocks.0.attn.q_bias"]
    wrong["model.image_newline"] = torch.zeros(32)
    wrong["model.norm.weight"] = torch.zeros(33)
    text = message_of(write_folder(tmp_path, official(), wrong, form))
    assert f"2 missing ({LAYER}, {TOWER}encoder.blocks.0.attn.q_bias)" in text
    assert "1 unknown (model.image_newline)" in text
    assert "1 shape (model.norm.weight [33], expected [32])" in text


def test_a_whole_part_is_missing(state, tmp_path):
    text = {name: t for name, t in state.items() if not name.startswith(TOWER)}
    told = message_of(write_folder(tmp_path, official(), text))
    assert f"{len(state) - len(text)} missing" in told and told.count(TOWER) == 3


def test_head_may_be_missing_only_when_tied(state, tmp_path):
    rest = {name: t for name, t in state.items() if name != "lm_head.weight"}
    told = message_of(write_folder(tmp_path / "a", official(), rest))
    assert "1 missing (lm_head.weight)" in told
    tied = official(tie_word_embeddings=True)
    for held in (rest, state | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}):
        with pytest.raises(AssertionError, match="weights were read"):
            load(write_folder(tmp_path / "b", tied, held))


class Trap:
    def __reduce__(self):
        return print, ("code from a checkpoint ran",)


def test_files_that_are_not_weights(state, tmp_path, capsys):
    folder = write_folder(tmp_path, official(), state)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "model.safetensors" in message_of(folder)
    weights.unlink()
    assert "no file named" in message_of(folder)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Trap(), protocol=2))
    assert "pytorch_model.bin" in message_of(folder)
    torch.save({"a": Trap()}, folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in message_of(folder)
    torch.save([torch.zeros(2)], folder / "pytorch_model.bin")
    assert "pytorch_model.bin" in message_of(folder)
    assert "ran" not in capsys.readouterr().out
    message_of(tmp_path / "nowhere" / "at" / "all", local_files_only=True)


def test_code_in_the_folder_is_not_run(state, tmp_path):
    config = official()
    folder = write_folder(tmp_path, config, state)
    for module in ("modeling_videochat_flash", "custom_generate/generate"):
        path = folder / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text("raise SystemExit('code from the folder ran')")
    for loader in (load, AutoModel.from_pretrained):
        with pytest.raises(AssertionError, match="weights were read"):
            loader(folder, trust_remote_code=True)


CONFIGS = {
    "mm_vision_tower": "clip-large",
    "mm_projector_type": "mlp2x_gelu",
    "mm_newline_position": "one_token",
    "vision_encode_type": "image",
    "mm_hidden_size": 1024,
    "vision_config": {"depth": 3},
}


@pytest.mark.parametrize("field", CONFIGS)
def test_configs(field, state, tmp_path):
    folder = write_folder(tmp_path, official(**{field: CONFIGS[field]}), state)
    assert field in message_of(folder)


def test_config_is_damaged(state, tmp_path):
    folder = write_folder(tmp_path, official(), state)
    text = json.dumps(official())
    (folder / "config.json").write_text(text[: len(text) // 2])
    assert "config.json" in message_of(folder)
