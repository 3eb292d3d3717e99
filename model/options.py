"""What the commands that run a model have in common: their options, and the model they name."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from .settings import DropoutSettings

RANDOM = (
    "The model's weights are random: its answers mean nothing. Name a trained one with --model, "
    "or none for hico-tiny, which ships."
)
RANDOM_NAME = "random:"  # then a size, as in hico.model.load.random_model
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CLIP = 4  # frames
# of 28 layers, as published for long videos; other depths in proportion
USUAL = ((4 / 28, 18 / 28), (1.0, 0.75, 0.25))


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Which model runs, where, and what it drops."""
    add = parser.add_argument
    add(
        "--model",
        metavar="ID_OR_PATH",
        help="a folder of an official VideoChat-Flash model, an id of the Hugging Face Hub, or "
        "random:SIZE: demo, 1.5b or 7b (default: hico-tiny, which ships)",
    )
    add(
        "--dropout",
        metavar="LAYER:RATIO,...",
        help="visual tokens to leave from a layer on, such as 4:0.75,18:0.25 "
        "(default: as the model's config says)",
    )
    add("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    add("--dtype", choices=DTYPES, help="(default: bfloat16 on a GPU, float32 on a CPU)")


def add_reading_options(parser: argparse.ArgumentParser) -> None:
    """Which frames are read."""
    add = parser.add_argument
    add(
        "--frames",
        type=int,
        default=512,
        metavar="N",
        help="read at most N, about one a second (default: %(default)s)",
    )
    add("--start", type=float, metavar="S", help="begin at this second of the video")
    add("--end", type=float, metavar="S", help="end at this second")
    add(
        "--keyframes",
        choices=("exact", "snap"),
        default="exact",
        help="snap: read the nearest key frames, much faster in long videos (default: exact)",
    )


def check_frames(count: int) -> int:
    """The count, if it is one that clips can be made of.

    Raises:
        ValueError: it is not.
    """
    if count < CLIP or count % CLIP:
        raise ValueError(f"--frames: expected a multiple of {CLIP}, got {count}")
    return count


def is_random(name: str | None) -> bool:
    """Whether a --model has random weights.

    >>> is_random("random:7b"), is_random("owner/name"), is_random(None)
    (True, False, False)
    """
    return name is not None and name.startswith(RANDOM_NAME)


def model_of(args: argparse.Namespace) -> tuple[Any, Any, DropoutSettings | None]:
    """The model, its processor and what it drops; says so on stderr if its weights are random.

    Raises:
        ValueError, OSError: as load_model and random_model, or a dropout that does not fit.
    """
    from .load import load_model, random_model
    from .settings import DropoutSettings

    dropout = None if args.dropout is None else DropoutSettings.parse(args.dropout)
    dtype = None if args.dtype is None else DTYPES[args.dtype]
    if is_random(args.model):
        print(RANDOM, file=sys.stderr)
        size = args.model.removeprefix(RANDOM_NAME)
        model, processor = random_model(size, device=args.device, dtype=dtype)
    else:
        model, processor = load_model(args.model, args.device, dtype)
    depth = model.config.num_hidden_layers
    if dropout is None:
        dropout = DropoutSettings.from_config(model.config)
    elif dropout.layers[-1] > depth:
        raise ValueError(f"--dropout: expected layers from 1 to {depth}, got {args.dropout}")
    return model, processor, dropout


def usual_dropout(model: Any) -> DropoutSettings:
    """[4, 18] at [1, 0.75, 0.25] in 28 layers, and the same shares of another depth."""
    from .settings import DropoutSettings

    depth = model.config.num_hidden_layers
    first, second = (max(1, round(share * depth)) for share in USUAL[0])
    return DropoutSettings((first, max(second, first + 1)), USUAL[1])
