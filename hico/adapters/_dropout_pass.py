"""What progressive dropout knows of one forward of the model."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hico.adapters import _dropout_cache as caches
from hico.adapters._dropout_again import Prefix
from hico.adapters._dropout_rows import Sequence, Span

# positions of a stage whose rotation is found at once
AHEAD = 256
# kinds of rotation that one position has whatever the others are
FIXED = ("default", "linear", "yarn", "llama3")


class Rotations:
    """(cos, sin) of the token that a stage decodes next, found for many at once."""

    def __init__(self, rotary: Any) -> None:
        self.rotary = rotary
        self.ahead = AHEAD if getattr(rotary, "rope_type", None) in FIXED else 1
        self.found: dict[int, tuple[int, Tensor, Tensor]] = {}

    def at(self, stage: int, place: int, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """[1, 1, D] each, of one position, in hidden's type and on its device."""
        start, cos, sin = self.found.get(stage, (place + 1, hidden, hidden))
        same = cos.dtype == hidden.dtype and cos.device == hidden.device
        if not same or not start <= place < start + self.ahead:
            places = torch.arange(place, place + self.ahead, device=hidden.device)[None]
            start, (cos, sin) = place, self.rotary(hidden, places)
            self.found[stage] = start, cos, sin
        at = place - start
        return cos[:, at : at + 1], sin[:, at : at + 1]


def takes_masks_made(base: Any) -> bool:
    """Whether the base model takes a dict of masks for each kind of layer, and has one kind."""
    from transformers import Qwen2Model

    return isinstance(base, Qwen2Model) and not base.has_sliding_layers


@dataclass
class Pass:
    """One forward of the model.

    Attributes:
        first: nothing was cached before: the pass is a whole prompt.
        begins: the first stage whose drop falls into this pass; beyond all if none does.
        prefix: what is to be remembered, or what was, of the prompt's head.
        given: what every layer of the present stage gets instead of the model's own.
        rotation: (cos, sin) of the present stage in the pass that drops.
        rows: that pass's sequence.
        held: what the cache holds when the pass is over.
        light: the pass adds one token to rows without padding.
    """

    spans: list[Span] | None
    input_ids: Tensor | None
    mask: Tensor | None
    labels: Tensor | None
    first: bool = True
    begins: int = 0
    prefix: Prefix | None = None
    given: dict[str, Any] = field(default_factory=dict)
    rotation: tuple[Tensor, Tensor] | None = None
    rows: Sequence | None = None
    held: caches.Held = field(default_factory=caches.Held)
    light: bool = False
