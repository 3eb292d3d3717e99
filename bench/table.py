"""The aligned table that a run prints."""

from collections.abc import Container, Sequence

from hico.bench.case import OURS
from hico.bench.limits import rounded
from hico.bench.record import Row

HEAD = (
    "case", "provider", "timed by", "median ms", "p20 / p80", "launch us", "GB/s", "TFLOP/s",
    "of two reads", "of one pass", "of floor", "MiB above", "must / target", "verdict",
)  # fmt: skip
NONE = "-"


def share(value: float | None) -> str:
    """A share of a floor in percent, rounded down."""
    return NONE if value is None else f"{rounded(100 * value, 1, up=False)}%"


def rate(value: float | None, mine: bool) -> str:
    """Bytes or operations a second."""
    return NONE if value is None else rounded(value, 0, up=not mine)


def limits_of(row: Row) -> str:
    """The figures to reach, as the case has them."""
    return " / ".join(filter(None, (row["must"], row["target"])))


def cells(row: Row) -> tuple[str, ...]:
    """One line: our times and bytes rounded up, the baselines' down."""
    mine = row["provider"].startswith(OURS)
    name = f"{row['case']} {row['shape']}"
    limits = limits_of(row) if mine else NONE
    if row["error"]:
        return name, row["provider"], *[NONE] * (len(HEAD) - 4), limits, row["error"]
    median, p20, p80 = (rounded(row[key], 4, up=mine) for key in ("median_ms", "p20_ms", "p80_ms"))
    launch, peak = row["launch_us"], row["peak_bytes"]
    said = [row.get("verdict"), row.get("memory_verdict") and f"memory: {row['memory_verdict']}"]
    return (
        name,
        row["provider"],
        row["method"],
        median,
        f"{p20} / {p80}",
        NONE if launch is None else rounded(launch, 0, up=mine),
        rate(row["gb_s"], mine),
        rate(row["tflop_s"], mine),
        share(row["share_of_two_read"]),
        share(row["share_of_one_read"]),
        share(row["share_of_floor"]),
        NONE if peak is None else rounded(peak / 2**20, 1, up=mine),
        limits,
        "; ".join(part for part in said if part) or NONE,
    )


def table(rows: list[Row]) -> str:
    """The speed rows under one head, cases together in the order of their first row."""
    order = {name: i for i, name in enumerate(dict.fromkeys(row["case"] for row in rows))}
    lines = [HEAD, *(cells(row) for row in sorted(rows, key=lambda row: order[row["case"]]))]
    return aligned(lines, (0, 1, 2, len(HEAD) - 1))


def aligned(lines: Sequence[Sequence[str]], left: Container[int]) -> str:
    """Lines of cells in columns, two spaces apart; the columns of `left` begin together."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def accuracy_line(row: Row) -> str:
    """One sentence on accuracy; shares rounded down for ours, up for the reference."""
    if row["error"]:
        return f"accuracy: {row['error']}"
    ours, eager = (
        f"{rounded(100 * row[f'{who}_strict'], 2, up=up)}% "
        f"({rounded(100 * row[f'{who}_close'], 2, up=up)}% relative)"
        for who, up in (("hico", False), ("eager", True))
    )
    return (
        f"accuracy, {row['clips']} clips, tokens within {row['tolerance']} of float64: "
        f"hico {ours}, eager {eager}; "
        f"two runs bitwise equal: {'yes' if row['bitwise_repeat'] else 'NO'}; "
        f"{row['verdict']} ({row['must']:.1%})"
    )
