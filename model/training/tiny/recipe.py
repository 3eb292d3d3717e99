"""All runs of hico-tiny's training, one after the other, as recipe.yaml lists them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

LIST = Path(__file__).with_name("recipe.yaml")


def recipe() -> list[dict[str, Any]]:
    """The runs: name, stage, seconds, and options by name.

    >>> from hico.model.training.tiny.recipe import recipe
    >>> runs = recipe()
    >>> runs[0]["stage"], sum(run["seconds"] for run in runs) < 3600
    ('0a', True)
    """
    return yaml.safe_load(LIST.read_text(encoding="utf-8"))


def repeat(folder: Path, more: list[str]) -> int:
    """Runs what is not done yet, each into a folder of its own from the weights of the one before.

    Each is a process of its own: compiled code and memory of one are no concern of the next.

    Args:
        folder: where the folders go: "1-frames", "2-clips" and so on.
        more: arguments for every run.

    Returns:
        0, or the exit status of the first run that failed; those behind it are not begun.
    """
    before: list[str] = []
    for number, given in enumerate(recipe(), 1):
        out = folder / f"{number}-{given['name']}"
        if not (out / "model.safetensors").is_file():
            words = [*arguments(given), *before, "--out", str(out), *more]
            if status := subprocess.run([sys.executable, "-m", __package__, *words]).returncode:
                return status
        before = ["--from", str(out)]
    return 0


def arguments(given: dict[str, Any]) -> list[str]:
    """A run's stage and options as on the command line.

    >>> from hico.model.training.tiny.recipe import arguments
    >>> arguments({"name": "a", "stage": "0b", "seconds": 5, "set": {"every": 2}})
    ['0b', '--seconds', '5', '--set', '{"every": 2}']
    """
    found = [str(given["stage"])]
    for name, value in given.items():
        if name not in ("name", "stage"):
            text = json.dumps(value) if isinstance(value, dict) else str(value)
            found += [f"--{name}", text]
    return found
