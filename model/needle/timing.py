"""Seconds of each stage of a needle test, end to end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Clock:
    """Adds up what each stage takes, the device's work included; stages within others count once.

    >>> from hico.model.needle.timing import Clock
    >>> clock = Clock("cpu")
    >>> with clock("asking"):
    ...     pass
    >>> list(clock.seconds), clock.calls
    (['asking'], {'asking': 1})
    """

    def __init__(self, device: Any) -> None:
        self.device = torch.device(device)
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}
        self._inner = [0.0]

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = self._now()
        self._inner.append(0.0)
        try:
            yield
        finally:
            spent = self._now() - start
            own = spent - self._inner.pop()
            self._inner[-1] += spent
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            self.calls[name] = self.calls.get(name, 0) + 1

    def table(self) -> str:
        """A line for each stage, and one for all."""
        total = sum(self.seconds.values())
        lines = [
            f"{name:<16}{seconds:>10.2f} s {self.calls[name]:>8,} x {each:>9.4f} s"
            for name, seconds in self.seconds.items()
            for each in [seconds / self.calls[name]]
        ]
        return "\n".join([*lines, f"{'all stages':<16}{total:>10.2f} s"])

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()
