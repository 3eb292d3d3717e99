"""`python -m hico.bench figures`: all figures of a model's card, by the commands that it names.

They are listed in figures.yaml. Some run at a time, as a small model leaves a GPU waiting for the
host; each has a log in --out. What was ended goes on where it was when the same is run again, and
what is done is not run again.
"""

import argparse
import math
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hico.model.load import shipped

LIST = Path(__file__).with_name("figures.yaml")
PROGRAMS = {"hico": "hico.cli", "bench": "hico.bench", "tiny": "hico.model.training.tiny"}
PAUSE = 0.2  # seconds between two looks at what is going on
GRACE = 20.0  # seconds that a run has to leave, once it is asked to


@dataclass(frozen=True)
class Run:
    """A command, and what has to be done before it.

    Attributes:
        name: unique, also of its log.
        group: the name of it and its likes with other values.
        words: of the command line, python's included.
        after: groups.
    """

    name: str
    group: str
    words: tuple[str, ...]
    after: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="DIR", help="results and logs")
    add("--model", type=Path, metavar="DIR", help="(default: hico-tiny, which ships)")
    add("--only", metavar="NAMES", help="of the runs in figures.yaml, and what they wait for")
    add("--at-once", type=int, default=4, metavar="N", help="(%(default)s)")
    add("--budget", type=float, metavar="SECONDS", help="end what is not done after so many")
    add("--set", nargs="+", default=[], metavar="NAME=N", help="other numbers than the list's")
    add("--dry-run", action="store_true", help="print the commands, and run none")


def run(args: argparse.Namespace) -> int:
    """0, or 1 where something is not done.

    Raises:
        ValueError: an argument out of range.
    """
    if args.at_once < 1:
        raise ValueError(f"--at-once: expected 1 or more, got {args.at_once}")
    plan = planned(
        yaml.safe_load(LIST.read_text(encoding="utf-8")), args.out, args.model, changes(args.set)
    )
    plan = chosen(plan, args.only)
    if args.dry_run:
        print("\n".join(f"{one.name}: {shlex.join(one.words)}" for one in plan))
        return 0
    logs = args.out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # or its runs would outlive it
    left = carry_out(plan, logs, args.at_once, args.budget)
    if left:
        print(f"not done: {', '.join(left)}: their logs are in {logs}; run again to go on")
    return int(bool(left))


def changes(given: Iterable[str]) -> dict[str, int]:
    """Numbers by name of NAME=N."""
    found = {}
    for text in given:
        name, _, value = text.partition("=")
        if not value.isdecimal():
            raise ValueError(f"--set: expected NAME=N, N a whole number, got {text!r}")
        found[name] = int(value)
    return found


def planned(
    listed: Mapping[str, Any], out: Path, model: Path | None, numbers: Mapping[str, int]
) -> list[Run]:
    """All runs of the list, its numbers changed to those that are given.

    Raises:
        ValueError: a number that the list has not.
    """
    unknown = sorted(set(numbers) - set(listed["numbers"]))
    if unknown:
        raise ValueError(
            f"--set: expected some of {', '.join(listed['numbers'])}, got {unknown[0]}"
        )
    said = "" if model is None else f"--model {shlex.quote(str(model))}"
    values = {name: str(value) for name, value in {**listed["numbers"], **numbers}.items()}
    values |= {"out": shlex.quote(str(out)), "model": said}
    values["weights"] = shlex.quote(str(model or shipped()))
    return [run for entry in listed["runs"] for run in _runs_of(entry, values)]


def _runs_of(entry: Mapping[str, Any], values: Mapping[str, str]) -> Iterator[Run]:
    ((field, those),) = entry.get("for", {"": [""]}).items()
    for value in those:
        text = entry["run"]
        for name, said in {**values, field: value}.items():
            text = text.replace(f"{{{name}}}", said)
        program, *words = shlex.split(text)
        name = f"{entry['name']}-{value}".removesuffix("-").replace(",", "-")
        whole = (sys.executable, "-m", PROGRAMS[program], *words)
        yield Run(name, entry["name"], whole, tuple(entry.get("after", ())))


def chosen(plan: Sequence[Run], only: str | None) -> list[Run]:
    """Runs of these groups and of all that they wait for; None = every run."""
    if only is None:
        return list(plan)
    groups = list(dict.fromkeys(one.group for one in plan))
    wanted = {name.strip() for name in only.split(",")}
    if not wanted <= set(groups):
        raise ValueError(f"--only: expected some of {', '.join(groups)}, got {only}")
    while True:
        more = {name for one in plan if one.group in wanted for name in one.after}
        if more <= wanted:
            return [one for one in plan if one.group in wanted]
        wanted |= more


class Board:
    """Which runs of a plan are done: each of them leaves its command in NAME.done beside its log.

    So a run is done again where its command is another one by now.
    """

    def __init__(self, plan: Sequence[Run], logs: Path) -> None:
        self.plan, self.logs = plan, logs

    def _mark(self, one: Run) -> Path:
        return self.logs / f"{one.name}.done"

    def is_done(self, one: Run) -> bool:
        mark = self._mark(one)
        return mark.is_file() and mark.read_text(encoding="utf-8") == shlex.join(one.words)

    def is_ready(self, one: Run) -> bool:
        """Whether all that it waits for is done."""
        return all(self.is_done(other) for other in self.plan if other.group in one.after)

    def begin(self, one: Run, threads: int) -> subprocess.Popen:
        with (self.logs / f"{one.name}.log").open("ab") as log:
            # a session of its own, or Ctrl-C would reach it before this process can end all
            return subprocess.Popen(
                one.words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True, env={"OMP_NUM_THREADS": str(threads), **os.environ},
            )  # fmt: skip

    def end(self, one: Run, status: int, seconds: float) -> None:
        if status == 0:
            self._mark(one).write_text(shlex.join(one.words), encoding="utf-8")
        told = "done" if status == 0 else f"ended with {status}"
        print(f"{one.name}: {told} after {seconds:.0f} s", flush=True)


def carry_out(plan: Sequence[Run], logs: Path, at_once: int, budget: float | None) -> list[str]:
    """Runs all that is not done, some at a time; the names of those that are not done then."""
    board = Board(plan, logs)
    until = math.inf if budget is None else time.monotonic() + budget
    threads = max(1, (os.cpu_count() or 1) // at_once)
    waiting = [one for one in plan if not board.is_done(one)]
    going: dict[Run, tuple[subprocess.Popen, float]] = {}
    try:
        while time.monotonic() < until:
            ready = [one for one in waiting if board.is_ready(one)]
            for one in ready[: at_once - len(going)]:
                waiting.remove(one)
                going[one] = board.begin(one, threads), time.monotonic()
            if not going:
                break
            time.sleep(PAUSE)
            for one in [one for one, (process, _) in going.items() if process.poll() is not None]:
                process, began = going.pop(one)
                board.end(one, process.returncode, time.monotonic() - began)
    finally:
        end_all([process for process, _ in going.values()])
    return [one.name for one in plan if not board.is_done(one)]


def end_all(processes: Sequence[subprocess.Popen]) -> None:
    """Asks all to leave as Ctrl-C does, and makes those leave that do not."""
    for process in processes:
        process.send_signal(signal.SIGINT)
    until = time.monotonic() + GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
