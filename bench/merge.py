"""`python -m hico.bench merge`: checks, times and judges the merge against the figures to reach.

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

from hico.bench import accuracy, ahead, measure, record
from hico.bench.ahead import Outcome
from hico.bench.cases import CASES, OpCase, pick
from hico.bench.ceilings import Ceilings, ceilings
from hico.bench.measure import Provider
from hico.bench.record import RESULTS, Row
from hico.bench.table import accuracy_line, table
from hico.bench.timing import Inputs

# seconds of samples for ours; a baseline gets half
SAMPLING, QUICK_SAMPLING = 1.0, 0.15
# seconds that a case compiled ahead still needs: inputs, loading, choosing variants, timing
COMPILED_S = 10.0


@dataclass
class Run:
    """One run: where its rows go, and what time is left."""

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
        row = row | self.environment | {"quick": self.quick}
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


def plain_and_ours(run: Run, case: OpCase, baselines: bool) -> None:
    """Checks and times ours; times eager (first, where the limit is a multiple of its time)."""
    run.say(f"{case.name}: inputs {case.shape}")
    sets: list[Inputs] = []
    if run.attempt(measure.describe(case, measure.OURS), partial(fill, sets, case, run.device)):
        return
    needs_eager = case.must.unit == "x eager"
    # without baselines only the form that the limit is a multiple of
    forms = measure.eager(case) if baselines else measure.eager(case)[:1]
    eager_ms = time_eager(run, case, forms, sets) if needs_eager else None
    for form in measure.ours(case):
        blank = measure.describe(case, form.name)
        run.attempt(blank, partial(time_ours, run, case, form, sets, eager_ms))
    if baselines and not needs_eager:
        time_eager(run, case, forms, sets)
    if case.name == CASES[0].name:
        run.say(f"{case.name}: accuracy, bitwise repeat")
        blank = {"kind": "accuracy", "case": case.name}
        run.attempt(blank, lambda: [accuracy.accuracy_row(case, sets[0])])


def fill(sets: list[Inputs], case: OpCase, device: torch.device) -> list[Row]:
    """Makes the input sets; there is no row unless it fails."""
    sets += measure.input_sets(case, device)
    return []


def time_eager(run: Run, case: OpCase, forms: list[Provider], sets: list[Inputs]) -> float | None:
    """Times the plain forms; milliseconds of the first as the limits count it."""
    medians: list[float | None] = []
    for form in forms:
        run.say(f"{case.name}: {form.name}")
        work = partial(measure.rows_of, case, form, sets, run.ceilings, run.sampling_s / 2, None)
        rows = run.attempt(measure.describe(case, form.name), work)
        medians.append(rows[-1].get("median_ms"))
    return medians[0]


def time_ours(
    run: Run, case: OpCase, form: Provider, sets: list[Inputs], eager_ms: float | None
) -> list[Row]:
    """No speed for a wrong op: the check raises before anything is timed."""
    run.say(f"{case.name}: {form.name}, check")
    share = measure.verify(case, form, sets[0])
    run.say(f"{case.name}: {form.name}")
    rows = measure.rows_of(case, form, sets, run.ceilings, run.sampling_s, eager_ms)
    return [row | {"checked_share": share} for row in rows]


def compiled_forms(run: Run, cases: Sequence[OpCase], workers: int) -> None:
    """Compiles all cases ahead, then times torch.compile of each on a machine with nothing else."""
    with ahead.caches():
        done = compile_ahead(run, cases, workers) if workers else {}
        # a case that has to compile in line may take all the time that is left: last
        for case in sorted(cases, key=lambda case: done.get(case.name, Outcome()).seconds is None):
            time_compiled(run, case, done.get(case.name), workers)


def compile_ahead(run: Run, cases: Sequence[OpCase], workers: int) -> dict[str, Outcome]:
    """Fills the caches, until what is left of the budget is needed for timing."""
    seconds = run.budget_s - run.elapsed - COMPILED_S * len(cases)
    if seconds <= 0:
        run.say("compile: no time to compile ahead")
        return {}
    run.say(f"compile: {len(cases)} cases ahead, {workers} at a time, {seconds:.0f} s at most")
    jobs = {case.name: ahead.command(case.name, run.device) for case in cases}
    return ahead.run_all(jobs, workers, seconds, run.say)


def time_compiled(run: Run, case: OpCase, done: Outcome | None, workers: int) -> None:
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
        rows = measure.rows_of(case, form, sets, run.ceilings, run.sampling_s / 2, None)
        return [row | more for row in rows]

    run.say(f"{case.name}: compile")
    run.attempt(measure.describe(case, "compile"), work)


def start(args: argparse.Namespace) -> Run:
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
    return Run(device, args.out, args.budget, args.quick, environment, top, began)


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--cases", help=f"comma-separated, of: {names} (all)")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="JSON lines to append to (%(default)s)"
    )
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


def run(args: argparse.Namespace) -> int:
    """0, or 1 if ours failed or was wrong in a case."""
    cases = pick(args.cases)
    this = start(args)
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
    mine = [row for row in this.rows if row.get("provider", "hico").startswith(measure.OURS)]
    return int(any(row["error"] or row.get("bitwise_repeat") is False for row in mine))
