"""`python -m hico.bench`: report makes the README's tables of what the other commands measure."""

import argparse
import sys
from collections.abc import Sequence

from hico.bench import (
    figures,
    files,
    merge,
    model,
    quality,
    reading,
    realtext,
    report,
    retain,
    training,
    worlds,
)

COMMANDS = {
    "merge": (merge, "time merge_tokens and its relatives against eager and compiled PyTorch"),
    "retain": (retain, "time LayerScorer, select, compact and attention_score likewise"),
    "reading": (reading, "time our reader of videos against decord, torchcodec and OpenCV"),
    "model": (model, "time the whole model, stage by stage, up to 10,000 frames"),
    "training": (training, "time a training step against the published merge without dropout"),
    "realtext": (realtext, "answers over long real text, half of its rows dropped: needs weights"),
    "worlds": (worlds, "what the synthetic worlds give away: blind, a frame, 64, histograms"),
    "quality": (quality, "what compression costs in accuracy: methods and models side by side"),
    "files": (files, "ask about video files as `hico ask` does, and count what is right"),
    "figures": (figures, "all figures of hico-tiny's card, several commands at a time"),
    "report": (report, "print the markdown tables of the newest rows"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command line and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m hico.bench", description=__doc__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError, ImportError) as error:
        print(f"hico.bench: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
