"""`python -m hico.bench files`: questions about mp4 files, asked as `hico ask` asks them.

Every file goes the whole way: decoder, encoder, merge, dropout, generation. Without a folder
unseen worlds are drawn from a random seed, which the result names, and written as mp4; a folder is
one that `hico world` wrote, or another program in its format. Each question is asked in words
(free) and with its options; then the letter, its option, or both are right.
"""

import argparse
import json
import secrets
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hico.bench import record
from hico.bench.record import Row
from hico.model import ask
from hico.model.needle.asking import is_free, letter_answers
from hico.model.needle.features import fingerprint
from hico.model.needle.grid import share_of
from hico.model.options import add_model_options, model_of
from hico.model.processing import IMAGE
from hico.model.training.worlds.spec import WorldSpec
from hico.model.training.worlds.write import QUESTIONS, VIDEOS, write_worlds

RESULTS = record.RESULTS / "files.jsonl"
KINDS = ("needle", "multihop")
ANSWER = 48  # tokens: whoever goes on for longer is wrong


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    add("folder", nargs="?", type=Path, help=f"with {QUESTIONS} and {VIDEOS}/ (default: drawn now)")
    add("--world", choices=KINDS, default="needle", help="(%(default)s)")
    add("--count", type=int, default=20, metavar="N", help="files (%(default)s)")
    add("--frames", type=int, default=64, metavar="N", help="of a file (%(default)s)")
    add("--questions", type=int, default=1, metavar="N", help="of a file, at most (%(default)s)")
    add("--hops", type=int, default=3, metavar="N", help="cards of a chain (%(default)s)")
    add("--haystack", default="natural", help="natural, shipped or a folder (%(default)s)")
    add("--size", type=int, default=224, metavar="PIXELS", help="of a file's side (%(default)s)")
    add("--fps", type=float, default=1.0, help="of a file (%(default)s)")
    add("--seed", type=int, metavar="S", help="(default: a random one)")
    add("--read", type=int, default=512, metavar="N", help="frames, at most (%(default)s)")
    add("--least", type=float, metavar="SHARE", help="exit with 1 where a form has less right")
    add("--out", type=Path, default=RESULTS, help="JSON lines to append to (%(default)s)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Ask, print, keep; 0, or 1 where less was right than asked for.

    Raises:
        ValueError: an argument out of range, or a folder without questions.
    """
    if args.count < 1 or args.questions < 1:
        raise ValueError(f"count: expected 1 or more, got {min(args.count, args.questions)}")
    opened = model_of(args)
    started = time.perf_counter()
    with _folder(args) as (folder, settings):
        answers = list(asked(folder, opened, args.model, args.read, sys.stderr.isatty()))
    row = {
        "suite": "files",
        "kind": "files",
        "model": args.model,
        "settings": settings | {"read": args.read},
        **told(answers, opened),
        "seconds": round(time.perf_counter() - started, 3),
        "transformers": record.version("transformers"),
        **record.environment(opened[0].device),
    }
    record.append(args.out, row)
    print("\n".join(lines(row)))
    print(f"row appended to {args.out}")
    shares = [share["score"] for share in row["right"].values()]
    return int(args.least is not None and min(shares) < args.least)


@contextmanager
def _folder(args: argparse.Namespace) -> Iterator[tuple[Path, Row]]:
    """The folder that was named, or one of worlds that are drawn now, and what is in it."""
    if args.folder is not None:
        yield args.folder, {"folder": args.folder.name}
        return
    settings = {
        "world": args.world,
        "seed": secrets.randbelow(1 << 30) if args.seed is None else args.seed,
        "frames": args.frames,
        "count": args.count,
        "split": "test",
        "questions": args.questions,
        "hops": args.hops,
        "haystack": args.haystack,
        "fps": args.fps,
    }
    with tempfile.TemporaryDirectory(prefix="hico-files-") as name:
        write_worlds(WorldSpec(**settings), name, args.size, progress=sys.stderr.isatty())
        yield Path(name), settings | {"size": args.size}


def asked(
    folder: Path, opened: Any, model: str | None, most: int = 512, progress: bool = False
) -> Iterator[Row]:
    """Every question of a folder of worlds in all its forms, answered; files are read once.

    Args:
        opened: (model, processor, dropout) as model_of gives them; model: their name.
        most: frames of a file that are read.
        progress: show a bar on stderr.

    Raises:
        ValueError: the folder's questions are none.
    """
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row in record.load(folder / QUESTIONS):
        by_file[row["video"]].append(row)
    if not by_file:
        raise ValueError(f"{folder / QUESTIONS}: expected questions, found none")
    parser = argparse.ArgumentParser()
    ask.add_arguments(parser)
    for name, rows in tqdm(by_file.items(), "asking", unit="file", disable=not progress):
        words = [str(folder / VIDEOS / name), "?", "--frames", str(most)]
        args = parser.parse_args([*words, *(["--model", model] if model else [])])
        with redirect_stderr(StringIO()):  # a line about each file
            session = ask.open_session(args, opened)
        for row in rows:
            for form, question, answers in forms(row):
                said = ask.whole(session.stream(question, max_new_tokens=ANSWER))
                found = {"file": name, "form": form, "asked": row.get("asked"), "said": said}
                yield found | {"right": answers[-1], "ok": is_free(said, answers)}


def forms(row: Row) -> Iterator[tuple[str, str, Sequence[str]]]:
    """(form, question, answers that are right, the fullest last) of a row of `hico world`.

    A row that has nothing but its conversation has one form.

    Raises:
        ValueError: a row without a question and its answer.
    """
    try:
        if "free_question" in row:
            yield "free", row["free_question"], (row["free_answer"],)
        if "answer" in row:
            text, letter = row["conversations"][0]["value"], row["answer"]
            yield "options", _plain(text), letter_answers(text, letter)
        elif "free_question" not in row:
            question, answer = (turn["value"] for turn in row["conversations"])
            yield "free", _plain(question), (answer,)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"{row.get('id')}: expected a question and its answer ({error!r})"
        ) from error


def _plain(text: str) -> str:
    """What is asked, without the place of the video."""
    return text.replace(IMAGE, "").strip()


def told(answers: Sequence[Row], opened: Any) -> Row:
    """The shares that are right, by form and by what was asked, and all wrong answers."""
    model, _, dropout = opened
    by_form, by_asked = defaultdict(list), defaultdict(list)
    for one in answers:
        by_form[one["form"]].append(one["ok"])
        by_asked[f"{one['form']}, {one['asked']}"].append(one["ok"])
    return {
        "weights": fingerprint(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "dropout": dropout and {"layers": list(dropout.layers), "ratios": list(dropout.ratios)},
        "files": len({one["file"] for one in answers}),
        "right": {form: share_of(right) for form, right in by_form.items()},
        "by_asked": {name: share_of(right) for name, right in sorted(by_asked.items())},
        "wrong": [{k: v for k, v in one.items() if k != "ok"} for one in answers if not one["ok"]],
    }


def lines(row: Row) -> Iterator[str]:
    """A run in words."""
    yield f"{row['files']} files, {row['seconds']:.1f} s: {json.dumps(row['settings'])}"
    for name, share in (row["right"] | row["by_asked"]).items():
        yield (
            f"{name}: {share['right']} of {share['count']} right, {share['score']:.1%} "
            f"({share['low']:.1%} to {share['high']:.1%})"
        )
    for one in row["wrong"]:
        yield f"  {one['file']}, {one['form']}: said {one['said']!r}, right is {one['right']!r}"
