"""Results of a needle test: what a cell came to, and the file that gathers all cells."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Any

from ..training.worlds.write import replacing
from .asking import Ask, Cell
from .grid import share_of

SHARED = (
    "the features of the haystack and of every needle are encoded once and read from the cache; "
    "all questions of one video, in all forms, share its prefill as far as no question has a say "
    "in it, that is up to the first drop that ranks by attention, and in the worlds all depths of "
    "one length are asked of the same videos; videos share no prefill"
)
PAIRS = {(True, True): "both", (True, False): "only_caption", (False, True): "only_qa"}
EACH = 20.0  # seconds between two writings of cells that are not done


class Tally:
    """Outcomes of one cell's questions.

    Args:
        begun: what a tally of this cell said of itself, to go on from.

    Attributes:
        films: videos that have been asked everything.
    """

    def __init__(
        self, cell: Cell, stages: Sequence[dict[str, float]], begun: dict[str, Any] | None = None
    ) -> None:
        self.cell, self.stages = cell, stages
        self.outcomes: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
        self._kept: dict[tuple[int, int], list[float]] = defaultdict(list)
        self.films = 0
        if begun is not None:
            self.films = begun["films"]
            for kind, forms in begun["outcomes"].items():
                for form, said in forms.items():
                    self.outcomes[kind][form] = [one == "1" for one in said]
            for stage, hop, shares in begun["left"]:
                self._kept[stage, hop] = list(shares)

    def begun(self) -> dict[str, Any]:
        """All that is needed to go on, as it is written down."""
        return _named(self.cell) | {
            "films": self.films,
            "outcomes": {
                kind: {form: "".join("01"[one] for one in said) for form, said in forms.items()}
                for kind, forms in self.outcomes.items()
            },
            "left": [[*place, [round(x, 6) for x in kept]] for place, kept in self._kept.items()],
        }

    def add(self, ask: Ask, form: str, right: bool) -> None:
        """One more outcome; questions come in the order of their numbers."""
        self.outcomes[ask.kind][form].append(right)

    def survived(self, shares: Sequence[Sequence[float]]) -> None:
        """What each stage left of each hop's needle."""
        for stage, hops in enumerate(shares):
            for hop, share in enumerate(hops):
                self._kept[stage, hop].append(share)

    def result(self) -> dict[str, Any]:
        """The cell as it is written down."""
        found = _named(self.cell)
        for kind, forms in self.outcomes.items():
            found[kind] = {form: share_of(right) for form, right in forms.items()}
        if "caption" in self.outcomes:
            letters = (self.outcomes[kind]["letter"] for kind in ("caption", "qa"))
            found["pairs"] = pairs_of(*letters)
        if self._kept:
            found["survival"] = [
                stage | {"hops": self._means(number)} for number, stage in enumerate(self.stages)
            ]
        return found

    def _means(self, stage: int) -> list[float]:
        hops = sorted(hop for at, hop in self._kept if at == stage)
        return [round(mean(self._kept[stage, hop]), 6) for hop in hops]


def pairs_of(caption: Sequence[bool], qa: Sequence[bool]) -> dict[str, float | int]:
    """How often both questions of a chain came out, only one, or neither.

    >>> from hico.model.needle.record import pairs_of
    >>> pairs_of([True, True], [True, False])["only_caption"]
    1
    """
    counts = {name: 0 for name in (*PAIRS.values(), "neither")}
    for pair in zip(caption, qa, strict=True):
        counts[PAIRS.get((bool(pair[0]), bool(pair[1])), "neither")] += 1
    score = (sum(caption) + sum(qa)) / (2 * len(caption)) if caption else 0.0
    return {"score": score, "total": len(caption)} | counts


