"""Models by folder, by id and by chance: what comes, and what is said when nothing can come."""

import json
import os
import re

import pytest
import torch

from hico.model import VideoChatFlashConfig, load
from hico.model.load import SIZES, byte_tokenizer, load_model, random_model, shipped

pytestmark = pytest.mark.usefixtures("plain_on_cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The folder of a saved demo model, and the model."""
    folder = tmp_path_factory.mktemp("saved")
    model, processor = random_model(device="cpu")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder, model


def test_every_text_goes_through_the_byte_tokenizer_and_back():
    tokenizer = byte_tokenizer()
    text = "<|im_start|>user\n\u00e9\u4e2d\U0001f600\t\x00 <|im_end|>"
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert ids[-1] == tokenizer.eos_token_id and max(ids) < SIZES["demo"]["vocab_size"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text[12:-10]


def test_a_random_model_is_the_same_for_a_seed_and_leaves_generators_alone():
    state = torch.get_rng_state()
    first, second, other = (random_model(seed=s, device="cpu")[0] for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)
    assert next(first.parameters()).dtype == torch.float32 and not first.training
    assert next(random_model(dtype=torch.bfloat16)[0].parameters()).dtype == torch.bfloat16


def test_the_largest_size_is_the_published_one():
    published = VideoChatFlashConfig()
    sizes = {name: value for name, value in SIZES["7b"].items() if name != "mm_vision_tower"}
    assert {name: getattr(published, name) for name in sizes} == sizes


def test_a_saved_model_comes_back(saved):
    folder, model = saved
    loaded, processor = load_model(folder, device="cpu")
    assert processor.image_size == 224 and processor.tokenizer.eos_token == "<|im_end|>"
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight) and not loaded.training


def change(folder, name, text):
    """A folder of links to the files of another, one of them with this text."""

    def copy(to):
        for file in folder.iterdir():
            os.symlink(file, to / file.name)
        (to / name).unlink()
        if text is not None:
            (to / name).write_text(text)
        return to

    return copy


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("config.json", None, "no config.json in this folder"),
        ("config.json", "{", "not valid JSON"),
        ("config.json", "[]", "expected a VideoChat-Flash model .* got None"),
        ("config.json", json.dumps({"model_type": "llava_qwen"}), "got 'llava_qwen'"),
        ("tokenizer.json", None, "no tokenizer in this folder"),
    ],
)
def test_folders_that_are_no_model(saved, tmp_path, name, text, message):
    folder = change(saved[0], name, text)(tmp_path)
    with pytest.raises((ValueError, OSError), match=f"{re.escape(str(tmp_path))}.*{message}"):
        load_model(folder)


def test_names_that_are_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file: expected the folder of a model, got a file"):
        load_model("file")
    for name in ("./gone", "gone", "../a/b/c", "owner/name/more"):
        with pytest.raises(FileNotFoundError, match="expected a folder of a model, or an id"):
            load_model(name)
    with pytest.raises(ValueError, match="size: expected one of demo, 1.5b, 7b, got '3b'"):
        random_model("3b")


def test_no_name_is_the_model_that_ships(saved, monkeypatch):
    folder, model = saved
    monkeypatch.setattr(load, "SHIPPED", folder)
    found, _ = load_model(device="cpu")
    assert shipped() == folder
    assert all(map(torch.equal, found.state_dict().values(), model.state_dict().values()))


def test_a_log_gets_no_bars(saved, capsys):
    from transformers.utils import logging as bars

    load_model(saved[0], device="cpu")
    assert capsys.readouterr().err == "" and bars.is_progress_bar_enabled()


def test_a_package_without_its_weights_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(load, "SHIPPED", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"hico-tiny: no model\.safetensors in .*random:"):
        load_model()


def test_without_a_network_an_id_is_one_clear_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="owner/gone: no folder of this name.*Hugging Face Hub") as e:
        load_model("owner/gone")
    assert "\n" not in str(e.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there():
    with pytest.raises(ValueError, match="as there is no CUDA GPU, got cuda:0"):
        random_model(device="cuda:0")
