"""hico-tiny as a folder: made from nothing, opened, and written after a stage."""

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from hico.model.load import PUBLISHED, WEIGHTS, load_model, shipped

from .reading import Heads
from .sizes import CONFIG
from .tokenizer import replace_text, train_tokenizer, write_tokenizer

NOTES = "training.json"
READING = Path(__file__).with_name("heads.safetensors")  # of stage 0a, for hico-tiny's encoder
ENCODER = "model.vision_tower.vision_tower."
LARGEST = 15 << 20  # bytes of the weights, in bf16


def new_model(seed: int = 0, device: Any = None, dtype: Any = None, **sizes: Any) -> Any:
    """(model, processor) with random weights and a tokenizer trained now.

    Args:
        seed: of the weights; torch's own generators stay as they were.
        sizes: that differ from CONFIG.
    """
    from hico.model import (
        VideoChatFlashConfig,
        VideoChatFlashForConditionalGeneration,
        VideoChatFlashProcessor,
    )

    tokenizer = train_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    # the published 7B's rope_theta is not ours
    fields = {name: value for name, value in PUBLISHED.items() if name != "rope_theta"}
    config = VideoChatFlashConfig(**fields | CONFIG | ends | sizes, bos_token_id=None)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        model = VideoChatFlashForConditionalGeneration(config)
        _redraw(model)
    processor = VideoChatFlashProcessor(tokenizer, model.encoder.image_size)
    return model.to(device, dtype), processor


def _redraw(model: Any) -> None:
    """Matrices of the language model and of the MLP with a deviation of 1 / sqrt(its width).

    With the usual 0.02 a model so narrow hardly begins to read: after 700 steps on single cards the
    loss was 0.93, and with this one after 125 steps 0.48 (128 wide, 3 layers). What a layer adds is
    made smaller, by the root of how often something is added.
    """
    config = model.config
    deviation, often = config.hidden_size**-0.5, 2 * config.num_hidden_layers
    for part in (model.model.layers, model.model.embed_tokens, model.model.mm_projector):
        for name, weight in part.named_parameters():
            if weight.ndim > 1:
                adds = name.endswith(("o_proj.weight", "down_proj.weight"))
                torch.nn.init.normal_(weight, std=deviation / often**0.5 if adds else deviation)


def take_reader(model: Any) -> Heads:
    """Puts hico-tiny's encoder in place of the model's own; the heads that tell what it reads.

    Raises:
        FileNotFoundError: hico-tiny's weights are not there.
    """
    with safe_open(shipped() / WEIGHTS, "pt") as file:
        names = [name for name in file.keys() if name.startswith(ENCODER)]  # noqa: SIM118
        own = {name.removeprefix(ENCODER): file.get_tensor(name) for name in names}
    model.encoder.load_state_dict(own)
    heads = Heads(model.encoder.channels)
    heads.load_state_dict(load_file(READING))
    return heads


def open_model(folder: Any, device: Any = None, dtype: Any = None) -> tuple[Any, Any, dict]:
    """(model, processor, notes) of a folder that write_model wrote.

    Raises:
        FileNotFoundError, ValueError: as load_model, or notes that are no JSON object.
    """
    model, processor = load_model(folder, device, dtype)
    path = Path(folder) / NOTES
    notes = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if not isinstance(notes, dict):
        raise ValueError(f"{path}: expected an object, got {type(notes).__name__}")
    return model, processor, notes


def check_size(model: Any) -> None:
    """Raises ValueError for a model that write_model would refuse when it is trained."""
    _check_bytes(2 * sum(weight.numel() for weight in model.parameters()))


def _check_bytes(size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"model: expected at most {LARGEST} bytes of weights, got {size}")


def write_model(model: Any, processor: Any, folder: Any, notes: dict[str, Any]) -> Path:
    """The model as bf16, its config, tokenizer and notes, each file whole or not at all.

    The weights come last: where they are, all is there.

    Args:
        notes: what the next stage is to know, such as the level.

    Raises:
        ValueError: more than 15 MiB of weights.
    """
    folder = Path(folder)
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(part)
    _check_bytes((part / WEIGHTS).stat().st_size)
    write_tokenizer(processor.tokenizer, part)
    replace_text(part / NOTES, json.dumps(notes, indent=1) + "\n")
    for path in sorted(part.iterdir(), key=lambda path: path.name == WEIGHTS):
        os.replace(path, folder / path.name)
    part.rmdir()
    return folder
