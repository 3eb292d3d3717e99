"""`hico chat`: many questions about one video, which is read and encoded once."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

from .ask import add_answer_options, open_session, table, write


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico chat`."""
    parser.add_argument("video", type=Path, help="a video or image file, or a folder of frames")
    parser.add_argument("--stats", action="store_true", help="a table after each answer, on stderr")
    add_answer_options(parser)


def run(args: argparse.Namespace) -> int:
    """Answer each line of stdin on stdout, knowing those before; 0 at its end.

    Ctrl-C ends an answer, which is then forgotten; Ctrl-D ends the chat.

    Raises:
        ValueError, OSError, ModuleNotFoundError: as `hico ask`.
    """
    session = open_session(args)
    history: list[tuple[str, str]] = []
    for question in questions():
        pieces = session.stream(question, history, max_new_tokens=args.max_new_tokens)
        try:
            with closing(pieces):
                history.append((question, write(pieces)))
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print()
            continue
        if args.stats:
            print(table(session), file=sys.stderr)
    return 0


def questions() -> Iterator[str]:
    """The lines of stdin that are not blank; a terminal is prompted for them."""
    if not sys.stdin.isatty():
        yield from filter(None, map(str.strip, sys.stdin))
        return
    with suppress(ImportError):  # where it exists, lines can be edited and recalled
        importlib.import_module("readline")
    print("One question a line; Ctrl-D ends.", file=sys.stderr)
    while True:
        try:
            line = input("> ").strip()
        except EOFError:
            print()
            return
        if line:
            yield line
