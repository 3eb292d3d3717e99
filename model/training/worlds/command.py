"""`hico world`: synthetic videos with exact questions, written as mp4 and JSONL."""

import argparse
import sys
from collections import Counter
from pathlib import Path

from hico.model.training.collator import TOKENS

from .make import CARDS, KINDS
from .spec import FORMS, WorldSpec
from .splits import SPLITS
from .write import write_preview, write_worlds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico world`."""
    add = parser.add_argument
    add("kind", choices=KINDS, help="what is asked for")
    add("--seed", type=int, default=0, metavar="S", help="two seeds share no video (0)")
    add("--frames", type=_span, default=1000, metavar="N", help="of a video, or LOW:HIGH (1000)")
    add("--count", type=int, default=1, metavar="K", help="videos (1)")
    add("-o", "--out", type=Path, required=True, metavar="DIR", help="a new folder, or empty")
    add("--split", choices=SPLITS, default="train", help="test: what training never shows (train)")
    add("--size", type=int, default=224, metavar="PIXELS", help="of a side (224)")
    add("--fps", type=float, default=1.0, help="frames a second (1)")
    add(
        "--haystack",
        default="natural",
        metavar="natural|shipped|FOLDER",
        help="between the cards: drawn scenes, the shipped video, or a folder of them (natural)",
    )
    add("--questions", type=int, default=1, metavar="Q", help="of each video, at most (1)")
    add("--card", choices=CARDS, default="turned", help="one side at a time, or both (turned)")
    add("--cards", type=int, metavar="N", help="of each video (at least 33 where they fit)")
    add("--hops", type=_span, default=3, metavar="N", help="cards of a chain, or LOW:HIGH (3)")
    add("--density", type=float, default=0.5, help="largest share of frames with cards (0.5)")
    add("--form", choices=FORMS, default="options", help="of question and answer (options)")
    add("--device", default="cpu", help="where frames are drawn: cpu or cuda (cpu)")
    add("--preview", type=Path, metavar="PNG", help="also draw some frames of the first video")


def run(args: argparse.Namespace) -> int:
    """Write the videos and say what was written; 0 on success.

    Raises:
        ValueError, OSError: an argument out of range, or a folder that cannot be written to.
        ModuleNotFoundError: PyAV is not installed.
    """
    spec = WorldSpec(
        world=args.kind,
        seed=args.seed,
        frames=args.frames,
        count=args.count,
        split=args.split,
        questions=args.questions,
        form=args.form,
        card=args.card,
        cards=args.cards,
        hops=args.hops,
        density=args.density,
        haystack=args.haystack,
        fps=args.fps,
        device=args.device,
    )
    rows = write_worlds(spec, args.out, args.size, progress=sys.stderr.isatty())
    if args.preview is not None:
        write_preview(args.preview, spec.make(0), args.device)
    letters = Counter(row["answer"] for row in rows if "answer" in row)
    told = ", ".join(f"{letter} {letters[letter]}" for letter in sorted(letters))
    asked = f"{len(rows):,} questions ({told})" if told else f"{len(rows):,} descriptions"
    print(f"{args.count:,} videos, {asked} in {args.out}")
    most = spec.span[1]
    print(
        f"Every frame has to be seen: `hico train` reads all {most:,} of a video, "
        f"{most * TOKENS['video']:,} tokens, whatever max_frames; other programs must not sample."
    )
    return 0


def _span(text: str) -> int | tuple[int, int]:
    """12 or 2:6.

    >>> from hico.model.training.worlds.command import _span
    >>> _span("12"), _span("2:6")
    (12, (2, 6))
    """
    low, colon, high = text.partition(":")
    return (int(low), int(high)) if colon else int(low)
