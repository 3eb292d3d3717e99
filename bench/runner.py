"""What a run of a suite does: checks and times every form of its cases, and judges ours.

Ours and eager run first for all cases. Then worker processes compile the eager forms, all together
while nothing is timed, and then torch.compile is timed case by case. Every row is written when it
is there, so a run that is killed keeps what it measured.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from hico.bench import ahead, measure, record
from hico.bench.ahead import Outcome
from hico.bench.case import OURS, Case, Form, pick
from hico.bench.ceilings import Ceilings, ceilings
from hico.bench.measure import References
from hico.bench.record import Row
from hico.bench.table import accuracy_line, table
from hico.bench.timing import Inputs

# seconds of samples for ours; a baseline gets half
SAMPLING, QUICK_SAMPLING = 1.0, 0.15
# seconds that a case compiled ahead still needs: inputs, loading, choosing variants, timing
COMPILED_S = 10.0


@dataclass(frozen=True)
class Suite:
    """The cases of one command, the module whose CASES they are, and where their rows go."""

    name: str
    cases: tuple[Case, ...]
    module: str

    @property
    def results(self) -> Path:
        """The file of rows, below the folder that the command runs in."""
        return record.RESULTS / f"{self.name}.jsonl"


@dataclass
class Run:
    """One run: where its rows go, and what time is left."""

    suite: Suite
    device: torch.device
    out: Path
    budget_s: float
    quick: bool
    environment: Row
    ceilings: Ceilings
    started: float = field(default_factory=time.perf_counter)
    rows: list[Row] = field(default_factory=list)

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started

    @property
    def sampling_s(self) -> float:
        """Seconds of samples for one timing of ours."""
        return QUICK_SAMPLING if self.quick else SAMPLING

    def say(self, text: str) -> None:
        """A progress line."""
        print(f"[{self.elapsed:6.1f} s] {text}", file=sys.stderr, flush=True)

    def keep(self, row: Row) -> None:
        """Adds the run's environment and writes the row."""
        row = row | self.environment | {"suite": self.suite.name, "quick": self.quick}
        self.rows.append(row)
        record.append(self.out, row)

    def attempt(self, blank: Row, work: Callable[[], list[Row]]) -> list[Row]:
        """The rows of `work`, or `blank` with its error: one failure does not end the run."""
        if self.elapsed > self.budget_s:
            rows = [blank | {"error": f"not run: the budget of {self.budget_s:g} s was spent"}]
        else:
            try:
                rows = work()
            except Exception as error:
                rows = [blank | {"error": record.one_line(error)}]
        for row in rows:
            self.keep(row)
            if row["error"]:
                self.say(f"{row['case']}: {row.get('provider', row['kind'])}: {row['error']}")
        free(self.device)
        return rows


