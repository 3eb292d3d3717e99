"""`python -m hico.bench report`: the README's tables from the newest run of every case.

Nothing is rounded in our favour: our times and bytes up, the baselines' down, speed-ups and shares
down. Baselines come from the same run as ours or are left out; quick runs and CPU runs count only
with --any.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from hico.bench import record
from hico.bench.case import OURS
from hico.bench.limits import rounded
from hico.bench.record import RESULTS, Row
from hico.bench.table import accuracy_line, limits_of

NONE = "–"


@dataclass(frozen=True)
class Column:
    """A baseline in a suite's table: its head, the providers it may be, whether ours races it."""

    head: str
    names: tuple[str, ...]
    rival: bool = True


COLUMNS = {
    "merge": (Column("eager", ("eager",)), Column("compile", ("compile",))),
    "retain": (
        Column("published, with mask", ("published, with mask",)),
        Column("published, no mask", ("published, no mask",)),
        Column("plain", ("lean PyTorch", "topk + sort", "eager")),
        Column("compile", ("compile",)),
        Column("floor or one row", ("floor", "one row"), rival=False),
    ),
}


def suite_of(row: Row) -> str:
    """The command that a row comes from; the oldest rows do not say, and are the merge's."""
    return row.get("suite", "merge")


def newest(rows: list[Row], anything: bool = False) -> list[list[Row]]:
    """For every case the rows of the newest run with our row, cases by first appearance."""
    rows = [r for r in rows if anything or (r["device"] == "cuda" and not r["quick"])]
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in rows:
        if row["kind"] == "speed":
            name = suite_of(row), row["case"]
            groups.setdefault(name, {}).setdefault(row["run"], []).append(row)
    chosen = []
    for runs in groups.values():
        with_ours = [run for run in runs.values() if any(r["provider"] == OURS for r in run)]
        chosen += with_ours[-1:]
    return chosen


def row_of(rows: list[Row], *providers: str) -> Row | None:
    """A provider's row; of several the graph's, which the limits hold for."""
    found = [r for r in rows if r["provider"] in providers and not r["error"]]
    found.sort(key=lambda r: r["method"] == "graph")
    return found[-1] if found else None


def size(row: Row, up: bool) -> str | None:
    """Bytes above the inputs, if they were measured."""
    peak = row["peak_bytes"]
    return None if peak is None else f"{rounded(peak / 1e9, 2, up=up)} GB"


def baseline(row: Row | None, mine: float | None) -> str:
    """A plain form's milliseconds and memory, rounded down, and how many times faster ours is."""
    if row is None:
        return NONE
    ms, work = row["median_ms"], row.get("tflop_s")
    parts = [f"{rounded(ms, 3, up=False)} ms", size(row, up=False)]
    if work is not None:
        parts.append(f"{rounded(work, 0, up=True)} TFLOP/s")
    if mine is not None:
        parts.append(f"{rounded(ms / mine, 1, up=False)} x")
    return ", ".join(part for part in parts if part)


def reached(ours: Row) -> str:
    """How near ours comes to what its case is bound by, rounded down."""
    shares = (("two_read", "two reads"), ("floor", "the floor"), ("one_read", "one pass"))
    for key, name in shares:
        share = ours.get(f"share_of_{key}")
        if share is not None:
            return f"{rounded(100 * share, 0, up=False)}% of {name}"
    work = ours.get("tflop_s")
    return NONE if work is None else f"{rounded(work, 0, up=False)} TFLOP/s"


def line(rows: list[Row], columns: tuple[Column, ...]) -> tuple[str, ...]:
    """The cells of one case."""
    first, ours = rows[0], row_of(rows, OURS)
    ms: float | None = ours["median_ms"] if ours else None
    plain = [
        baseline(row_of(rows, *column.names), ms if column.rival else None) for column in columns
    ]
    # rows from before shapes were written out are the merge's
    shape = first.get("shape") or f"[{first['B']}, {first['N']}, {first['C']}] -> {first['M']}"
    start, limits = (f"`{first['case']}` {first['op']}, {shape}", *plain), limits_of(first)
    if ours is None or ms is None:
        failed = next(r["error"] for r in rows if r["provider"] == OURS)
        return *start, NONE, NONE, limits, failed
    said = [
        ours.get("verdict", "undecided: no time in a CUDA graph"),
        ours.get("memory_verdict") and f"memory: {ours['memory_verdict']}",
    ]
    mine = [f"**{rounded(ms, 3, up=True)} ms**", size(ours, up=True)]
    cells = (", ".join(filter(None, mine)), reached(ours), limits)
    return *start, *cells, "; ".join(part for part in said if part)


