"""`python -m hico.bench report`: the README's table from the newest run of every case.

Nothing is rounded in our favour: our times and bytes up, the baselines' down, speed-ups and shares
down. Baselines come from the same run as ours or are left out; quick runs and CPU runs count only
with --any.
"""

import argparse
from pathlib import Path

from hico.bench import record
from hico.bench.measure import OURS, rounded
from hico.bench.record import RESULTS, Row
from hico.bench.table import accuracy_line

HEAD = (
    "case", "eager / compile", "hico", "faster than eager / compile", "of its floor",
    "above inputs", "must / target", "verdict",
)  # fmt: skip
NONE = "–"


def newest(rows: list[Row], anything: bool = False) -> list[list[Row]]:
    """For every case the rows of the newest run with our row, cases by first appearance."""
    rows = [r for r in rows if anything or (r["device"] == "cuda" and not r["quick"])]
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        if row["kind"] == "speed":
            groups.setdefault(row["case"], {}).setdefault(row["run"], []).append(row)
    chosen = []
    for runs in groups.values():
        with_ours = [run for run in runs.values() if any(r["provider"] == OURS for r in run)]
        chosen += with_ours[-1:]
    return chosen


def row_of(rows: list[Row], provider: str) -> Row | None:
    """The provider's row; of several the graph's, which the limits hold for."""
    found = [r for r in rows if r["provider"] == provider and not r["error"]]
    found.sort(key=lambda r: r["method"] == "graph")
    return found[-1] if found else None


def times(value: float | None, mine: float) -> str:
    """How many times faster ours is, rounded down."""
    return NONE if value is None else f"{rounded(value / mine, 1, up=False)} x"


def line(rows: list[Row]) -> tuple[str, ...]:
    """The cells of one case."""
    first = rows[0]
    ours, eager, compiled = (row_of(rows, name) for name in (OURS, "eager", "compile"))
    shape = f"[{first['B']}, {first['N']}, {first['C']}] -> {first['M']}"
    name = f"`{first['case']}` {first['op']}, {shape}"
    limits = f"{first['must']} / {first['target']}"
    plain = [None if r is None else r["median_ms"] for r in (eager, compiled)]
    shown = " / ".join(NONE if t is None else rounded(t, 3, up=False) for t in plain)
    if ours is None:
        failed = next(r["error"] for r in rows if r["provider"] == OURS)
        return name, f"{shown} ms", NONE, NONE, NONE, NONE, limits, failed
    ms = ours["median_ms"]
    share = ours["share_of_two_read"] or ours["share_of_one_read"]
    reads = "two reads" if ours["share_of_two_read"] else "one pass"
    said = [
        ours.get("verdict", "undecided: no time in a CUDA graph"),
        ours.get("memory_verdict") and f"memory: {ours['memory_verdict']}",
    ]
    return (
        name,
        f"{shown} ms",
        f"{rounded(ms, 3, up=True)} ms",
        " / ".join(times(t, ms) for t in plain),
        f"{rounded(100 * share, 0, up=False)}% of {reads}",
        NONE
        if ours["peak_bytes"] is None
        else f"{rounded(ours['peak_bytes'] / 1e9, 2, up=True)} GB",
        limits,
        "; ".join(part for part in said if part),
    )


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
    """The table, the accuracy, and one line for each run that is in it.

    Raises:
        ValueError: there is no row to show.
    """
    chosen = newest(rows, anything)
    if not chosen:
        left_out = "" if anything else " (quick runs and CPU runs are left out; --any takes them)"
        raise ValueError(f"results: expected rows of our provider, found none{left_out}")
    lines = [HEAD, tuple("---" for _ in HEAD), *(line(case) for case in chosen)]
    text = ["| " + " | ".join(cells) + " |" for cells in lines]
    runs = {row["run"]: row for case in chosen for row in case}
    text += ["", *(where(row) for row in runs.values())]
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
    figure = Figure(figsize=(9, 1 + 0.8 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    for place, name in enumerate(("eager", "compile", OURS)):
        found = [(i, row) for i, case in enumerate(chosen) if (row := row_of(case, name))]
        bars = axes.barh(
            [i + 0.27 * (place - 1) for i, _ in found],
            [row["median_ms"] for _, row in found],
            height=0.25,
            label=name,
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
    parser.add_argument("--results", type=Path, default=RESULTS, help="JSON lines (%(default)s)")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="also draw the times")
    parser.add_argument("--any", action="store_true", help="take quick runs and CPU runs too")


def run(args: argparse.Namespace) -> int:
    """Prints the table; draws if asked."""
    rows = record.load(args.results)
    print(markdown(rows, args.any))
    if args.plot:
        plot(rows, args.plot, args.any)
    return 0
