"""What each stage of answering took: seconds, tokens and memory, as a value to print."""

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

GIB = 1 << 30


@dataclass
class Stage:
    """One stage of answering a question.

    Attributes:
        name: "reading", "encoding", "watching", "first token" or "decoding".
        seconds: by the clock, the device's work included.
        tokens: what the stage leaves or makes; of reading, frames.
        peak: bytes: the device's most during the stage; on a CPU, the process's most until now.
    """

    name: str
    seconds: float = 0.0
    tokens: int = 0
    peak: int = 0

    def __str__(self) -> str:
        what = "frames" if self.name == "reading" else "tokens"
        size = f"{self.tokens:>9,} {what}"
        return f"{self.name:<12}{self.seconds:>9.3f} s {size} {self.peak / GIB:>8.2f} GiB"


@contextmanager
def measured(name: str, device: Any) -> Iterator[Stage]:
    """A Stage whose seconds and peak are those of the context."""
    device = torch.device(device)
    stage = Stage(name)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    try:
        yield stage
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        stage.seconds += time.perf_counter() - start
        stage.peak = peak(device)


def peak(device: torch.device) -> int:
    """Bytes: the most that a CUDA device held since the last stage began, or the process ever."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
