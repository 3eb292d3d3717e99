"""What needles are hidden in: endless moving scenes, or real videos."""

from __future__ import annotations

from typing import Protocol

import torch

from .natural import NaturalHaystack
from .real import VideoHaystack

__all__ = ["Haystack", "NaturalHaystack", "VideoHaystack"]


class Haystack(Protocol):
    """Frames by number, the same for a number whatever else is asked and on whatever device.

    Attributes:
        name: says in one word what it is and from which seed.
    """

    name: str

    def frames(
        self, indices: torch.Tensor, size: int = 224, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """Frames of these numbers: uint8 [n, size, size, 3] for int64 [n]."""
        ...
