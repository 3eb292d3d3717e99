"""`hico build`: long-video training rows from videos whose events are annotated."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from . import events
from .building import TASKS, Recipe, build_all, is_held_out
from .output import Outputs
from .statistics import PARTS, Tally, table

FILES = ["train.jsonl", "val.jsonl", "statistics.json", "data.yaml"]
WHAT = f"""
{(events.__doc__ or "").strip()}

tasks:
  ordering   events clearly apart: which order is right, which is first or last
  grounding  when does it happen? answered with a range of seconds
  counting   how many times? captions that repeat, or one action with several objects
  dense      all events with their times
  needle     one short event of a long video, its neighbours as wrong options
  choice     what happens then, or when does this happen; wrong are other events of the video

What has not exactly one right answer is not asked: see statistics.json for how often, and why.

written to DIR: train.jsonl and val.jsonl in the published annotation format, data.yaml (which
`hico train` reads), statistics.json. A file that is there already is replaced.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico build`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = WHAT
    recipe, add = Recipe(), parser.add_argument
    add("events", type=Path, help="annotated events, JSONL (form below)")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for the rows")
    add("--tasks", metavar="A,B,...", help=f"some of {','.join(TASKS)} (default: all)")
    add(
        "--per-video",
        type=int,
        default=recipe.per_video,
        metavar="N",
        help="at most N rows of a task for one video (default: %(default)s)",
    )
    add("--seed", type=int, default=recipe.seed, metavar="S", help="(default: %(default)s)")
    add(
        "--split",
        type=float,
        default=0.02,
        metavar="P",
        help="share of the videos that is held out as val.jsonl (default: %(default)s)",
    )
    add(
        "--check-videos",
        type=Path,
        metavar="ROOT",
        help="open every video below this folder: one that is missing or broken makes its rows "
        "bad, and its real duration counts; the folder goes into data.yaml",
    )
    add(
        "--on-bad",
        choices=("raise", "skip"),
        default="raise",
        help="at a bad row stop, or leave it out and list it (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Build the rows, write them and print the statistics; 0 on success.

    Raises:
        ValueError: an argument out of range, a bad row, or nothing to train on.
        OSError: a file or folder cannot be read or written.
    """
    tasks = args.tasks.split(",") if args.tasks is not None else TASKS
    recipe = Recipe(tuple(tasks), args.per_video, args.seed)
    if not 0 <= args.split < 1:
        raise ValueError(f"--split: expected 0 to less than 1, got {args.split}")
    if args.events.resolve() in [(args.output / name).resolve() for name in FILES]:
        raise ValueError(f"{args.events}: it would be replaced by what is written")
    measure = None
    if args.check_videos is not None:
        measure = _Measure(args.check_videos)
    reading = events.read_events(args.events, args.on_bad, measure)
    tally = Tally(recipe)
    with Outputs(args.output, FILES) as outputs:
        _write_rows(outputs, reading, tally, args)
        report = tally.report(reading)
        json.dump(report, outputs.open("statistics.json"), indent=2, ensure_ascii=False)
        text = yaml.safe_dump(_data(args), sort_keys=False, allow_unicode=True)
        outputs.open("data.yaml").write(text)
    print(table(report))
    if args.check_videos is None:
        print("data.yaml: set data_root to the folder of the videos", file=sys.stderr)
    return 0


def _write_rows(
    outputs: Outputs, reading: events.Reading, tally: Tally, args: argparse.Namespace
) -> None:
    files: dict[str, Any] = {}
    all_built = build_all(reading.videos, tally.recipe)
    hidden = not sys.stderr.isatty()
    for built in tqdm(all_built, "videos", len(reading.videos), unit="video", disable=hidden):
        part = PARTS[is_held_out(built.video, args.split, args.seed)]
        tally.add(built, part)
        if built.rows and part not in files:
            files[part] = outputs.open(f"{part}.jsonl")
        for _, _, row in built.rows:
            files[part].write(json.dumps(row, ensure_ascii=False) + "\n")
    if "train" not in files:
        counts = f"{len(reading.videos)} videos, {tally.videos['val']} of them held out with rows"
        raise ValueError(f"{args.events}: no question to train on can be asked of {counts}")


def _data(args: argparse.Namespace) -> dict[str, Any]:
    """The data description, in the published form."""
    root = args.check_videos
    return {
        "datasets": [
            {
                "json_path": os.path.abspath(args.output / "train.jsonl"),
                "data_root": "" if root is None else os.path.abspath(root),
                "media_type": "video",
                "sampling_strategy": "all",
            }
        ]
    }


class _Measure:
    """The duration of a video below `root`, read from the file itself."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise FileNotFoundError(f"--check-videos: {root} is not a folder")
        self.root = root

    def __call__(self, video: str) -> float:
        from hico.model.video import open_video

        with open_video(self.root / video) as opened:
            return opened.duration
