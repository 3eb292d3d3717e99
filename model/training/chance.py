"""What is drawn in training: a function of the seed, the step and the place in the global batch."""

from typing import Any

import torch
from torch import Tensor

from .extras import Skips


def generator(seed: int, step: int, place: int) -> torch.Generator:
    """The same whatever the number of processes, and after a resume.

    >>> from hico.model.training.chance import generator
    >>> generator(0, 3, 1).initial_seed() == generator(0, 3, 1).initial_seed()
    True
    """
    mixed = (seed * 1_000_003 + step) * 1_000_003 + place
    return torch.Generator().manual_seed(mixed % (1 << 63))


def positions(length: int, highest: int, gaps: int, draw: torch.Generator) -> Tensor:
    """int64 [length], ascending from 0, with up to `gaps` gaps at random places.

    The last position is drawn evenly from what a row without gaps has up to highest - 1; what is
    skipped is shared among the gaps at random.

    >>> from hico.model.training.chance import generator, positions
    >>> found = positions(8, 100, 2, generator(0, 0, 0))
    >>> bool((found.diff() >= 1).all()), int(found[0]), int(found[-1]) < 100
    (True, 0, True)
    """
    room = highest - length
    steps = torch.ones(length, dtype=torch.int64)
    steps[:1] = 0
    if room > 0 and length > 1:
        extra = int(torch.randint(room + 1, (), generator=draw))
        sites = torch.randint(1, length, (gaps,), generator=draw)
        cuts = torch.randint(extra + 1, (gaps - 1,), generator=draw).sort().values
        edges = torch.cat([cuts.new_zeros(1), cuts, cuts.new_full((1,), extra)])
        steps.index_add_(0, sites, edges.diff())
    return steps.cumsum(0)


class Skipping:
    """A hook of the decoder in training: positions with gaps instead of its own.

    Attributes:
        reach: share of the highest position that is reached by now; 0 = no gaps.
        seed: (seed, step, place) of the first row of the batch.
    """

    def __init__(self, skips: Skips) -> None:
        self.skips, self.reach = skips, 0.0
        self.seed = (0, 0, 0)

    def at(self, seed: int, step: int, steps: int, place: int) -> None:
        """Notes where training is."""
        begin, grow = self.skips.start * steps, self.skips.ramp * steps
        self.reach = min(1.0, max(0.0, (step - begin + 1) / grow)) if grow else float(step >= begin)
        self.seed = seed, step, place

    def __call__(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple | None:
        rows = kwargs.get("inputs_embeds")
        rows = kwargs.get("input_ids") if rows is None else rows
        if not module.training or not self.reach or rows is None:
            return None
        batch, length = rows.shape[:2]
        seed, step, place = self.seed
        highest = int(self.reach * self.skips.max)
        found = [
            positions(length, highest, self.skips.gaps, generator(seed, step, place + b))
            for b in range(batch)
        ]
        given = {"position_ids": torch.stack(found).to(rows.device)}
        if kwargs.get("attention_mask") is None:  # positions with gaps look like packed sequences
            given["attention_mask"] = torch.ones(batch, length, dtype=torch.int64).to(rows.device)
        return args, kwargs | given
