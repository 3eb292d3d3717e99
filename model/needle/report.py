"""The scores of a needle test as a table to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .record import averages


def table(cells: Sequence[dict[str, Any]]) -> str:
    """Letters by frames and depth, or of chains by frames; then the averages of all that was asked.

    Cells are as a Record holds them. Scores are in percent.
    """
    lines = _by_depth(cells) if "depth" in cells[0] else _by_frames(cells)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    told = ["  ".join(word.rjust(w) for word, w in zip(row, widths, strict=True)) for row in lines]
    for kind, forms in averages(cells).items():
        for form, found in forms.items():
            low, high = 100 * found["low"], 100 * found["high"]
            told.append(
                f"{kind}, {form}: mean {_percent(found['score'])}, lowest cell "
                f"{_percent(found['lowest'])}; {found['right']} of {found['count']} right, "
                f"95% interval {low:.1f} to {high:.1f}"
            )
    return "\n".join([*told, *_survival(cells)])


def _by_depth(cells: Sequence[dict[str, Any]]) -> list[list[str]]:
    depths = sorted({cell["depth"] for cell in cells})
    scores = {(c["frames"], c["depth"]): c["needle"]["letter"]["score"] for c in cells}
    lengths = sorted({cell["frames"] for cell in cells})
    rows = [[f"{n:,}", *(_percent(scores[n, depth]) for depth in depths)] for n in lengths]
    return [["frames", *(f"depth {depth:g}" for depth in depths)], *rows]


def _by_frames(cells: Sequence[dict[str, Any]]) -> list[list[str]]:
    rows = [["frames", "caption", "qa", "both", "only caption", "only qa", "neither"]]
    for cell in cells:
        pairs = cell["pairs"]
        counts = (pairs[n] for n in ("both", "only_caption", "only_qa", "neither"))
        scores = (_percent(cell[kind]["letter"]["score"]) for kind in ("caption", "qa"))
        rows.append([f"{cell['frames']:,}", *scores, *map(str, counts)])
    return rows


def _survival(cells: Sequence[dict[str, Any]]) -> list[str]:
    """What every stage of dropout leaves of the needles in the longest videos, hop by hop."""
    longest = max(cell["frames"] for cell in cells)
    found = [cell["survival"] for cell in cells if cell["frames"] == longest and "survival" in cell]
    lines = []
    for stages in zip(*found, strict=True):
        hops = zip(*(stage["hops"] for stage in stages), strict=False)
        means = ", ".join(_percent(sum(hop) / len(hop)) for hop in hops)
        layer, ratio = stages[0]["layer"], stages[0]["ratio"]
        lines.append(
            f"{longest:,} frames, from layer {layer} on {100 * ratio:g}% of the tokens are left, "
            f"of the needles' {means}"
        )
    return lines


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
