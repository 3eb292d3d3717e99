"""One provider of one case -> result rows: time, launch, bandwidth, memory, and the verdict."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hico.bench import check, timing
from hico.bench.cases import Limit, OpCase
from hico.bench.ceilings import Ceilings
from hico.bench.inputs import SEED
from hico.bench.record import Row, one_line
from hico.bench.timing import Inputs, Setup, Times

OURS = "hico"


@dataclass(frozen=True)
class Provider:
    """A name, what is timed, and what runs before each call outside the time."""

    name: str
    run: Callable[..., Any]
    setup: Setup | None = None
    # ours: the answer in float64
    exact: Callable[..., tuple[Tensor, ...]] | None = None


def provider(case: OpCase, name: str, forward: Callable[..., Any], **more: Any) -> Provider:
    """`forward` takes one input set; for a backward case it only prepares the timed call."""
    if not case.backward:
        return Provider(name, forward, **more)

    def setup(*args: Any) -> Inputs:
        leaf = args[0].detach().requires_grad_()
        return check.outputs(forward(leaf))[0], leaf, args[-1]

    def run(tokens: Tensor, leaf: Tensor, dy: Tensor) -> Tensor:
        return torch.autograd.grad(tokens, leaf, dy)[0]

    return Provider(name, run, setup, **more)


def ours(case: OpCase) -> list[Provider]:
    """Our forms, the one that the limits hold for first."""
    forms = ((OURS, case.ours, case.exact), *case.also)
    return [provider(case, n, partial(fn, case.shape), exact=exact) for n, fn, exact in forms]


def eager(case: OpCase) -> list[Provider]:
    """The plain PyTorch forms, the one that limits refer to first."""
    forms = [provider(case, "eager", partial(case.eager, case.shape))]
    if case.eager_whole:
        forms.append(provider(case, "eager, all of it", partial(case.eager_whole, case.shape)))
    return forms


def compiled(case: OpCase, device: torch.device) -> Provider:
    """torch.compile of the plain form; on a CPU its capture only, without Inductor."""
    shape, fn = case.shape, case.eager_whole or case.eager
    how: dict[str, Any] = {"backend": "aot_eager"}
    if device.type == "cuda":
        # each process chooses the fastest variants itself: one that compiled beside others chose
        # them on a busy GPU, which would count against the baseline
        how = {"options": {"autotune_local_cache": False}}

    def forward(*args: Tensor) -> Any:
        return fn(shape, *args)

    return provider(case, "compile", torch.compile(forward, fullgraph=True, **how))


def first_call(form: Provider, args: Inputs) -> float:
    """Seconds of the first call, with what compiles in it: its setup's too."""
    device = timing.device_of([args])
    timing.synchronize(device)
    started = time.perf_counter()
    form.run(*(form.setup(*args) if form.setup else args))
    timing.synchronize(device)
    return time.perf_counter() - started


def input_sets(case: OpCase, device: torch.device) -> list[Inputs]:
    """One input set; for a small case so many that each is out of the L2 when its turn comes."""
    first = case.inputs(case.shape, device, SEED)
    count = timing.sets_needed(timing.input_bytes(first), device)
    return [first, *(case.inputs(case.shape, device, SEED + i) for i in range(1, count))]


def verify(case: OpCase, form: Provider, args: Inputs) -> float:
    """Runs ours once on the timed inputs, outputs poisoned; the share of close tokens.

    Raises:
        check.WrongResult: it is not what float64 says.
    """
    assert form.exact
    with check.poisoned():
        ready = form.setup(*args) if form.setup else args
        result = form.run(*ready)
    check.check_all(case.shape, result)
    rows = check.sample_rows(case.shape.B, timing.device_of([args]))
    # weights of a LayerNorm have no batch
    part = [t[rows] if t.shape[0] == case.shape.B and t.ndim > 1 else t for t in args]
    return check.check_rows(result, form.exact(case.shape, *part), rows)


def floors(case: OpCase, ceilings: Ceilings) -> tuple[float, float | None]:
    """Milliseconds of the one-read and the two-read floor at this run's ceilings."""
    traffic = case.traffic(case.shape)
    rate = (ceilings.backward if case.backward else ceilings.forward) * 1e9
    return traffic.once / rate, None if traffic.twice is None else traffic.twice / rate


def limit_ms(
    limit: Limit, once: float, twice: float | None, eager_ms: float | None
) -> float | None:
    """The limit in milliseconds of this run, None if what it refers to was not measured."""
    units = {"ms": 1.0, "x floor": once, "x two-read floor": twice, "x eager": eager_ms}
    unit = units[limit.unit]
    return None if unit is None else limit.value * unit


