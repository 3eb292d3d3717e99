"""Endless data, made ahead by other processes."""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, IterableDataset


def made_ahead(
    data: IterableDataset, workers: int, each: int | None = None, pin: bool = False
) -> DataLoader:
    """What the data yields, one by one, made by so many processes, 0 = by this one.

    Args:
        each: how many a process may be ahead; None = as torch has it.
        pin: in memory that is copied to a GPU without waiting.
    """
    forked: dict[str, Any] = {}
    if workers:
        forked = {"prefetch_factor": each, "multiprocessing_context": "fork"}
    return DataLoader(data, batch_size=None, num_workers=workers, pin_memory=pin, **forked)
