"""Accuracy against tokens, seconds and memory, a line for each way to drop; and what is left."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

from hico.bench.quality_methods import BASELINES, CLIPS, KINDS, WORDS
from hico.bench.quality_table import right
from hico.bench.record import Row
from hico.model.needle.plot import short
from hico.model.picture import save_picture

Draw = Callable[[Any], None]

MIB = 1 << 20
COLOURS = ("#4C78A8", "#E4A11B", "#54A24B", "#B279A2")
QUIET = "#9aa0a6"
MARKS = ("o", "s", "^", "D")
STYLES = ("-", "--", ":", "-.")
# of models: the ink of what they do to clips, the marks of what is left
INKS = ("black", "#b5483a", "#2f6f8f", "#6b8e23")
LEFT = (".", "*", "x", "P")
ACCURACY = "Right, with its 95% interval"
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
    """A matplotlib Figure: for each case and length accuracy against what it costs.

    Beside it what is left of the needles, and accuracy by the length of sampled videos.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    panels = panels_of([row for row in rows if right(row)])
    wide = max([len(panel) for panel in panels.values()], default=1)
    figure = Figure(figsize=(5.2 * wide, 4.2 * max(1, len(panels))))
    for y, (title, drawn) in enumerate(panels.items()):
        for x, draw in enumerate(drawn):
            axes = figure.add_subplot(len(panels), wide, y * wide + x + 1)
            draw(axes)
            axes.set_title(title if x == 0 else "", fontsize=10, loc="left")
            axes.set_ylim(-0.02, 1.02)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=7)
    figure.tight_layout()
    return figure


def panels_of(rows: Sequence[Row]) -> dict[str, list[Draw]]:
    """The title of each row of plots, and what draws them: all models of a case stand together."""
    found: dict[str, list[Draw]] = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        own = [row for row in rows if row["case"] == case]
        sampled = [row for row in own if "sampling" in row["levels"]]
        rest = [row for row in own if "sampling" not in row["levels"]]
        title = f"{', '.join(models(sampled))}: {case}, frames sampled"
        for frames in dict.fromkeys(row["frames"] for row in reversed(rest)):
            some = [row for row in rest if row["frames"] == frames]
            title = f"{', '.join(models(some))}: {case}, {frames:,} frames"
            costs = [name for name, of in AXES.items() if any(of(row) is not None for row in some)]
            found[title] = [partial(tradeoff, rows=some, name=name) for name in costs]
            found[title].append(partial(survival, rows=some))
        if sampled:
            found.setdefault(title, []).append(partial(lengths, rows=sampled))
    return found


def models(rows: Sequence[Row]) -> list[str]:
    """Their names."""
    return list(dict.fromkeys(row["model"] for row in rows))


def by_model(rows: Sequence[Row]) -> Iterator[tuple[int, str, list[Row]]]:
    """Each model's number, what its labels end with where there are several, and its rows."""
    names = models(rows)
    for number, name in enumerate(names):
        told = f" ({name})" if len(names) > 1 else ""
        yield number, told, [row for row in rows if row["model"] == name]


def tradeoff(axes: Any, rows: Sequence[Row], name: str) -> None:
    """Accuracy against a cost: clip modes as points, and a line for each kind of dropping."""
    of = AXES[name]
    for number, told, own in by_model(rows):
        style, ink = STYLES[number % len(STYLES)], INKS[number % len(INKS)]
        for kind, colour in zip(KINDS, COLOURS, strict=True):
            points = [r for r in own if "video" in r["levels"] and kind_of(r) in (None, kind)]
            if any(kind_of(r) for r in points):
                curve(axes, points, of, WORDS.get(kind, kind) + told, colour, style)
        for mark, (mode, label) in zip(MARKS, CLIPS.items(), strict=True):
            points = [r for r in own if "clip" in r["levels"] and method(r)["clip"] == mode]
            curve(axes, points, of, label + told, ink, "none", mark)
    for style, label in zip(STYLES[1:], BASELINES.values(), strict=True):
        for row in (r for r in rows if r["provider"] == label):
            axes.axhline(row["accuracy"], color=QUIET, linestyle=style, label=label)
    plain_log(axes)
    axes.set_xlabel(name)
    axes.set_ylabel(ACCURACY)


def lengths(axes: Any, rows: Sequence[Row]) -> None:
    """Accuracy by the length of the video, for each way to sample."""
    names = dict.fromkeys(row["provider"] for row in rows)
    for name, colour in zip(names, cycle(COLOURS), strict=False):
        own = [row for row in rows if row["provider"] == name]
        curve(axes, own, lambda row: row["frames"], name, colour)
    axes.set_xscale("log")
    ticks = sorted({row["frames"] for row in rows})
    axes.set_xticks(ticks, [short(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("Frames of the video, one a second")
    axes.set_ylabel(ACCURACY)


def survival(axes: Any, rows: Sequence[Row]) -> None:
    """What is left of each hop's needle in the last layer, by the share of tokens that is left."""
    for number, told, every in by_model(rows):
        mark = LEFT[number % len(LEFT)]
        for kind, colour in zip(KINDS, COLOURS, strict=True):
            own = sorted((r for r in every if kind_of(r) == kind), key=lambda r: method(r)["keep"])
            shares = [method(row)["keep"] for row in own]
            hops = zip(*(row["survival"][-1]["hops"] for row in own), strict=False)
            for hop, (style, left) in enumerate(zip(cycle(STYLES), hops, strict=False), 1):
                label = f"{WORDS.get(kind, kind)}, hop {hop}{told}"
                axes.plot(shares, left, mark + style, color=colour, label=label)
    plain_log(axes)
    axes.set_xlabel("Share of all tokens left in the last layer")
    axes.set_ylabel("Share of the needles' tokens left")


def plain_log(axes: Any) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")


def curve(
    axes: Any,
    rows: Sequence[Row],
    of: Callable[[Row], float | None],
    label: str,
    colour: str,
    style: str = "-",
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
