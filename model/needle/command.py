"""`hico needle`: how well a model finds needles, by the number of frames and their depth."""

from __future__ import annotations

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from ..options import add_model_options, model_of
from ..picture import check_output, require_matplotlib
from . import grid
from .worlds import KINDS, SOURCES, WorldTask

CLIP, TOKENS = 4, 64
PROMPTS = ("published", "ask")
WHAT = """
With --world the videos are synthetic, of the split that training never shows. With --data they are
made of a published question file: its images as needles between the frames of --haystack.

The letter is the model's first token behind "Best option: (". In words (free) a question comes
without options, where there are such, and an answer is right if it is the same but for case, outer
punctuation and spaces. Chains are also told step by step.

Commands with --resume may share one --json at a time, of other --frames each: a small model leaves
a GPU idle for most of the time, and several GPUs take a part each. Then one of all draws them.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico needle`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = WHAT
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", type=Path, metavar="FILE|DIR", help="published questions, JSON")
    source.add_argument("--world", choices=KINDS, help="one card, or a chain of cards")
    add("--images", type=Path, metavar="DIR", help="where the images of --data are (beside it)")
    add("--frames", default="1000:10000:1000", metavar="GRID", help="(default: %(default)s)")
    add("--depths", default="0:1:0.2", metavar="GRID", help="of single needles (%(default)s)")
    add(
        "--needles",
        type=int,
        metavar="N",
        help="questions or chains a cell (default: 200; of --data, all rows)",
    )
    add(
        "--haystack",
        default="natural",
        metavar="WHAT",
        help="natural, shipped, a folder of videos or, with --data, one video (%(default)s)",
    )
    add("--seed", type=int, default=0, metavar="S", help="of worlds and haystack (0)")
    add("--split", choices=("test", "train"), default="test", help="of worlds (test)")
    add("--card", choices=("turned", "static", "mixed"), default="turned", help="(turned)")
    add("--hops", type=int, default=3, metavar="N", help="cards of a chain (3)")
    add("--source", choices=SOURCES, default="features", help="what worlds are run from (features)")
    add("--prompt", choices=PROMPTS, help="(default: published for --data, ask for --world)")
    add("--free", type=int, metavar="N", help="of a cell, also answer N in words (default: all)")
    add(
        "--baselines",
        type=int,
        nargs="?",
        const=True,
        default=False,
        metavar="N",
        help="also blind, one frame, and 64 uniform frames; of a cell, N questions",
    )
    add("--json", type=Path, metavar="F", help="results, written whenever a cell is done")
    add("--png", type=Path, metavar="F", help="a heat map, or of chains a plot")
    add("--resume", action="store_true", help="leave out the cells that --json has; see below")
    add("--cache", type=Path, metavar="DIR", help="features (default: ~/.cache/hico/needle)")
    add("--time", action="store_true", help="print the seconds of each stage, on stderr")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the grid, write what was asked for, and print the scores; 0 on success.

    Raises:
        ValueError, OSError: an argument out of range, or a file that cannot be read or written.
        ModuleNotFoundError: a package that is asked for is not installed.
    """
    frames, task = _checked(args)
    none = args.dropout == "none"
    args.dropout = None if none else args.dropout
    model, processor, dropout = model_of(args)
    from .answering import Answerer
    from .features import Store, fingerprint
    from .haystacks import open_haystack
    from .running import run_cells
    from .timing import Clock

    check_model(model, processor)
    model._note_length(max(frames) * TOKENS // CLIP + TOKENS)
    clock = Clock(model.device)
    with clock("weights' hash"):
        store = Store(args.cache or default_cache(), model, clock)
        weights = fingerprint(model)
    prompt = args.prompt or PROMPTS[args.world is not None]
    answerer = Answerer(model, processor, None if none else dropout, prompt, clock)
    hay = open_haystack(task.haystack, task.haystack_seed, task.split, store)
    record = _record(args, task, answerer, weights)
    progress = sys.stderr.isatty()
    few = math.inf if args.baselines is True else args.baselines
    run_cells(task, answerer, hay, store, record, frames, args.free, few, progress)
    _finish(args, task, frames, record)
    if args.time:
        print(clock.table(), file=sys.stderr)
    return 0


def _finish(args: argparse.Namespace, task: Any, frames: tuple[int, ...], record: Any) -> None:
    """The table, and the picture, of the cells that were asked for."""
    from .plot import save
    from .report import table

    wanted = [place for group in task.groups(frames) for place in group]
    cells = [record.cells[place] for place in wanted]
    print(table(cells))
    if args.png is not None:
        save(cells, args.png, f"{args.model or 'hico-tiny'}: {args.world or args.data.name}")


def _checked(args: argparse.Namespace) -> tuple[tuple[int, ...], Any]:
    """The lengths and the task, once all that can be wrong without a model has been looked at."""
    from .haystacks import check_haystack
    from .published import PublishedTask

    frames, depths = grid.frame_counts(args.frames, CLIP), grid.depths(args.depths)
    for name, least in (("needles", 1), ("free", 0), ("baselines", 0), ("seed", 0)):
        grid.check_count(f"--{name}", getattr(args, name), least)
    if args.resume and args.json is None:
        raise ValueError("--resume: expected --json with the file to go on with, got none")
    for path, kind in ((args.json, ".json"), (args.png, ".png")):
        if path is not None:
            check_output(path, (kind,))
    if args.png is not None:
        require_matplotlib()
    check_folder("--cache", args.cache or default_cache())
    check_haystack(args.haystack, single=args.data is not None)
    task: Any
    if args.data is not None:
        more = {"haystack": args.haystack, "haystack_seed": args.seed, "split": args.split}
        if args.source != SOURCES[0]:
            raise ValueError(f"--source: expected it with --world alone, got {args.source}")
        task = PublishedTask.open(args.data, args.images, depths, args.needles, **more)
    else:
        if args.images is not None:
            raise ValueError(f"--images: expected it with --data alone, got {args.images}")
        names = ("seed", "split", "card", "hops", "haystack", "source")
        given = {name: getattr(args, name) for name in names}
        single = args.world == "needle"
        task = WorldTask(args.world, args.needles or 200, depths if single else (), **given)
    task.check(frames)
    return frames, task


def check_model(model: Any, processor: Any) -> None:
    """Raises ValueError for a model whose clips or letters a needle test cannot do with."""
    sizes = model.encoder.num_frames, model.model.mm_projector.tokens_per_clip
    if sizes != (CLIP, TOKENS):
        raise ValueError(
            f"model: expected clips of {CLIP} frames and {TOKENS} tokens, got {sizes[0]} frames "
            f"and {sizes[1]} tokens"
        )
    count = len(processor.tokenizer("A", add_special_tokens=False)["input_ids"])
    if count != 1:
        raise ValueError(f"model: expected a tokenizer with a token for A, got {count} tokens")


def _record(args: argparse.Namespace, task: Any, answerer: Any, weights: str) -> Any:
    from hico.bench.record import environment, version

    from .record import Record

    model, dropout = answerer.model, answerer.dropout
    settings = task.settings() | {
        "weights": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "dropout": {
            "layers": list(dropout.layers),
            "ratios": list(dropout.ratios),
            "kind": dropout.kind,
        },
        "prompt": answerer.prompt,
        "free": args.free,
        "baselines": args.baselines,
    }
    facts = {"model": args.model, "transformers": version("transformers")}
    return Record(args.json, settings, environment(model.device) | facts, args.resume)


def check_folder(name: str, folder: Path) -> None:
    """Raises NotADirectoryError where a file is in the way of a folder that is yet to be made."""
    there = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    if there.exists() and not there.is_dir():
        raise NotADirectoryError(f"{name}: expected a folder, got {folder}: {there} is a file")


def default_cache() -> Path:
    """Where features are kept if nothing else is said."""
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "hico" / "needle"
