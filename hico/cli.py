"""The console script `hico`: one subcommand for each job of the package.

A command lives in a module with `add_arguments(parser)` and `run(args) -> int`. The module is
imported only when its command is asked for, so that `hico --help` stays quick.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from hico._version import __version__

# command -> module, what it does
COMMANDS = {
    "ask": ("hico.model.ask", "answer a question about a video or an image"),
    "chat": ("hico.model.chat", "answer many questions about one video or image"),
    "view": ("hico.model.view", "draw what was merged and kept over a video's frames"),
    "demo": ("hico.model.demo", "find a card in a video that is drawn, or try all of it on yours"),
    "world": ("hico.model.training.worlds.command", "make videos and questions with exact answers"),
    "build": ("hico.model.training.build.command", "make training rows of annotated events"),
    "train": ("hico.model.training.command", "train a stage of the model from a YAML file"),
    "needle": ("hico.model.needle.command", "needles in long videos: accuracy by frames and depth"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser(words)
        args = parser.parse_args(words)
        if not hasattr(args, "run"):
            parser.print_help()
            return 0
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has left, and Python's own flush would fail
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        if "--traceback" in words or not _is_users(error):
            raise
        print(f"hico: error: {one_line(error)}", file=sys.stderr)
        return 2


def _parser(words: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hico", description="Visual-token compression.")
    parser.add_argument("--version", action="version", version=f"hico {__version__}")
    parser.add_argument(
        "--traceback", action="store_true", help="on an error, show where it was raised"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, (module_name, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if name == wanted:
            module = importlib.import_module(module_name)
            module.add_arguments(command)
            command.add_argument(
                "--traceback",
                action="store_true",
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )
            command.set_defaults(run=module.run)
    return parser


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: a wrong value or file, or a package that is not installed."""
    if isinstance(error, ModuleNotFoundError):
        return (error.name or "").split(".")[0] != "hico"
    if isinstance(error, ImportError):
        return "hico[" in str(error)
    return isinstance(error, (ValueError, OSError))


def one_line(error: Exception) -> str:
    """What is wrong, and what to install if that is it."""
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name and "install" not in text:
        text += f" (pip install {error.name.split('.')[0]})"
    return text


if __name__ == "__main__":
    sys.exit(main())
