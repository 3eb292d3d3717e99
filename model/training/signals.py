"""SIGTERM and SIGINT: the step that runs is finished, and what was learned is kept."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import torch

WATCHED = (signal.SIGTERM, signal.SIGINT)


class Stopped(BaseException):
    """A signal came before there was anything to keep."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """While the context lasts, a signal is noted; asked for, all processes agree on it.

    Attributes:
        caught: the signal's number, or None.
        training: there is something to keep: else a signal raises Stopped at once. A second SIGINT
            always ends the run, as KeyboardInterrupt.
    """

    def __init__(self) -> None:
        self.caught: int | None = None
        self.training = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        # elsewhere Python does not allow it, and whoever made the thread looks after signals
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in WATCHED}
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        again = self.caught == number == signal.SIGINT
        self.caught = number
        if again:
            raise KeyboardInterrupt
        if not self.training:
            raise Stopped(number)

    def agreed(self, device: torch.device) -> int | None:
        """The signal that any of the processes has caught; each of them has to ask."""
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            return self.caught
        highest = torch.tensor(self.caught or 0, device=device)
        distributed.all_reduce(highest, distributed.ReduceOp.MAX)
        self.caught = int(highest) or None
        return self.caught


def undisturbed() -> None:
    """For workers that load data: a signal to the whole group is their parent's to answer."""
    os.setpgid(0, 0)


def status(number: int) -> int:
    """The exit status of a program that a signal has ended.

    >>> from hico.model.training.signals import status
    >>> status(15), status(2)
    (143, 130)
    """
    return 128 + number


def name(number: int) -> str:
    """As in SIGTERM."""
    return signal.Signals(number).name
