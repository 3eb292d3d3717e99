"""Compiles cases ahead of their timing: a process for each, several at a time, one set of caches.

torch.compile spends most of its time in tracing and in building kernels, which neither shares a
process nor needs a quiet GPU. What the workers leave in Inductor's folder makes the same compile in
the run's own process a matter of seconds. Which variant of a kernel is fastest is not kept: the
workers measure that side by side, so the run measures it again, alone (`measure.compiled`).
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch

from hico.bench import measure
from hico.bench.case import pick
from hico.bench.inputs import SEED

FOLDER, TRITON_FOLDER = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
THREADS = "TORCHINDUCTOR_COMPILE_THREADS"
POLL_S = 0.05


@dataclass(frozen=True)
class Outcome:
    """What came of a worker: its seconds of compiling, or why there are none."""

    seconds: float | None = None
    error: str | None = None


class Worker:
    """A process that prints `{"compile_s": seconds}` as the last line of its output."""

    def __init__(self, command: list[str], threads: int) -> None:
        path = os.pathsep.join(p or os.getcwd() for p in sys.path)
        environment = {THREADS: str(threads)} | os.environ | {"PYTHONPATH": path}
        # files, not pipes: nobody reads along
        self.out, self.err = tempfile.TemporaryFile(), tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self.out,
            stderr=self.err,
            # a group of its own, which the processes that Inductor starts belong to
            start_new_session=True,
        )

    @property
    def running(self) -> bool:
        """Whether the process is still there."""
        return self.process.poll() is None

    def outcome(self) -> Outcome:
        """What an ended worker said."""
        out, err = self._last_line(self.out), self._last_line(self.err)
        self._close()
        code = self.process.returncode
        if code:
            return Outcome(error=f"exit status {code}: {err[:300] or 'no message'}")
        try:
            return Outcome(float(json.loads(out)["compile_s"]))
        except (ValueError, TypeError, KeyError):
            return Outcome(error=f"expected compile_s as its last line, got {out[:300]!r}")

    def stop(self) -> None:
        """Ends the process and those that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._close()

    def _last_line(self, file: IO[bytes]) -> str:
        file.seek(0)
        lines = file.read().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else ""

    def _close(self) -> None:
        self.out.close()
        self.err.close()


@contextmanager
def caches() -> Iterator[None]:
    """Keeps Inductor's and Triton's files in a folder of this run, where the user named none."""
    with tempfile.TemporaryDirectory(prefix="hico-bench-", ignore_cleanup_errors=True) as folder:
        own = {FOLDER: folder, TRITON_FOLDER: str(Path(folder, "triton"))}
        own = {name: value for name, value in own.items() if name not in os.environ}
        os.environ.update(own)
        try:
            yield
        finally:
            for name in own:
                os.environ.pop(name, None)


def run_all(
    jobs: dict[str, list[str]],
    at_once: int,
    seconds: float,
    say: Callable[[str], None] = print,
) -> dict[str, Outcome]:
    """Runs the commands, `at_once` at a time; what is not done after `seconds` is ended.

    Args:
        jobs: a command for each name, started in this order.
        say: gets a line for each worker that ends.
    """
    if at_once < 1:
        raise ValueError(f"at_once: expected 1 worker or more, got {at_once}")
    threads = max(1, (os.cpu_count() or 1) // at_once)
    deadline = time.perf_counter() + seconds
    waiting, running, done = list(jobs), dict[str, Worker](), dict[str, Outcome]()
    try:
        while (waiting or running) and time.perf_counter() < deadline:
            while waiting and len(running) < at_once:
                name = waiting.pop(0)
                running[name] = Worker(jobs[name], threads)
            for name in [name for name, worker in running.items() if not worker.running]:
                done[name] = running.pop(name).outcome()
                say(f"{name}: {describe(done[name])}")
            time.sleep(POLL_S)
    finally:
        for worker in running.values():
            worker.stop()
    for name in [*running, *waiting]:
        done[name] = Outcome(error=f"ended after {seconds:.0f} s, by the run's budget")
        say(f"{name}: {describe(done[name])}")
    return done


def describe(outcome: Outcome) -> str:
    """A progress line's end.

    >>> describe(Outcome(12.34)), describe(Outcome(error="exit status 1: no memory"))
    ('compiled in 12.3 s', 'worker failed, exit status 1: no memory')
    """
    if outcome.seconds is None:
        return f"worker failed, {outcome.error}"
    return f"compiled in {outcome.seconds:.1f} s"


def command(module: str, name: str, device: torch.device) -> list[str]:
    """The command line that compiles one case of a module's CASES."""
    return [sys.executable, "-m", "hico.bench.ahead", module, name, device.type]


def compile_case(module: str, name: str, device: torch.device) -> float:
    """Compiles one case on inputs of the timed shape; seconds, making the inputs left out."""
    (case,) = pick(importlib.import_module(module).CASES, name)
    if device.type == "cpu":
        case = case.on_cpu()
    args = case.inputs(case.shape, device, SEED)
    return measure.first_call(measure.compiled(case, device), args)


if __name__ == "__main__":
    module, name, kind = sys.argv[1:]
    print(json.dumps({"compile_s": compile_case(module, name, torch.device(kind))}))
