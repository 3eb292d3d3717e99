"""Which parameters belong to which part of the model, what is tuned, and how fast."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from .settings import PARTS


@dataclass(frozen=True)
class Group:
    """Parameters that the optimiser treats alike.

    Attributes:
        part: encoder, connector or llm.
        decays: weight decay applies: matrices, not biases and norms.
        rate: the learning rate at the schedule's top.
        names: of the parameters, in the model's order.
        count: numbers in them.
    """

    part: str
    decays: bool
    rate: float
    names: tuple[str, ...]
    count: int


def part_of(name: str) -> str:
    """The part of a parameter by its published name; whatever is neither eye nor connector is llm.

    >>> from hico.model.training.parts import part_of
    >>> part_of("model.mm_projector.mlp.0.weight"), part_of("lm_head.weight")
    ('connector', 'llm')
    """
    for part, mark in (("encoder", "vision_tower."), ("connector", "mm_projector.")):
        if mark in name:
            return part
    return "llm"


def freeze(model: nn.Module, tune: Mapping[str, float]) -> None:
    """Only parameters of tuned parts ask for gradients; of an llm with adapters, only those."""
    adapted = any("lora_" in name for name, _ in model.named_parameters())
    for name, parameter in model.named_parameters():
        part = part_of(name)
        parameter.requires_grad_(part in tune and (part != "llm" or not adapted or "lora_" in name))


def groups(model: nn.Module, tune: Mapping[str, float]) -> list[Group]:
    """The groups of all that asks for gradients, part by part; none is empty.

    Raises:
        ValueError: nothing to tune in a part.
    """
    found = []
    for part in PARTS:
        own = [(n, p) for n, p in trainable(model) if part_of(n) == part]
        if (part in tune) != bool(own):
            raise ValueError(f"tune: expected parameters of {part} to be tuned, got {len(own)}")
        for decays in (True, False):
            chosen = [(n, p) for n, p in own if (p.ndim > 1) == decays]
            if chosen:
                names, count = tuple(n for n, _ in chosen), sum(p.numel() for _, p in chosen)
                found.append(Group(part, decays, tune[part], names, count))
    return found


def for_optimizer(
    model: nn.Module, tune: Mapping[str, float], weight_decay: float
) -> list[dict[str, Any]]:
    """The groups as torch's optimisers take them, with the part's name beside."""
    held = dict(model.named_parameters())
    return [
        {
            "params": [held[name] for name in group.names],
            "lr": group.rate,
            "weight_decay": weight_decay if group.decays else 0.0,
            "part": group.part,
        }
        for group in groups(model, tune)
    ]


def counts(model: nn.Module) -> dict[str, tuple[int, int]]:
    """part -> (its numbers, those that are tuned)."""
    found = {}
    for part in PARTS:
        own = [p for name, p in model.named_parameters() if part_of(name) == part]
        found[part] = sum(p.numel() for p in own), sum(p.numel() for p in own if p.requires_grad)
    return found


def trainable(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that ask for gradients."""
    return ((name, p) for name, p in model.named_parameters() if p.requires_grad)
