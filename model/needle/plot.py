"""Pictures of a needle test: scores by frames and depth, or of chains by frames."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#F0496E", "#EBB839", "#9ad5b3")  # as published: 0, a half, 1
LINES = {
    "caption": ("caption", "letter", "#4C78A8", "-"),
    "detail": ("qa", "letter", "#E4A11B", "-"),
    "detail, told step by step": ("qa", "steps", "#E4A11B", "--"),
    "blind": ("qa", "blind", "#9aa0a6", ":"),
    "64 frames": ("qa", "uniform_64", "#9aa0a6", "-."),
}


def picture(cells: Sequence[dict[str, Any]], title: str = "") -> Any:
    """A matplotlib Figure of cells as a Record holds them: a heat map where they have depths.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    return _heat_map(cells, title) if "depth" in cells[0] else _curves(cells, title)


def save(cells: Sequence[dict[str, Any]], path: Path, title: str = "") -> None:
    """picture as a PNG, written whole or not at all."""
    from ..picture import save_picture

    save_picture(picture(cells, title), path, dpi=100)


def short(frames: int) -> str:
    """A number of frames as published: 1.0K.

    >>> from hico.model.needle.plot import short
    >>> short(64), short(1000), short(10000)
    ('64', '1.0K', '10.0K')
    """
    return str(frames) if frames < 1000 else f"{frames / 1000:.1f}K"


def _heat_map(cells: Sequence[dict[str, Any]], title: str) -> Any:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    lengths = sorted({cell["frames"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    scores = {(c["depth"], c["frames"]): c["needle"]["letter"]["score"] for c in cells}
    rows = [[scores.get((depth, n), float("nan")) for n in lengths] for depth in depths]
    figure = Figure(figsize=(17.5, 8))
    axes = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list("needle", COLOURS)
    image = axes.imshow(rows, cmap=colours, vmin=0, vmax=1, aspect="auto")
    for y, row in enumerate(rows):
        for x, score in enumerate(row):
            if score == score:
                text = f"{100 * score:.1f}".removesuffix(".0")
                axes.text(x, y, text, ha="center", va="center", color="#1f2430", fontsize=12)
    axes.set_xticks(range(len(lengths)), [short(n) for n in lengths], rotation=45, fontsize=13)
    axes.set_yticks(range(len(depths)), [f"{100 * depth:g}" for depth in depths], fontsize=13)
    axes.set_xlabel("Num. of Frames", fontsize=15)
    axes.set_ylabel("Depth Percent", fontsize=15)
    axes.set_title(title, fontsize=15)
    figure.colorbar(image, label="Score")
    figure.tight_layout()
    return figure


def _curves(cells: Sequence[dict[str, Any]], title: str) -> Any:
    from matplotlib.figure import Figure

    cells = sorted(cells, key=lambda cell: cell["frames"])
    lengths = range(len(cells))
    figure = Figure(figsize=(12, 6))
    axes = figure.add_subplot()
    both = [cell["pairs"]["both"] / max(1, cell["pairs"]["total"]) for cell in cells]
    axes.bar(lengths, both, width=0.5, color=COLOURS[2], label="both right")
    for label, (kind, form, colour, style) in LINES.items():
        shares = [cell[kind].get(form) for cell in cells]
        if not all(shares):
            continue
        scores = [share["score"] for share in shares]
        below = [max(0.0, share["score"] - share["low"]) for share in shares]
        above = [max(0.0, share["high"] - share["score"]) for share in shares]
        axes.errorbar(
            lengths, scores, (below, above), label=label, color=colour, linestyle=style, capsize=3,
            marker=".",
        )  # fmt: skip
    axes.set_xticks(lengths, [short(cell["frames"]) for cell in cells])
    axes.set_ylim(0, 1.02)
    axes.set_xlabel("Num. of Frames")
    axes.set_ylabel("Score, with its 95% interval")
    axes.set_title(title)
    axes.legend(loc="lower left", ncol=3)
    figure.tight_layout()
    return figure