def rounded(value: float, digits: int, *, up: bool) -> str:
    """`value` with so many decimals, rounded up or down; callers choose what disfavours us.

    >>> rounded(2.001, 2, up=True), rounded(5.999, 1, up=False), rounded(1.1, 2, up=True)
    ('2.01', '5.9', '1.10')
    """
    step = Decimal(1).scaleb(-digits)
    mode = ROUND_CEILING if up else ROUND_FLOOR
    return str(Decimal(repr(float(value))).quantize(step, rounding=mode))


def verdict(value: float, must: float | None, target: float | None) -> str:
    """Which of the two was reached, and by how much the other was missed.

    >>> verdict(2.7, 3.0, 2.6)
    'must met, target missed by 3.9%'
    """
    if must is None or target is None:
        return "undecided: the limit's reference was not measured"
    if value <= target:
        return "target met"
    reached, limit = ("must met, target", target) if value <= must else ("must", must)
    return f"{reached} missed by {rounded((value / limit - 1) * 100, 1, up=True)}%"


def verdicts(case: OpCase, ms: float, once: float, twice: float | None, row: Row) -> Row:
    """Limits and verdicts of our row: of the time, and of the memory where there is a figure."""
    must, target = (limit_ms(x, once, twice, row["eager_ms"]) for x in (case.must, case.target))
    more: Row = {"must_ms": must, "target_ms": target, "verdict": verdict(ms, must, target)}
    if case.memory and row["peak_bytes"] is not None:
        more |= {"must_bytes": case.memory[0], "target_bytes": case.memory[1]}
        more["memory_verdict"] = verdict(row["peak_bytes"], *case.memory)
    return more


def describe(case: OpCase, name: str) -> Row:
    """What every row of a case says, measured or not."""
    s = case.shape
    return {
        "kind": "speed",
        "op": case.title,
        "case": case.name,
        "provider": name,
        "mode": "bwd" if case.backward else "fwd",
        "B": s.B,
        "N": s.N,
        "C": s.C,
        "M": s.M,
        "heads": s.heads,
        "dtype": str(s.dtype).removeprefix("torch."),
        "seed": SEED,
        "must": str(case.must),
        "target": str(case.target),
        "error": None,
    }


def rows_of(
    case: OpCase,
    form: Provider,
    sets: list[Inputs],
    ceilings: Ceilings,
    budget_s: float,
    eager_ms: float | None,
) -> list[Row]:
    """All figures of one provider: a row timed with events, and for a graph case one in a graph."""
    launch = timing.launch_overhead(form.run, sets[0], setup=form.setup)
    peak = timing.peak_memory(form.run, sets[0], setup=form.setup)
    shared = {"launch_us": launch, "peak_bytes": peak, "eager_ms": eager_ms}
    timed = timing.time_gpu(form.run, sets, setup=form.setup, budget_s=budget_s)
    rows = [row_of(case, form, timed, ceilings, shared)]
    if case.graph and timing.device_of(sets).type == "cuda":
        try:
            timed = timing.time_graph(form.run, sets, budget_s=budget_s)
            rows.append(row_of(case, form, timed, ceilings, shared))
        except Exception as error:
            # what cannot be captured still has its time with launches
            failed = {"method": "graph", "error": one_line(error)}
            rows.append(describe(case, form.name) | failed)
    return [row | {"input_sets": len(sets)} for row in rows]


def row_of(case: OpCase, form: Provider, t: Times, ceilings: Ceilings, shared: Row) -> Row:
    """The row of one way of timing; ours has the verdicts where it is the way that counts."""
    once, twice = floors(case, ceilings)
    own = case.traffic(case.shape).own
    row = describe(case, form.name) | shared
    row |= {
        "method": t.method,
        "samples": t.samples,
        "median_ms": t.median,
        "p20_ms": t.p20,
        "p80_ms": t.p80,
        "gb_s": own / t.median / 1e6,
        "floor_bytes": own,
        "one_read_floor_ms": once,
        "two_read_floor_ms": twice,
        "share_of_one_read": once / t.median,
        "share_of_two_read": None if twice is None else twice / t.median,
    }
    if form.name.startswith(OURS):
        if t.method == "wall clock":
            row["verdict"] = "not judged on a CPU"
        elif t.method == "graph" or not case.graph:
            row |= verdicts(case, t.median, once, twice, row)
    return row
