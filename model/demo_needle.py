"""The demo without a video: hico-tiny finds a card in a video that training never showed."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .ask import table, write
from .load import load_model
from .picture import save_picture

if TYPE_CHECKING:
    from .training.worlds import World

SIZE = 224  # pixels of a side
SHEET = 16  # clips in the picture
ANSWER = 48  # tokens


class Told(NamedTuple):
    """What was asked and said, and with which settings of dropout."""

    question: str
    said: str
    right: str
    dropout: Any


def find_needle(args: argparse.Namespace) -> int:
    """Draw a world, write it as mp4, ask for one of its cards, and draw what was kept; 0.

    The video is that of `hico world needle --split test` of the same seed and frames.

    Raises:
        ValueError, OSError: arguments that no world can be made of, or no weights.
        ModuleNotFoundError: PyAV is not installed.
    """
    from .needle.worlds import READ
    from .training.worlds.spec import WorldSpec
    from .training.worlds.write import write_video

    if args.frames % READ:
        raise ValueError(f"--frames: expected a multiple of {READ}, got {args.frames}")
    began = time.perf_counter()
    world = WorldSpec("needle", args.seed, args.frames, split="test").make(0)
    opened = load_model()
    with tempfile.TemporaryDirectory(prefix="hico-demo-") as folder:
        path = Path(folder) / "world.mp4"
        write_video(path, world, SIZE)
        print(
            f"video: {world.frames} frames, {len(world.placements)} cards among drawn scenes, "
            f"{path.stat().st_size / 1e6:.1f} MB of mp4; training showed none of it"
        )
        _draw(*opened, path, world, _ask(*opened, path, world, args), args)
    print(f"picture: {args.output}")
    print(f"{time.perf_counter() - began:.1f} s from drawing the video to the picture")
    return 0


def _ask(model: Any, processor: Any, path: Path, world: World, args: argparse.Namespace) -> Told:
    """Print question, answer, right answer, and what it took."""
    from .session import VideoSession

    question, right = world.questions[0].turn("free")
    if args.question is not None:
        question, right = args.question, "not known, as the question is your own"
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    print(f"model: hico-tiny, {millions:.1f} million parameters, on {model.device.type}")
    print(f"\nquestion: {question}\nanswer: ", end="", flush=True)
    session = VideoSession.open(
        model, processor, path, frames=args.frames, progress=sys.stderr.isatty()
    )
    said = write(session.stream(question, max_new_tokens=ANSWER))
    print(f"right answer: {right}\n\n{table(session)}")
    return Told(question, said, right, session.dropout)


def _draw(
    model: Any, processor: Any, path: Path, world: World, told: Told, args: argparse.Namespace
) -> None:
    """The card that is asked for, and other clips: what was kept of each."""
    from .sheet import contact_sheet
    from .training.worlds.questions import BRIEF, described
    from .training.worlds.world import CLIP
    from .view import look

    cards = {one.start // CLIP: described(one.card) for one in world.placements}
    asked = world.placements[world.questions[0].needles[0]].start // CLIP
    marked = {} if args.question else {asked: f"asked for: {cards[asked]}"}
    wanted = {"question": told.question, "model": None, "start": None, "end": None}
    how = argparse.Namespace(video=path, frames=args.frames, keyframes="exact", **wanted)
    seen = look(model, processor, told.dropout, how, shown_clips(world.frames // CLIP, asked))
    note = (
        f"Said: {told.said}.  Right: {told.right}.  Of {seen.total * seen.map.num_slots:,} tokens, "
        f"{int(seen.kept[-1].sum()):,} reach the last layers: what is pale has none."
    )
    headline = told.question.removesuffix(BRIEF)
    save_picture(contact_sheet(seen, headline, note, cards, marked), args.output, dpi=100)


def shown_clips(total: int, asked: int) -> list[int]:
    """The clip that is asked for and others, evenly spread.

    >>> shown_clips(4, 2), shown_clips(100, 50)[:3], len(shown_clips(100, 50))
    ([0, 1, 2, 3], [0, 7, 13], 16)
    """
    spread = [round(i * (total - 1) / (SHEET - 1)) for i in range(SHEET)]
    order = [asked, *spread] if total > SHEET else range(total)
    return sorted(list(dict.fromkeys(order))[:SHEET])
