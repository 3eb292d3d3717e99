"""Folders of a run: checkpoints, and at the end the model in the official format."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

CHECKPOINT = "checkpoint-"
STATE = "trainer_state.json"
UNFINISHED = ".model"
CONFIG = "config.json"
PROJECTOR = "mm_projector.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in a run's folder, oldest first."""
    found = [path for path in folder.glob(f"{CHECKPOINT}*") if (path / STATE).is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(CHECKPOINT)))


def write_model(model: Any, processor: Any, folder: Path, state: Any = None) -> None:
    """Config, safetensors, tokenizer and processor, as from_pretrained takes them."""
    cached, model.config.use_cache = model.config.use_cache, True  # off only while it is trained
    try:
        model.save_pretrained(folder, state_dict=state)
    finally:
        model.config.use_cache = cached
    processor.save_pretrained(folder)


def write_whole(model: Any, processor: Any, folder: Path, state: Any, connector: bool) -> None:
    """The model of a finished run into its folder; config.json, without which none loads, last.

    Args:
        state: name -> tensor.
        connector: also its weights alone, under their published names.
    """
    from safetensors.torch import save_file

    unfinished = folder / UNFINISHED
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    write_model(model, processor, unfinished, state)
    if connector:
        own = {n: t.contiguous() for n, t in state.items() if "mm_projector." in n}
        save_file(own, unfinished / PROJECTOR, {"format": "pt"})
    (folder / CONFIG).unlink(missing_ok=True)
    for path in sorted(unfinished.iterdir(), key=lambda path: path.name == CONFIG):
        os.replace(path, folder / path.name)
    unfinished.rmdir()


def write_text(path: Path, text: str) -> None:
    """All of the text, or the file as it was."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)


def read_json(path: Path) -> Any:
    """What a file of the run holds; None = there is no such file.

    Raises:
        ValueError: not JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def whole_state(trainer: Any, dtype: torch.dtype | None) -> dict[str, torch.Tensor] | None:
    """name -> tensor on the CPU of the whole model, gathered from all processes.

    Returns:
        None where this process does not write.
    """
    model = trainer.model
    if trainer.is_fsdp_enabled:
        state = trainer.accelerator.get_state_dict(model)
    else:
        state = trainer.plain.state_dict()
    if not trainer.args.should_save:
        return None
    return {name: t.detach().to("cpu", dtype or t.dtype) for name, t in state.items()}
