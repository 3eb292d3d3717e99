"""Accuracy against tokens, seconds and memory, a line for each way to drop; and what is left."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hico.bench.quality_methods import BASELINES, CLIPS, KINDS, WORDS
from hico.bench.quality_table import right
from hico.bench.record import Row
from hico.model.needle.plot import short
from hico.model.picture import save_picture

MIB = 1 << 20
COLOURS = ("#4C78A8", "#E4A11B", "#54A24B", "#B279A2")
QUIET = "#9aa0a6"
MARKS = ("o", "s", "^", "D")
STYLES = ("-", "--", ":", "-.")
AXES: dict[str, Callable[[Row], float | None]] = {
    "Visual tokens a layer": lambda row: row["tokens_a_layer"],
    "Seconds, encoding to first token": lambda row: row["seconds"],
    "MiB above weights and cached features": lambda row: (
        None if row["above_bytes"] is None else row["above_bytes"] / MIB
    ),
}


def save(rows: Sequence[Row], path: Path) -> None:
    """picture as a PNG, written whole or not at all."""
    save_picture(picture(rows), path, dpi=100)


def picture(rows: Sequence[Row]) -> Any:
    """A matplotlib Figure: for each case and length a row of plots, see the titles of their axes.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    rows = [row for row in rows if right(row)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    panels = panels_of(rows)
    wide = max([len(panel) for panel in panels.values()], default=1)
    figure = Figure(figsize=(5.2 * wide, 4.2 * max(1, len(panels))))
    for y, (title, row_of_panels) in enumerate(panels.items()):
        for x, draw in enumerate(row_of_panels):
            axes = figure.add_subplot(len(panels), wide, y * wide + x + 1)
            draw(axes, models)
            axes.set_title(title if x == 0 else "", fontsize=10, loc="left")
            axes.set_ylim(-0.02, 1.02)
            if axes.get_legend_handles_labels()[0] and x not in (1, 2):  # as in the first
                axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def panels_of(rows: Sequence[Row]) -> dict[str, list[Callable[[Any, list[str]], None]]]:
    """The title of each row of plots, and what draws them."""
    found: dict[str, list[Callable[[Any, list[str]], None]]] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        of_case = [row for row in rows if row["case"] == case]
        for frames in dict.fromkeys(row["frames"] for row in of_case if of_levels(row)):
            some = [row for row in of_case if row["frames"] == frames and of_levels(row)]
            draws = [tradeoff(some, name, of) for name, of in AXES.items()]
            found[f"{case}, {frames:,} frames"] = [*draws, survival(some)]
        sampled = [row for row in of_case if not of_levels(row)]
        if sampled:
            first = next((title for title in found if title.startswith(f"{case},")), f"{case},")
            found.setdefault(first, []).append(lengths(sampled))
    return found


def of_levels(row: Row) -> bool:
    """Whether a row is one of those that are compared at one length."""
    return "sampling" not in row["levels"]


def tradeoff(
    rows: Sequence[Row], name: str, of: Callable[[Row], float | None]
) -> Callable[[Any, list[str]], None]:
    """Accuracy against a cost: clip modes as points, and a line for each kind of dropping."""

    def draw(axes: Any, models: list[str]) -> None:
        for style, model in zip(STYLES * len(models), models, strict=False):
            own = [row for row in rows if row["model"] == model]
            suffix = f", {model}" if len(models) > 1 else ""
            for kind, colour in zip(KINDS, COLOURS, strict=True):
                points = [r for r in own if "video" in r["levels"] and kind_of(r) in (None, kind)]
                if len(points) > 1:
                    label = WORDS.get(kind, kind) + suffix
                    curve(axes, points, of, label, colour, style)
            for mark, (mode, label) in zip(MARKS, CLIPS.items(), strict=True):
                points = [r for r in own if "clip" in r["levels"] and method(r)["clip"] == mode]
                curve(axes, points, of, label + suffix, "black", "none", mark)
            for style_of, label in zip((":", "-.", "--"), BASELINES.values(), strict=True):
                for row in (r for r in own if r["provider"] == label):
                    axes.axhline(
                        row["accuracy"], color=QUIET, linestyle=style_of, label=label + suffix
                    )
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.set_ylabel("Right, with its 95% interval")

    return draw


def lengths(rows: Sequence[Row]) -> Callable[[Any, list[str]], None]:
    """Accuracy by the length of the video, for each way to sample."""

    def draw(axes: Any, models: list[str]) -> None:
        names = list(dict.fromkeys(row["provider"] for row in rows))
        for style, model in zip(STYLES * len(models), models, strict=False):
            for name, colour in zip(names, COLOURS * len(names), strict=False):
                own = [r for r in rows if (r["model"], r["provider"]) == (model, name)]
                label = name + (f", {model}" if len(models) > 1 else "")
                curve(axes, own, lambda row: row["frames"], label, colour, style)
        axes.set_xscale("log")
        ticks = sorted({row["frames"] for row in rows})
        axes.set_xticks(ticks, [short(tick) for tick in ticks])
        axes.minorticks_off()
        axes.set_xlabel("Frames of the video, one a second")
        axes.set_ylabel("Right, with its 95% interval")

    return draw


def survival(rows: Sequence[Row]) -> Callable[[Any, list[str]], None]:
    """What is left of each hop's needle in the last layer, by the share of tokens that is left."""

    def draw(axes: Any, models: list[str]) -> None:
        for style, model in zip(STYLES * len(models), models, strict=False):
            for kind, colour in zip(KINDS, COLOURS, strict=True):
                own = [r for r in rows if r["model"] == model and kind_of(r) == kind]
                own.sort(key=lambda row: method(row)["keep"])
                shares = [method(row)["keep"] for row in own]
                hops = zip(*(row["survival"][-1]["hops"] for row in own), strict=False)
                for hop, (mark, left) in enumerate(zip(MARKS * 2, hops, strict=False), 1):
                    label = f"{WORDS.get(kind, kind)}, hop {hop}"
                    label += f", {model}" if len(models) > 1 else ""
                    axes.plot(shares, left, mark + style, color=colour, markersize=3, label=label)
        axes.set_xlabel("Share of all tokens left in the last layer")
        axes.set_ylabel("Share of the needles' tokens left")

    return draw


def curve(
    axes: Any,
    rows: Sequence[Row],
    of: Callable[[Row], float | None],
    label: str,
    colour: str,
    style: str,
    mark: str = ".",
) -> None:
    """Accuracies with their intervals, from the smallest cost to the largest."""
    costs = [(x, row) for row in rows for x in [of(row)] if x is not None]
    points = sorted(costs, key=lambda one: one[0])
    if not points:
        return
    scores = [row["accuracy"] for _, row in points]
    below = [row["accuracy"] - row["low"] for _, row in points]
    above = [row["high"] - row["accuracy"] for _, row in points]
    axes.errorbar(
        [x for x, _ in points], scores, (below, above), label=label, color=colour,
        linestyle=style, marker=mark, capsize=2,
    )  # fmt: skip


def method(row: Row) -> dict[str, Any]:
    """The fields of the row's Method."""
    return row["settings"]["method"]


def kind_of(row: Row) -> str | None:
    """Which tokens its layers leave."""
    return method(row)["kind"]
