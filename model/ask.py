"""`hico ask`: one question about a video or an image, answered as the words come."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from .options import add_model_options, add_reading_options, check_frames, is_random, model_of

ANSWER, RANDOM_ANSWER = 1024, 32  # tokens at most; random weights never end an answer
# what would move a terminal's cursor or change its colours
CONTROLS = dict.fromkeys(c for c in range(160) if not 32 <= c < 127 and chr(c) not in "\n\t")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico ask`."""
    add = parser.add_argument
    add("video", type=Path, help="a video or image file, or a folder of frames")
    add("question", help="what to ask")
    add("--stats", action="store_true", help="tokens, seconds and memory of each stage, on stderr")
    add("--json", action="store_true", help="print answer and stats as one JSON object")
    add_answer_options(parser)


def add_answer_options(parser: argparse.ArgumentParser) -> None:
    """Declare what `hico ask` and `hico chat` share."""
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        metavar="N",
        help=f"end the answer after N tokens (default: {ANSWER}; random weights {RANDOM_ANSWER})",
    )
    add_model_options(parser)
    add_reading_options(parser)


def run(args: argparse.Namespace) -> int:
    """Print the answer on stdout, and what else there is to say on stderr; 0 on success.

    Raises:
        ValueError, OSError: an argument out of range, or a file that cannot be read.
        ModuleNotFoundError: PyAV is not installed.
    """
    if not args.question.strip():
        raise ValueError("question: expected some text, got none")
    session = open_session(args)
    pieces = session.stream(args.question, max_new_tokens=args.max_new_tokens)
    if args.json:
        answer = whole(pieces)
        print(json.dumps({"question": args.question, "answer": answer} | figures(session, args)))
    else:
        write(pieces)
    if args.stats:
        print(table(session), file=sys.stderr)
    return 0


def open_session(args: argparse.Namespace, opened: Any = None) -> Any:
    """The VideoSession that the arguments ask for; says on stderr what was read.

    Args:
        opened: what model_of gave for the same arguments, None = it is called now.

    Raises:
        ValueError, OSError: as `run`; a missing file before any model is loaded.
    """
    check_frames(args.frames)
    if args.max_new_tokens is None:
        args.max_new_tokens = RANDOM_ANSWER if is_random(args.model) else ANSWER
    if args.max_new_tokens < 1:
        raise ValueError(f"--max-new-tokens: expected at least 1, got {args.max_new_tokens}")
    if not args.video.exists():
        raise FileNotFoundError(f"{args.video}: no such file or folder")
    model, processor, dropout = model_of(args) if opened is None else opened
    from .session import VideoSession

    session = VideoSession.open(
        model,
        processor,
        args.video,
        frames=args.frames,
        dropout=dropout,
        start=args.start,
        end=args.end,
        keyframes=args.keyframes,
        progress=sys.stderr.isatty(),
    )
    spent = {stage.name: stage for stage in session.stages}
    what = "1 image" if session.message is None else f"{spent['reading'].tokens:,} frames"
    took = ", ".join(f"{name} {spent[name].seconds:.1f} s" for name in ("reading", "encoding"))
    print(f"{what}, {session.tokens[0]:,} tokens: {took}", file=sys.stderr)
    return session


def whole(pieces: Iterable[str]) -> str:
    """The answer in one, without the white space at its ends."""
    return "".join(pieces).strip()


def write(pieces: Iterable[str]) -> str:
    """Print the pieces as they come, and a last line break; returns them in one."""
    safe = sys.stdout.isatty()
    said = []
    for piece in _stripped(pieces):
        said.append(piece)
        print(piece.translate(CONTROLS) if safe else piece, end="", flush=True)
    print(flush=True)
    return "".join(said)


def _stripped(pieces: Iterable[str]) -> Iterator[str]:
    """The same text without the white space at its ends."""
    held, begun = "", False
    for piece in pieces:
        text = held + piece if begun else piece.lstrip()
        body = text.rstrip()
        held, begun = text[len(body) :], begun or bool(body)
        if body:
            yield body


def patches(session: Any) -> int:
    """How many patches the encoder saw."""
    encoder, connector = session.model.encoder, session.model.model.mm_projector
    rows = session.tokens[0] // connector.tokens_per_clip
    frames = 1 if session.message is None else encoder.num_frames
    return rows * frames * (encoder.image_size // encoder.patch_size) ** 2


def figures(session: Any, args: argparse.Namespace) -> dict[str, Any]:
    """What --json prints beside the answer."""
    return {
        "model": args.model,
        "random_weights": is_random(args.model),
        "patches": patches(session),
        "tokens": session.tokens,
        "dropout_layers": list(session.dropout.layers),
        "stages": [vars(stage) for stage in session.stages],
    }


def table(session: Any) -> str:
    """What --stats prints: a line for each stage, and the tokens before and after each level."""
    layers = session.dropout.layers
    merged, *left = (f"{n:,}" for n in session.tokens)
    drops = [f"{n} from layer {layer}" for n, layer in zip(left, layers, strict=True)]
    levels = {
        "encoding": f"{patches(session):,} patches -> {merged} merged",
        "watching": " -> ".join([merged, *drops]) if drops else f"{merged}, none dropped",
    }
    lines = [("stage", "seconds", "peak GiB", "tokens")]
    for stage in session.stages:
        tokens = levels.get(stage.name)
        if stage.name == "reading":
            tokens = f"{stage.tokens:,} {'image' if session.message is None else 'frames'}"
        elif stage.name == "decoding" and stage.seconds > 0:
            tokens = f"{stage.tokens:,}, {stage.tokens / stage.seconds:.1f} a second"
        peak = f"{stage.peak / 2**30:.2f}"
        lines.append((stage.name, f"{stage.seconds:.3f}", peak, tokens or f"{stage.tokens:,}"))
    names = max(len(line[0]) for line in lines)
    return "\n".join(f"{a:<{names}}  {b:>8}  {c:>8}  {d}" for a, b, c, d in lines)
