"""What the rows of `python -m hico.bench quality` say, as lines to read."""

from collections.abc import Sequence
from typing import Any

from hico.bench.quality_methods import ADAPTIVE, PLAIN, Method
from hico.bench.realtext import paired
from hico.bench.record import Row
from hico.bench.table import aligned

HEAD = (
    "model", "case", "frames", "method", "seen", "tokens", "a layer", "right", "95%",
    "lost/gained by it", "than the first model", "s", "MiB", "needles left",
)  # fmt: skip
LEFT = (0, 1, 3, len(HEAD) - 1)
OF_METHOD = ("method", "dropout", "adaptive")
NONE = "-"
MIB = 1 << 20
PUBLISHED = "uniform0_attention"  # kind of dropping
REFERENCES = (PLAIN, Method(sample=ADAPTIVE))


def right(row: Row) -> bool:
    """Whether a row has an accuracy."""
    return row["error"] is None and row["questions"] > 0


def newest_models(rows: Sequence[Row]) -> list[Row]:
    """Without the rows of models whose name another one bears by now."""
    last = {row["model"]: row["settings"]["weights"] for row in rows}
    return [row for row in rows if row["settings"]["weights"] == last[row["model"]]]


def alike(row: Row, rows: Sequence[Row], but: Sequence[str]) -> list[Row]:
    """Rows with an accuracy that differ from this one in these settings alone."""

    def rest(one: Row) -> Row:
        return {name: value for name, value in one["settings"].items() if name not in but}

    return [other for other in rows if right(other) and rest(other) == rest(row)]


def reference_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """What a method is paired with: hico's merge without drops, or else the adaptive sampling."""
    beside = alike(row, rows, OF_METHOD)
    for method in REFERENCES:
        for other in beside:
            if other["settings"]["method"] == method.settings():
                return other
    return None


def twin_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The same method with the first model."""
    return next(iter(alike(row, rows, ("weights",))), None)


def pair(base: Row, other: Row) -> dict[str, Any]:
    """Questions that only one of two rows got right, of those that both were asked.

    >>> from hico.bench.quality_table import pair
    >>> pair({"outcomes": {"qa": "1101"}}, {"outcomes": {"qa": "011"}})
    {'lost': 1, 'gained': 1, 'p': 1.0, 'asked': 3}
    """
    both: list[tuple[bool, bool]] = []
    for kind, said in base["outcomes"].items():
        beside = zip(said, other["outcomes"].get(kind, ""), strict=False)
        both += [(a == "1", b == "1") for a, b in beside]
    found = paired([a for a, _ in both], [b for _, b in both])
    return found | {"asked": len(both)}


def paired_text(row: Row, base: Row | None) -> str:
    """-lost +gained, and the chance of so many if neither were better."""
    if base is None or base is row:
        return NONE
    found = pair(base, row)
    return f"-{found['lost']} +{found['gained']} of {found['asked']}, p {found['p']:.2g}"


def both_levels(rows: Sequence[Row]) -> list[str]:
    """What merging, and merging and dropping as published, cost beside no compression at all.

    Of whatever models: each may have been tuned with its own way to see clips.
    """
    found = []
    whole = Method("none").settings()
    for base in rows:
        if right(base) and base["settings"]["method"] == whole:
            for row in alike(base, rows, (*OF_METHOD, "weights")):
                method = Method(**row["settings"]["method"])
                if method == PLAIN or method.kind == PUBLISHED:
                    beside = f"beside {base['model']} without merge {paired_text(row, base)}"
                    found.append(f"{line(row)}; {beside}")
    return found


def survival_text(row: Row) -> str:
    """The share of each hop's needle that was seen, and that is left in the last layer."""
    stages = row["survival"]
    if not stages:
        return NONE
    return " ".join(f"{100 * share:.0f}%" for share in stages[-1]["hops"])


def cells(row: Row, rows: Sequence[Row]) -> tuple[str, ...]:
    """One line of the table."""
    name = row["model"], row["case"], f"{row['frames']:,}", row["provider"]
    if not right(row):
        return *name, *[NONE] * (len(HEAD) - 5), row["error"] or "nothing asked"
    seen, above = row["frames_seen"], row["above_bytes"]
    part = "" if row["complete"] else f" (of {row['questions']} so far)"
    return (
        *name,
        NONE if seen is None else f"{seen:,}",
        f"{row['tokens']:,}",
        f"{row['tokens_a_layer']:,.0f}",
        f"{100 * row['accuracy']:.1f}{part}",
        f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
        paired_text(row, reference_of(row, rows)),
        paired_text(row, twin_of(row, rows)),
        NONE if row["seconds"] is None else f"{row['seconds']:.3f}",
        NONE if above is None else f"{above / MIB:,.0f}",
        survival_text(row),
    )


def table(rows: Sequence[Row]) -> str:
    """All rows under one head; the same method of several models stands together."""
    order = {
        key: i
        for i, key in enumerate(
            dict.fromkeys((r["case"], r["frames"], r["provider"]) for r in rows)
        )
    }
    ranked = sorted(rows, key=lambda r: order[r["case"], r["frames"], r["provider"]])
    lines = [HEAD, *(cells(row, rows) for row in ranked)]
    return aligned(lines, LEFT)


def line(row: Row) -> str:
    """One row while the others are still to come."""
    name = f"{row['model']}: {row['case']}, {row['frames']:,} frames, {row['provider']}"
    if not right(row):
        return f"{name}: {row['error'] or 'nothing asked'}"
    part = "" if row["complete"] else ", not complete"
    return (
        f"{name}: {100 * row['accuracy']:.1f}% of {row['questions']}, "
        f"{row['tokens']:,} tokens, {row['tokens_a_layer']:,.0f} a layer{part}"
    )