def tables(chosen: list[list[Row]]) -> list[str]:
    """A table for each suite among the cases, an empty line after each."""
    text = []
    for suite in dict.fromkeys(suite_of(case[0]) for case in chosen):
        columns = COLUMNS[suite]
        head = ("case", *(column.head for column in columns), OURS, "reaches")
        head = (*head, "must / target", "verdict")
        lines = [line(case, columns) for case in chosen if suite_of(case[0]) == suite]
        rule = tuple("---" for _ in head)
        text += ["| " + " | ".join(cells) + " |" for cells in (head, rule, *lines)] + [""]
    return text


def where(row: Row) -> str:
    """The machine and the versions of a row."""
    state = ", with changes" if row["dirty"] else ""
    return (
        f"{row['gpu']}, driver {row['driver']}, torch {row['torch']}, triton {row['triton']}, "
        f"python {row['python']}, commit {row['commit'] or 'unknown'}{state}, {row['date'][:10]}; "
        f"copy {row['copy_tb_s']:.2f}, read {row['read_tb_s']:.2f}, "
        f"write {row['write_tb_s']:.2f} TB/s"
    )


def markdown(rows: list[Row], anything: bool = False) -> str:
    """The tables, one line for each run that is in them, and the accuracy.

    Raises:
        ValueError: there is no row to show.
    """
    chosen = newest(rows, anything)
    if not chosen:
        left_out = "" if anything else " (quick runs and CPU runs are left out; --any takes them)"
        raise ValueError(f"results: expected rows of our provider, found none{left_out}")
    runs = {row["run"]: row for case in chosen for row in case}
    text = [*tables(chosen), *(where(row) for row in runs.values())]
    accurate = [r for r in rows if r["kind"] == "accuracy" and r["run"] in runs]
    text += [accuracy_line(row) for row in accurate[-1:]]
    return "\n".join(text)


def plot(rows: list[Row], path: Path, anything: bool = False) -> None:
    """A bar for each provider of every case, milliseconds on a logarithmic axis.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("the plot needs matplotlib: pip install 'hico[plot]'") from error
    chosen = newest(rows, anything)
    suites = dict.fromkeys(suite_of(case[0]) for case in chosen)
    columns = {column.head: column for suite in suites for column in COLUMNS[suite]}
    bars_of = {**{head: column.names for head, column in columns.items()}, OURS: (OURS,)}
    figure = Figure(figsize=(9, 1 + 0.8 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    high = 0.8 / len(bars_of)
    for place, (head, names) in enumerate(bars_of.items()):
        found = [(i, row) for i, case in enumerate(chosen) if (row := row_of(case, *names))]
        bars = axes.barh(
            [i + high * (place - (len(bars_of) - 1) / 2) for i, _ in found],
            [row["median_ms"] for _, row in found],
            height=0.9 * high,
            label=head,
        )
        axes.bar_label(bars, fmt="%.3g", padding=2)
    axes.set_yticks(range(len(chosen)), [case[0]["case"] for case in chosen])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds, median, cold L2")
    axes.set_title(chosen[0][0]["gpu"])
    axes.legend()
    figure.savefig(path, dpi=150)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    parser.add_argument(
        "--results", type=Path, nargs="+", help=f"files of JSON lines (all in {RESULTS})"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the times")
    parser.add_argument("--any", action="store_true", help="take quick runs and CPU runs too")


def run(args: argparse.Namespace) -> int:
    """Prints the tables; draws if asked."""
    paths = args.results or sorted(RESULTS.glob("*.jsonl"))
    if not paths:
        raise ValueError(f"results: expected files of JSON lines, found none in {RESULTS}")
    rows = [row for path in paths for row in record.load(path)]
    print(markdown(rows, args.any))
    if args.plot:
        plot(rows, args.plot, args.any)
    return 0
