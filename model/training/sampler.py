"""Batches of samples of about the same length."""

import heapq
from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import Sampler

from hico.ops import _check


class LengthGroupedSampler(Sampler[int]):
    """Yields every index once, neighbours alike in length and in whether anything is seen.

    As published: a random order is cut into pieces of world * accumulation * batch; each is sorted,
    longest first, and dealt out to world * accumulation batches, the next sample always to the one
    that is shortest so far; pieces of text and of what is seen stay apart and are shuffled; what
    fills no piece of its own kind comes last, mixed, sorted by length.

    Unlike the published one it counts what is seen, a full last piece stays apart, and its order
    depends on nothing but its arguments and the epoch.

    Args:
        lengths: tokens of each sample, visual ones counted.
        modalities: "text" or "visual" of each.
        batch: samples of a process in a step.
        world: processes.
        accumulation: steps of a gradient.
        seed: of the order; every epoch has its own.

    Raises:
        ValueError: no samples, other counts, or numbers below 1.

    >>> sampler = LengthGroupedSampler([5, 900, 7, 800], ["text", "visual"] * 2, batch=2)
    >>> sorted(list(sampler)[:2]) in ([0, 2], [1, 3]), len(sampler)
    (True, 4)
    """

    def __init__(
        self,
        lengths: Sequence[int],
        modalities: Sequence[str],
        batch: int,
        world: int = 1,
        accumulation: int = 1,
        seed: int = 0,
    ) -> None:
        for name, value in (("batch", batch), ("world", world), ("accumulation", accumulation)):
            _check.integer(name, value, 1, 1 << 31)
        if not len(lengths) or len(modalities) != len(lengths):
            raise ValueError(
                "modalities: expected one for each of the lengths, and at least one, "
                f"got {len(modalities)} for {len(lengths)}"
            )
        for kind in set(modalities):
            _check.one_of("modalities", kind, ("text", "visual"))
        self.lengths = [int(length) for length in lengths]
        self._seen = torch.tensor([kind == "visual" for kind in modalities])
        self.batch, self.chunks = batch, world * accumulation
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """The next pass is that of this epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(len(self), generator=generator)
        size = self.batch * self.chunks
        full: list[list[int]] = []
        rest: list[int] = []
        for kind in (True, False):
            found = order[self._seen[order] == kind].tolist()
            whole = len(found) // size * size
            full += [found[i : i + size] for i in range(0, whole, size)]
            rest += found[whole:]
        for i in torch.randperm(len(full), generator=generator).tolist():
            yield from self._dealt(self._sorted(full[i]))
        rest = self._sorted(rest)
        for i in range(0, len(rest), size):
            yield from self._dealt(rest[i : i + size])

    def _sorted(self, indices: list[int]) -> list[int]:
        return sorted(indices, key=lambda i: (-self.lengths[i], i))

    def _dealt(self, indices: list[int]) -> list[int]:
        """The same, in batches of about the same sum."""
        if len(indices) < self.batch * self.chunks:
            return indices
        batches: list[list[int]] = [[] for _ in range(self.chunks)]
        open_ones = [(0, place) for place in range(self.chunks)]
        for i in indices:
            total, place = open_ones[0]
            batches[place].append(i)
            if len(batches[place]) < self.batch:
                heapq.heapreplace(open_ones, (total + self.lengths[i], place))
            else:
                heapq.heappop(open_ones)
        return [i for batch in batches for i in batch]
