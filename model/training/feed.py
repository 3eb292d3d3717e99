"""What a stage reads: rows of annotations and synthetic worlds as one data set."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch.utils.data import ConcatDataset, Sampler

from .dataset import DataOptions, VideoChatDataset
from .sampler import LengthGroupedSampler
from .settings import StageSettings
from .sources import Sources, load_sources


class Feed(ConcatDataset):
    """Several data sets, one behind the other."""

    datasets: list[Any]

    def set_epoch(self, epoch: int) -> None:
        """For those that are different in every epoch."""
        for part in self.datasets:
            if hasattr(part, "set_epoch"):
                part.set_epoch(epoch)

    @property
    def lengths(self) -> list[int]:
        """Tokens that each row is expected to take."""
        return [length for part in self.datasets for length in part.lengths]

    @property
    def modalities(self) -> list[str]:
        """ "text" or "visual" of each row."""
        return [kind for part in self.datasets for kind in part.modalities]

    @property
    def skipped(self) -> list[Any]:
        """Bad rows that reading the media has found so far."""
        return [bad for part in self.datasets for bad in getattr(part, "skipped", ())]


def read_sources(stage: StageSettings) -> Sources:
    """The rows that the stage's data YAML names.

    Raises:
        ValueError, OSError: no data named; as load_sources.
    """
    if stage.data is None:
        raise ValueError("data: expected a YAML file of data sets (--data), got none")
    return load_sources(stage.data, on_bad=stage.on_bad)


def feed_of(stage: StageSettings, sources: Sources, processor: Any, **options: Any) -> Feed:
    """The samples of these sources.

    Args:
        options: cache and progress, for VideoChatDataset.

    Raises:
        ValueError: no rows, or values that do not fit.
    """
    how = DataOptions(
        template=stage.template,
        min_frames=stage.min_frames,
        max_frames=stage.max_frames,
        sampling=stage.sampling,
        time_message=stage.time_message,
        image_mode=stage.image_mode,
        max_length=stage.max_length,
        short=stage.short_videos,
        backend=stage.backend,
    )
    parts: list[Any] = []
    if sources.rows:
        parts.append(VideoChatDataset(sources.rows, processor, how, stage.on_bad, **options))
    for spec in sources.worlds:
        from .worlds.dataset import WorldDataset

        parts.append(WorldDataset(spec, processor, how))
        if stage.workers and torch.device(parts[-1].spec.device).type != "cpu":
            raise ValueError(
                f"workers: expected 0, as only one process can draw on {parts[-1].spec.device}, "
                f"got {stage.workers}"
            )
    if not parts:
        raise ValueError(f"data: expected at least one row in {stage.data}, got none")
    return Feed(parts)


class WholeSteps(Sampler[int]):
    """The same order without what is left over when all steps are full.

    Raises:
        ValueError: not one step is full.
    """

    def __init__(self, inner: LengthGroupedSampler, step: int) -> None:
        self.inner, self.count = inner, len(inner) // step * step
        if not self.count:
            raise ValueError(
                f"global_batch: expected at most as many as there are rows, {len(inner)}, got "
                f"{step} (or drop_last: false)"
            )

    def set_epoch(self, epoch: int) -> None:
        self.inner.set_epoch(epoch)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        return islice(self.inner, self.count)


def sampler_of(stage: StageSettings, feed: Feed, world: int) -> Sampler[int]:
    """The order of the rows: batches of like lengths, or, all taken for alike, a random one."""
    count = len(feed)
    lengths = feed.lengths if stage.group_by_length else [1] * count
    kinds = feed.modalities if stage.group_by_length else ["visual"] * count
    accumulation = stage.accumulation(world)
    sampler = LengthGroupedSampler(lengths, kinds, stage.batch, world, accumulation, stage.seed)
    return WholeSteps(sampler, stage.global_batch) if stage.drop_last else sampler
