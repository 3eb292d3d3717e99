"""Published state dicts into modules: every name and every shape, or one error."""

import re
from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)
SHOWN = 3


def load_exactly(module: Module, state: Mapping[str, Tensor], owner: str) -> Module:
    """Give a module, built on the meta device, copies of all its parameters.

    Raises:
        ValueError: names that are missing or unknown, or other shapes; all kinds in one message.
    """
    expected = module.state_dict()
    wrong = [
        f"{name} {list(state[name].shape)}, expected {list(expected[name].shape)}"
        for name in expected.keys() & state.keys()
        if state[name].shape != expected[name].shape
    ]
    faults = {
        "missing": expected.keys() - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "shape": wrong,
        "not floating": [n for n, t in state.items() if not t.is_floating_point()],
    }
    found = [f"{kind}: {_few(sorted(names))}" for kind, names in faults.items() if names]
    if found:
        raise ValueError(f"{owner}: expected the published names and shapes; {'; '.join(found)}")
    copies = {name: state[name].detach().clone() for name in expected}
    module.load_state_dict(copies, strict=True, assign=True)
    return module


def shape_of(state: Mapping[str, Tensor], name: str, ndim: int, owner: str) -> list[int]:
    """The shape of the named tensor, from which sizes are read.

    Raises:
        ValueError: no such name, or not this many dimensions.
    """
    if name not in state:
        held = _few(sorted(state)) if state else "nothing"
        raise ValueError(f"{owner}: expected a state dict with {name}, got one with {held}")
    shape = list(state[name].shape)
    if len(shape) != ndim or 0 in shape:
        raise ValueError(f"{owner}: expected {name} with {ndim} dimensions, got {shape}")
    return shape


def depth_of(state: Mapping[str, Tensor], prefix: str) -> int:
    """The highest number that follows the prefix in a name, plus one; 0 without any."""
    found = (re.match(re.escape(prefix) + r"(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def _few(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
