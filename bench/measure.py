"""One form of one case -> result rows: time, launch, bandwidth, memory, and the verdict."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hico.bench import check, timing
from hico.bench.case import OURS, Case, Form
from hico.bench.ceilings import Ceilings
from hico.bench.inputs import SEED
from hico.bench.limits import limit_ms, verdict
from hico.bench.record import Row, one_line
from hico.bench.timing import Inputs, Setup, Times

# milliseconds of the forms that limits refer to, None where the measurement failed
References = Mapping[str, float | None]


@dataclass(frozen=True)
class Provider:
    """A form as it is timed: a name, the timed call, and what runs before it outside the time."""

    name: str
    run: Callable[..., Any]
    setup: Setup | None = None
    verify: Callable[..., Row] | None = None


def provider(case: Case, form: Form) -> Provider:
    """The form on inputs of the case's shape; a backward case's forward only prepares its call."""
    return _provider(case, form.name, partial(form.run, case.shape), form.verify)


def _provider(
    case: Case, name: str, forward: Callable[..., Any], verify: Callable[..., Row] | None = None
) -> Provider:
    if not case.backward:
        return Provider(name, forward, None, verify)

    def setup(*args: Any) -> Inputs:
        leaf = args[0].detach().requires_grad_()
        return check.outputs(forward(leaf))[0], leaf, args[-1]

    def run(tokens: Tensor, leaf: Tensor, dy: Tensor) -> Tensor:
        return torch.autograd.grad(tokens, leaf, dy)[0]

    return Provider(name, run, setup, verify)


def compiled(case: Case, device: torch.device) -> Provider:
    """torch.compile of the plain form; on a CPU its capture only, without Inductor."""
    (fn,) = (form.run for form in case.plain if form.name == case.compiled)
    shape = case.shape
    how: dict[str, Any] = {"backend": "aot_eager"}
    if device.type == "cuda":
        # each process chooses the fastest variants itself: one that compiled beside others chose
        # them on a busy GPU, which would count against the baseline
        how = {"options": {"autotune_local_cache": False}}

    def forward(*args: Any) -> Any:
        return fn(shape, *args)

    return _provider(case, "compile", torch.compile(forward, fullgraph=True, **how))


def first_call(form: Provider, args: Inputs) -> float:
    """Seconds of the first call, with what compiles in it: its setup's too."""
    device = timing.device_of([args])
    timing.synchronize(device)
    started = time.perf_counter()
    form.run(*(form.setup(*args) if form.setup else args))
    timing.synchronize(device)
    return time.perf_counter() - started


def input_sets(case: Case, device: torch.device) -> list[Inputs]:
    """One input set; for a small case so many that each is out of the L2 when its turn comes."""
    first = case.inputs(case.shape, device, SEED)
    count = timing.sets_needed(timing.input_bytes(first), device)
    return [first, *(case.inputs(case.shape, device, SEED + i) for i in range(1, count))]


def verify(case: Case, form: Provider, args: Inputs) -> Row:
    """Runs ours once on the timed inputs, outputs poisoned; what the check has for the row.

    Raises:
        check.WrongResult: it is not what float64 says.
    """
    assert form.verify
    with check.poisoned():
        ready = form.setup(*args) if form.setup else args
        result = form.run(*ready)
    return form.verify(case.shape, result, *args)


def floors(case: Case, ceilings: Ceilings) -> dict[str, float | None]:
    """Milliseconds that the bytes of one and of two reads take at this run's ceilings."""
    if case.traffic is None:
        return {"floor": None, "two-read floor": None}
    traffic = case.traffic(case.shape)
    rate = (ceilings.backward if case.backward else ceilings.forward) * 1e9
    twice = None if traffic.twice is None else traffic.twice / rate
    return {"floor": traffic.once / rate, "two-read floor": twice}


def verdicts(case: Case, ms: float, references: References, peak: float | None) -> Row:
    """Limits and verdicts of our row: of the time, and of the memory where there is a figure."""
    limits = [limit for limit in (case.must, case.target) if limit]
    found = [limit_ms(limit, references) for limit in limits]
    more: Row = dict(zip(("must_ms", "target_ms"), found, strict=False))
    more["verdict"] = verdict(ms, *found)
    if case.memory and peak is not None:
        more |= {"must_bytes": case.memory[0], "target_bytes": case.memory[1]}
        more["memory_verdict"] = verdict(peak, *case.memory)
    return more


def describe(case: Case, name: str) -> Row:
    """What every row of a case says, measured or not."""
    return {
        "kind": "speed",
        "op": case.title,
        "case": case.name,
        "provider": name,
        "mode": "bwd" if case.backward else "fwd",
        "shape": str(case.shape),
        **case.shape.row(),
        "dtype": str(case.shape.dtype).removeprefix("torch."),
        "seed": SEED,
        "must": str(case.must),
        "target": str(case.target) if case.target else None,
        "error": None,
    }


def rows_of(
    case: Case,
    form: Provider,
    sets: list[Inputs],
    ceilings: Ceilings,
    budget_s: float,
    references: References,
) -> list[Row]:
    """All figures of one provider: a row timed with events, and for a graph case one in a graph."""
    launch = timing.launch_overhead(form.run, sets[0], setup=form.setup)
    peak = timing.peak_memory(form.run, sets[0], setup=form.setup)
    shared = {"launch_us": launch, "peak_bytes": peak, "input_sets": len(sets)}
    timed = timing.time_gpu(form.run, sets, setup=form.setup, budget_s=budget_s)
    rows = [row_of(case, form, timed, ceilings, shared, references)]
    if case.graph and timing.device_of(sets).type == "cuda":
        try:
            timed = timing.time_graph(form.run, sets, budget_s=budget_s)
            rows.append(row_of(case, form, timed, ceilings, shared, references))
        except Exception as error:
            # what cannot be captured still has its time with launches
            failed = {"method": "graph", "error": one_line(error)}
            rows.append(describe(case, form.name) | failed)
    return rows


def row_of(
    case: Case, form: Provider, t: Times, ceilings: Ceilings, shared: Row, references: References
) -> Row:
    """The row of one way of timing; ours has the verdicts where it is the way that counts."""
    mine = form.name.startswith(OURS)
    least = floors(case, ceilings)
    own = case.traffic(case.shape).own if case.traffic else None
    work = case.flops(case.shape)[0 if mine else 1] if case.flops else None
    row = describe(case, form.name) | shared
    row |= {
        "method": t.method,
        "samples": t.samples,
        "median_ms": t.median,
        "p20_ms": t.p20,
        "p80_ms": t.p80,
        "gb_s": ratio(own, t.median * 1e6),
        "tflop_s": ratio(work, t.median * 1e9),
        "floor_bytes": own,
        "one_read_floor_ms": least["floor"],
        "two_read_floor_ms": least["two-read floor"],
        "share_of_one_read": ratio(least["floor"], t.median),
        "share_of_two_read": ratio(least["two-read floor"], t.median),
        "reference_ms": dict(references),
        "share_of_floor": ratio(references.get("floor"), t.median),
    }
    if mine:
        if t.method == "wall clock":
            row["verdict"] = "not judged on a CPU"
        elif t.method == "graph" or not case.graph:
            row |= verdicts(case, t.median, least | dict(references), row["peak_bytes"])
    return row


def ratio(value: float | None, of: float) -> float | None:
    """value / of, None for None."""
    return None if value is None else value / of