class Record:
    """Cells that are done or begun, and their file; None = they are kept in memory alone.

    Several processes may go on with one file at a time, of other cells each.

    Args:
        settings: all that a cell depends on besides its place in the grid.
        run: where and when cells that are added were measured.
        resume: go on with the cells of the file.

    Raises:
        ValueError: resume with a file of other settings, or that is none of these.
    """

    def __init__(
        self, path: Path | None, settings: dict[str, Any], run: dict[str, Any], resume: bool = False
    ) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.cells: dict[Cell, dict[str, Any]] = {}
        self.begun: dict[Cell, dict[str, Any]] = {}  # as the file has them
        self._own: dict[Cell, dict[str, Any]] = {}  # those that this run has begun or gone on with
        self._kept_at = time.monotonic()
        self.runs, self.resume = [run], resume
        self._written: dict[str, Any] | None = None  # the run as the file has it
        if path is not None:
            self._read(path)

    def add(self, cells: Sequence[dict[str, Any]], seconds: dict[str, float]) -> None:
        """Cells that are done go to the file, whole or not at all.

        Args:
            seconds: what this run's stages have taken by now.
        """
        for cell in cells:
            self.cells[_place(cell)] = cell | {"run": self.runs[-1].get("run")}
        self._write(seconds)

    def tallies(self, cells: Sequence[Cell], stages: Sequence[dict[str, float]]) -> list[Tally]:
        """Those of cells that share their videos, to be gone on with where all are begun alike."""
        begun = [self.begun.get(cell) for cell in cells]
        if len({one and one["films"] for one in begun}) > 1:
            begun = [None] * len(cells)
        return [Tally(cell, stages, one) for cell, one in zip(cells, begun, strict=True)]

    def keep(self, tallies: Sequence[Tally], seconds: dict[str, float]) -> None:
        """Cells that are not done go to the file too, every 20 seconds; between two videos."""
        if self.path is None or time.monotonic() < self._kept_at + EACH:
            return
        self._own |= {tally.cell: tally.begun() for tally in tallies}
        self._write(seconds)

    def _write(self, seconds: dict[str, float]) -> None:
        self._kept_at = time.monotonic()
        self.runs[-1]["seconds"] = {name: round(value, 3) for name, value in seconds.items()}
        if self.path is not None:
            with _alone(self.path.parent):
                self._read(self.path)
                with replacing(self.path) as file:
                    file.write((json.dumps(self.content(), indent=1) + "\n").encode())
            self._written = json.loads(json.dumps(self.runs[-1]))
            self.resume = True  # the file is this run's now, if it was not

    def content(self) -> dict[str, Any]:
        """All that the file says."""
        about = {"settings": self.settings, "runs": self.runs, "shared": SHARED}
        begun = self.begun | self._own
        left = [begun[place] for place in sorted(begun.keys() - self.cells.keys(), key=_order)]
        return about | _told(self.cells) | ({"begun": left} if left else {})

    def _read(self, path: Path) -> None:
        """Takes over the cells and runs of the file that others have written."""
        if not self.resume or not path.exists():
            return
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            for name, kind in {"settings": dict, "cells": list, "runs": list}.items():
                if not isinstance(found[name], kind):
                    raise TypeError(f"{name} is no {kind.__name__}")
            settings, runs = found["settings"], found["runs"]
            places = {_place(cell): cell for cell in found["cells"]}
            if not all(isinstance(frames, int) for frames, _ in places):
                raise TypeError("frames is no int")
            _told(places)  # what cannot be told again is no cell
            begun = {_place(one): one for one in found.get("begun", [])}
            for place, one in begun.items():
                Tally(place, [], one)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}: expected results of a needle test ({error!r})") from error
        if settings != self.settings:
            names = sorted(settings.keys() | self.settings.keys())
            other = [n for n in names if settings.get(n) != self.settings.get(n)]
            raise ValueError(
                f"{path}: expected results of these settings to resume, got others in "
                f"{', '.join(f'{n} ({settings.get(n)!r})' for n in other)}"
            )
        self.cells = places | self.cells
        self.begun = begun
        self.runs = [*(run for run in runs if run != self._written), self.runs[-1]]


def _told(cells: dict[Cell, dict[str, Any]]) -> dict[str, Any]:
    """Cells in order, and what they come to."""
    ordered = [cells[place] for place in sorted(cells, key=_order)]
    return {
        "averages": averages(ordered),
        "all_accuracies": [accuracy(cell) for cell in ordered],
        "cells": ordered,
    }


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process is in such a block for the folder meanwhile."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def averages(cells: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, Any]]]:
    """For each kind of question and form: the mean over cells, the lowest cell, and all in one."""
    kept: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for cell in cells:
        for kind in (kind for kind in ("needle", "caption", "qa") if kind in cell):
            for form, share in cell[kind].items():
                kept.setdefault(kind, {}).setdefault(form, []).append(share)
    return {
        kind: {form: _average(shares) for form, shares in forms.items()}
        for kind, forms in kept.items()
    }


def _average(shares: Sequence[dict[str, Any]]) -> dict[str, Any]:
    pooled = share_of([outcome == "1" for share in shares for outcome in share["outcomes"]])
    scores = [share["score"] for share in shares]
    rest = {name: pooled[name] for name in ("low", "high", "right", "count")}
    return {"score": mean(scores), "lowest": min(scores), "pooled": pooled["score"]} | rest


def accuracy(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell under the names of the published all_accuracies.json; depth in whole tens of %."""
    found: dict[str, Any] = {"Num. Frame": cell["frames"]}
    if "depth" in cell:
        found["Frame Depth"] = round(cell["depth"] * 100, -1)
    if "needle" in cell:
        return found | {"Score": cell["needle"]["letter"]["score"]}
    pairs = cell["pairs"]
    return found | {
        "Score": pairs["score"],
        "Caption Score": cell["caption"]["letter"]["score"],
        "QA Score": cell["qa"]["letter"]["score"],
        "Total question pair": pairs["total"],
        "Both correct": pairs["both"],
        "Only cap correct": pairs["only_caption"],
        "Only qa correct": pairs["only_qa"],
        "Both wrong": pairs["neither"],
    }


def _named(cell: Cell) -> dict[str, Any]:
    frames, depth = cell
    return {"frames": frames} | ({} if depth is None else {"depth": depth})


def _place(cell: dict[str, Any]) -> Cell:
    return cell["frames"], cell.get("depth")


def _order(place: Cell) -> tuple[int, float]:
    return place[0], -1.0 if place[1] is None else place[1]
