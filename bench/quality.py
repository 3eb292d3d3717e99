"""`python -m hico.bench quality`: what compression costs a trained model in accuracy.

Synthetic worlds of the split that training never shows, asked for a letter, every method the same
questions. Clip level: hico's merge, averaging, dropped frames, and no merge. Video level: tokens
dropped evenly, at random, by attention, evenly then by attention, and none. Sampling: the reader's
rule by duration against fixed counts, over several lengths. Baselines: blind, one frame, 64 frames.
Several models go side by side. A run goes on where one with equal arguments ended.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hico.bench import quality_table, record
from hico.bench.quality_measure import CLIP, Subject, measure
from hico.bench.quality_methods import LEVELS, Method, dropout_of, methods_of
from hico.bench.quality_tally import key_of, newest, row_of, settled, tally_of
from hico.bench.record import Row
from hico.model.needle.command import PROMPTS, check_folder, check_model, default_cache
from hico.model.needle.grid import check_count, depths, frame_counts, numbers
from hico.model.needle.worlds import KINDS, WorldTask
from hico.model.options import DTYPES
from hico.model.picture import check_output, require_matplotlib

RESULTS = record.RESULTS / "quality.jsonl"
RATIOS = "1,0.75,0.5,0.25,0.1,0.05,0.02"
LENGTHS = "128,256,512,1024,2048"


@dataclass(frozen=True)
class Cell:
    """One row to be: a model, a task, a length and a method."""

    subject: Subject
    task: WorldTask
    frames: int
    method: Method

    @property
    def settings(self) -> Row:
        """All that its outcomes depend on."""
        method, subject = self.method, self.subject
        dropout = dropout_of(subject.model, method)
        told: Row = {"frames": self.frames, "method": method.settings()}
        if method.sample == "adaptive":
            told["adaptive"] = [subject.least, subject.most]
        if dropout is not None:  # its seed is the film's number
            told["dropout"] = {"layers": list(dropout.layers), "ratios": list(dropout.ratios)}
        return subject.settings() | self.task.settings() | told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("--model", action="append", metavar="NAME=DIR",
        help="a folder, its model's name; again for another (hico-tiny, which ships)")  # fmt: skip
    add("--case", default=",".join(KINDS), help="of worlds (%(default)s)")
    add("--levels", default=",".join(LEVELS), help="(%(default)s)")
    add("--frames", default="1000", metavar="GRID", help="of a video (%(default)s)")
    add("--lengths", default=LENGTHS, metavar="GRID", help="of videos for sampling (%(default)s)")
    add("--fixed", default="64,256", metavar="GRID", help="fixed counts of frames (%(default)s)")
    add("--adaptive", default="64,512", metavar="LEAST,MOST",
        help="frames that the adaptive rule takes (%(default)s)")  # fmt: skip
    add("--ratios", default=RATIOS, metavar="GRID",
        help="shares of visual tokens left in the last layer (%(default)s)")  # fmt: skip
    add("--only", metavar="NAMES", help="of the methods of these levels, as the table calls them")
    add("--questions", type=int, default=600, metavar="N", help="a row (%(default)s)")
    add("--depths", default="0:1:0.2", metavar="GRID", help="of single needles (%(default)s)")
    add("--hops", type=int, default=3, metavar="N", help="cards of a chain (%(default)s)")
    add("--card", choices=("turned", "static", "mixed"), default="turned", help="(%(default)s)")
    add("--haystack", default="natural", help="natural or shipped (%(default)s)")
    add("--split", choices=("test", "train"), default="test", help="(%(default)s)")
    add("--seed", type=int, default=0, metavar="S", help="(%(default)s)")
    add("--prompt", choices=PROMPTS, default="ask", help="(%(default)s)")
    add("--budget", type=float, default=540.0, metavar="SECONDS",
        help="no new video after so many; run again to go on (%(default)s)")  # fmt: skip
    add("--cache", type=Path, metavar="DIR", help="features (default: ~/.cache/hico/needle)")
    add("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="(default: bfloat16 on a GPU, float32 on a CPU)")
    add("--out", type=Path, help=f"JSON lines to go on with and append to ({RESULTS})")
    add("--png", type=Path, metavar="F", help="a plot of the rows")
    add("--show", action="store_true", help="measure nothing: table and plot of what --out has")


def run(args: argparse.Namespace) -> int:
    """0, or 1 if something failed or the budget was spent before all was measured."""
    if args.show:
        check_png(args.png)
        found = list(newest(args.out or RESULTS).values())
        show(quality_table.newest_models(found), args.png)
        return 0
    started = time.perf_counter()
    plan = planned(args)
    check_png(args.png)
    check_folder("--cache", args.cache or default_cache())
    out = args.out or RESULTS
    check_folder("--out", out.parent)
    if out.parent.is_dir():
        check_output(out, (out.suffix.lower(),))
    subjects = [opened(name, folder, args) for name, folder in models_of(args.model)]
    cells = [
        Cell(subject, task, frames, method) for subject in subjects for task, frames, method in plan
    ]
    rows: list[Row] = []
    for row in measured_rows(cells, out, started + args.budget):
        rows.append(row)
        print(quality_table.line(row), flush=True)
    show(rows, args.png)
    print(f"rows in {out}")
    left = len(cells) - sum(settled(row) for row in rows)
    if left:
        print(f"{left} of {len(cells)} rows are not complete: run again to go on")
    return int(left > 0)


def check_png(path: Path | None) -> None:
    """Raises ValueError, OSError or ModuleNotFoundError where no plot can be drawn and written."""
    if path is not None:
        check_output(path)
        require_matplotlib()


def show(rows: list[Row], png: Path | None) -> None:
    """The table on stdout, and the plot."""
    print(quality_table.table(rows))
    for told in quality_table.both_levels(rows):
        print(told)
    if png is not None and rows:
        from hico.bench.quality_plot import save

        save(rows, png)


def planned(args: argparse.Namespace) -> list[tuple[WorldTask, int, Method]]:
    """Everything to measure for each model, once what can be wrong without one is looked at.

    Raises:
        ValueError: an argument out of range.
    """
    for name, least in (("questions", 1), ("seed", 0), ("hops", 1)):
        check_count(f"--{name}", getattr(args, name), least)
    levels, cases = chosen("levels", args.levels, LEVELS), chosen("case", args.case, KINDS)
    ratios = numbers("--ratios", args.ratios)
    if not all(0 < ratio <= 1 for ratio in ratios):
        raise ValueError(f"--ratios: expected them above 0, at most 1, got {args.ratios}")
    bounds(args)
    fixed = frame_counts(args.fixed, CLIP)
    found: dict[tuple[WorldTask, int, Method], None] = {}
    for case in cases:
        task = task_of(case, args)
        for level in levels:
            lengths = frame_counts(args.lengths if level == "sampling" else args.frames, CLIP)
            task.check(lengths)
            for frames in lengths:
                for method in methods_of(level, ratios, fixed):
                    found[task, frames, method] = None
    if args.only is None:
        return list(found)
    names = list(dict.fromkeys(method.name for *_, method in found))
    wanted = chosen("only", args.only, tuple(names))
    return [one for one in found if one[2].name in wanted]


def chosen(name: str, text: str, known: tuple[str, ...]) -> list[str]:
    """Words between commas, all of them known ones."""
    words = [word.strip() for word in text.split(",")]
    if not set(words) <= set(known):
        raise ValueError(f"--{name}: expected some of {', '.join(known)}, got {text}")
    return words


def bounds(args: argparse.Namespace) -> tuple[int, int]:
    """Fewest and most frames of the adaptive rule."""
    found = numbers("--adaptive", args.adaptive)
    if len(found) != 2 or not CLIP <= found[0] <= found[1] or any(n % CLIP for n in found):
        raise ValueError(f"--adaptive: expected LEAST,MOST, multiples of 4, got {args.adaptive}")
    return int(found[0]), int(found[1])


def task_of(case: str, args: argparse.Namespace) -> WorldTask:
    """The worlds of a case, with about as many questions as asked for."""
    places = depths(args.depths) if case == "needle" else ()
    each = -(-args.questions // (len(places) or 2))  # a chain is asked twice
    names = ("seed", "split", "card", "hops", "haystack")
    return WorldTask(case, each, places, **{name: getattr(args, name) for name in names})


def models_of(given: list[str] | None) -> list[tuple[str, str | None]]:
    """(name, folder) of each --model; hico-tiny if there is none.

    >>> from hico.bench.quality import models_of
    >>> models_of(["long=a/b"]), models_of(None)
    ([('long', 'a/b')], [('hico-tiny', None)])
    """
    found: dict[str, str | None] = {}
    for text in given or []:
        name, _, folder = text.partition("=")
        if not name or not folder or name in found:
            raise ValueError(f"--model: expected NAME=DIR, each name once, got {text!r}")
        found[name] = folder
    return list(found.items()) or [("hico-tiny", None)]


def opened(name: str, folder: str | None, args: argparse.Namespace) -> Subject:
    """The model of a folder, None = hico-tiny, ready to be asked."""
    from hico.model.load import load_model

    dtype = None if args.dtype is None else DTYPES[args.dtype]
    model, processor = load_model(folder, args.device, dtype)
    check_model(model, processor)
    cache = args.cache or default_cache()
    return Subject(name, model, processor, cache, args.prompt, *bounds(args))


def measured_rows(cells: list[Cell], out: Path, until: float) -> Iterator[Row]:
    """A row for each cell: of the file where it has one, else measured and appended to it."""
    known = newest(out) if out.exists() else {}
    common: dict[torch.device, Row] = {}
    for cell in cells:
        before = known.get(key_of(cell.settings))
        if before is not None and settled(before):
            yield before | {"model": cell.subject.name}
            continue
        device = cell.subject.model.device
        if device not in common:
            common[device] = record.environment(device)
        row, ended = None, False
        if time.perf_counter() <= until:
            row, ended = measured_row(cell, before, until)
        if row is not None:
            row |= common[device]
            record.append(out, row)
        if ended:
            raise KeyboardInterrupt
        if row is None and before is not None:
            row = before | {"model": cell.subject.name}
        if row is not None:
            yield row


def measured_row(cell: Cell, before: Row | None, until: float) -> tuple[Row | None, bool]:
    """What is found out about a cell before the time is up or Ctrl-C; and if that was pressed.

    The row is None where nothing is new.
    """
    subject, method, task = cell.subject, cell.method, cell.task
    row = told(cell)
    refused = subject.too_long(method, cell.frames)
    if refused is not None:
        return row | {"error": refused, "skipped": True}, False
    tally, ended = tally_of(before), False
    known, total = tally.films, task.count(task.cells(cell.frames))
    title = f"{task.kind} {cell.frames:,} {method.name}"
    look: dict[str, Any] = {"unit": "question", "leave": False, "disable": not sys.stderr.isatty()}
    try:
        with tqdm(None, title, total, initial=tally.count, **look) as bar:
            measure(subject, task, cell.frames, method, tally, until, bar.update)
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        return row | {"error": record.one_line(error)}, False
    except KeyboardInterrupt:
        ended = True
    if tally.films == known and not tally.complete:
        return None, ended
    clips = tally.frames // CLIP
    encoding = None if method.baseline else subject.encoding(method.clip, clips)
    return row | row_of(tally, subject.depth, encoding), ended


def told(cell: Cell) -> Row:
    """What a row says before anything is measured."""
    return {
        "suite": "quality", "kind": "quality", "case": cell.task.kind,
        "provider": cell.method.name, "levels": list(cell.method.levels),
        "model": cell.subject.name, "frames": cell.frames, "settings": cell.settings,
        "transformers": record.version("transformers"), "quick": False,
        "complete": False, "error": None,
    }  # fmt: skip
