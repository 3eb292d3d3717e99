"""Every name and shape of a checkpoint, compared with the model before any weight is read."""

import re
from collections.abc import Iterable, Mapping
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

# values that old checkpoints hold and that follow from the config
NOT_WEIGHTS = re.compile(r"\.rotary_emb\.inv_freq$")
SHOWN = 3
Shapes = dict[str, tuple[int, ...]]


def check_checkpoint(model: nn.Module, files: Iterable[str], tied: bool) -> None:
    """Names and shapes in the files are those of the model's parameters.

    Args:
        model: may be on the meta device.
        files: safetensors, or what torch.load reads without running code.
        tied: lm_head.weight may be missing.

    Raises:
        ValueError: missing or unknown names, other shapes, or a file that cannot be read.
    """
    found: Shapes = {}
    for file in files:
        found |= _shapes(file)
    check_names({name: tuple(t.shape) for name, t in model.state_dict().items()}, found, tied)


def check_names(expected: Mapping[str, tuple], found: Mapping[str, tuple], tied: bool) -> None:
    """The comparison of check_checkpoint: name -> shape.

    Raises:
        ValueError: missing or unknown names or other shapes, all in one line.
    """
    found = {name: shape for name, shape in found.items() if not NOT_WEIGHTS.search(name)}
    optional = {"lm_head.weight"} if tied else set()
    faults = {
        "missing": sorted(expected.keys() - found.keys() - optional),
        "unknown": sorted(found.keys() - expected.keys()),
        "shape": [
            f"{name} {list(found[name])}, expected {list(expected[name])}"
            for name in sorted(expected.keys() & found.keys())
            if found[name] != expected[name]
        ],
    }
    wrong = [f"{len(n)} {kind} ({_few(n)})" for kind, n in faults.items() if n]
    if wrong:
        raise ValueError(
            f"weights: expected the {len(expected)} names and shapes that config.json describes, "
            f"got {'; '.join(wrong)}"
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _shapes(file: str) -> Shapes:
    try:
        if str(file).endswith(".safetensors"):
            with safe_open(file, "pt") as weights:
                return {n: tuple(weights.get_slice(n).get_shape()) for n in weights.keys()}  # noqa: SIM118
        held: Any = torch.load(file, map_location="meta", weights_only=True)
        return {name: tuple(tensor.shape) for name, tensor in held.items()}
    except UnpicklingError as error:  # whose advice is to let the code run
        raise ValueError(f"{file}: expected tensors alone, got other objects") from error
    except (SafetensorError, RuntimeError, AttributeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: expected a file of tensors, got {reason}") from error