def free(device: torch.device) -> None:
    """Hands unused memory back, so that one case's leftovers are not the next one's shortage."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def plain_and_ours(run: Run, case: Case, baselines: bool) -> None:
    """Times what limits refer to; checks and times ours; then times the other plain forms."""
    run.say(f"{case.name}: inputs {case.shape}")
    sets: list[Inputs] = []
    if run.attempt(measure.describe(case, OURS), partial(fill, sets, case, run.device)):
        return
    references = {form.name: time_plain(run, case, form, sets) for form in case.references}
    for form in case.ours:
        blank = measure.describe(case, form.name)
        run.attempt(blank, partial(time_ours, run, case, form, sets, references))
    for form in case.plain if baselines else ():
        if form.name not in references:
            time_plain(run, case, form, sets)
    if case.extra:
        kind, take = case.extra
        run.say(f"{case.name}: {kind}")
        run.attempt({"kind": kind, "case": case.name}, lambda: [take(case, sets[0])])


def fill(sets: list[Inputs], case: Case, device: torch.device) -> list[Row]:
    """Makes the input sets; there is no row unless it fails."""
    sets += measure.input_sets(case, device)
    return []


def time_plain(run: Run, case: Case, form: Form, sets: list[Inputs]) -> float | None:
    """Times a plain form; its milliseconds as the limits count them."""
    run.say(f"{case.name}: {form.name}")
    timed = measure.provider(case, form)
    work = partial(measure.rows_of, case, timed, sets, run.ceilings, run.sampling_s / 2, {})
    return run.attempt(measure.describe(case, form.name), work)[-1].get("median_ms")


def time_ours(
    run: Run, case: Case, form: Form, sets: list[Inputs], references: References
) -> list[Row]:
    """No speed for a wrong op: the check raises before anything is timed."""
    run.say(f"{case.name}: {form.name}, check")
    timed = measure.provider(case, form)
    checked = measure.verify(case, timed, sets[0])
    run.say(f"{case.name}: {form.name}")
    rows = measure.rows_of(case, timed, sets, run.ceilings, run.sampling_s, references)
    return [row | checked for row in rows]


def compiled_forms(run: Run, cases: Sequence[Case], workers: int) -> None:
    """Compiles all cases ahead, then times torch.compile of each on a machine with nothing else."""
    cases = [case for case in cases if case.compiled]
    with ahead.caches():
        done = compile_ahead(run, cases, workers) if workers and cases else {}
        # a case that has to compile in line may take all the time that is left: last
        for case in sorted(cases, key=lambda case: done.get(case.name, Outcome()).seconds is None):
            time_compiled(run, case, done.get(case.name), workers)


def compile_ahead(run: Run, cases: Sequence[Case], workers: int) -> dict[str, Outcome]:
    """Fills the caches, until what is left of the budget is needed for timing."""
    seconds = run.budget_s - run.elapsed - COMPILED_S * len(cases)
    if seconds <= 0:
        run.say("compile: no time to compile ahead")
        return {}
    run.say(f"compile: {len(cases)} cases ahead, {workers} at a time, {seconds:.0f} s at most")
    jobs = {case.name: ahead.command(run.suite.module, case.name, run.device) for case in cases}
    return ahead.run_all(jobs, workers, seconds, run.say)


def time_compiled(run: Run, case: Case, done: Outcome | None, workers: int) -> None:
    """torch.compile of the plain form; seconds to compile are in the row.

    compile_s is from empty caches: the worker's time, or here in line; warm_compile_s is the time
    here after a worker's.
    """

    def work() -> list[Row]:
        # each case starts with an empty memory: the limit on recompilations counts across cases
        torch.compiler.reset()
        sets = measure.input_sets(case, run.device)
        form = measure.compiled(case, run.device)
        seconds = measure.first_call(form, sets[0])
        more = {"compile_s": seconds, "warm_compile_s": None, "compile_workers": 0}
        if done and done.seconds is not None:
            more = {
                "compile_s": done.seconds,
                "warm_compile_s": seconds,
                "compile_workers": workers,
            }
        rows = measure.rows_of(case, form, sets, run.ceilings, run.sampling_s / 2, {})
        return [row | more for row in rows]

    run.say(f"{case.name}: compile")
    run.attempt(measure.describe(case, "compile"), work)


def start(suite: Suite, args: argparse.Namespace) -> Run:
    """Looks at the arguments and the machine, and measures the ceilings."""
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device: expected a CUDA GPU, found none (--device cpu is a smoke run)")
    if not args.budget > 0:
        raise ValueError(f"budget: expected more than 0 seconds, got {args.budget:g}")
    if args.compile_workers < 0:
        raise ValueError(f"compile-workers: expected 0 or more, got {args.compile_workers}")
    began = time.perf_counter()
    top = ceilings(device, budget_s=0.1 if args.quick else 0.4)
    free(device)
    environment = record.environment(device) | {
        "copy_tb_s": top.copy,
        "read_tb_s": top.read,
        "write_tb_s": top.write,
        "matmul_tflop_s": top.matmul,
    }
    out = args.out or suite.results
    return Run(suite, device, out, args.budget, args.quick, environment, top, began)


def report(run: Run) -> str:
    """Environment, table and accuracy of this run."""
    e, c = run.environment, run.ceilings
    state = {True: " (with changes)", False: "", None: ""}[e["dirty"]]
    lines = [
        f"{e['gpu']}, driver {e['driver']}, torch {e['torch']}, triton {e['triton']}, "
        f"python {e['python']}, commit {e['commit']}{state}, {e['date']}",
        f"ceilings: copy {c.copy:.2f}, read {c.read:.2f}, write {c.write:.2f} TB/s, "
        f"bf16 product {c.matmul:.0f} TFLOP/s",
        "",
        table([row for row in run.rows if row["kind"] == "speed"]),
        *(accuracy_line(row) for row in run.rows if row["kind"] == "accuracy"),
    ]
    if run.device.type == "cpu":
        lines.append(
            "CPU smoke run: tiny shapes, float32, wall clock; no figure here means anything"
        )
    return "\n".join(lines)


def add_arguments(suite: Suite, parser: argparse.ArgumentParser) -> None:
    """The options of a suite's command."""
    names = ", ".join(case.name for case in suite.cases)
    parser.add_argument("--cases", help=f"comma-separated, of: {names} (all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, help=f"JSON lines to append to ({suite.results})")
    parser.add_argument(
        "--quick", action="store_true", help="few samples; the report leaves it out"
    )
    parser.add_argument(
        "--no-baselines", action="store_true", help="only ours, and what limits need"
    )
    parser.add_argument(
        "--budget",
        type=float,
        default=480.0,
        metavar="SECONDS",
        help="nothing new starts after so many seconds (%(default)s)",
    )
    parser.add_argument(
        "--compile-workers",
        type=int,
        default=8,
        metavar="N",
        help="cases compiled at a time, ahead of timing on a GPU; 0: one by one (%(default)s)",
    )


def run(suite: Suite, args: argparse.Namespace) -> int:
    """0, or 1 if ours failed or was wrong in a case."""
    cases = pick(suite.cases, args.cases)
    this = start(suite, args)
    if this.device.type == "cpu":
        cases = tuple(case.on_cpu() for case in cases)
    for case in cases:
        plain_and_ours(this, case, not args.no_baselines)
        free(this.device)
    if not args.no_baselines:
        # on a CPU there is only a graph to capture
        workers = args.compile_workers if this.device.type == "cuda" else 0
        compiled_forms(this, cases, workers)
    print(report(this))
    print(f"rows appended to {this.out}")
    mine = [row for row in this.rows if row.get("provider", OURS).startswith(OURS)]
    return int(any(row["error"] or row.get("bitwise_repeat") is False for row in mine))
