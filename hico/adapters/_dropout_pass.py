"""What progressive dropout knows of one forward of the model."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from hico.adapters import _dropout_cache as caches
from hico.adapters._dropout_again import Prefix
from hico.adapters._dropout_rows import Sequence, Span


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
