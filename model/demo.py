"""`hico demo`: what hico does, tried: a needle found, or a video's patches merged and drawn."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

import hico

from .ask import table, write
from .demo_needle import find_needle
from .load import load_model
from .picture import check_output, merge_picture, require_matplotlib, save_picture
from .video import Video, open_video, resize_frames

WHAT = """
Without a video one is drawn with cards that training never showed, and hico-tiny, the model that
ships, is asked for one of them; the picture shows what it kept of each clip. Of a video that is
given the picture shows how patches are merged, by simple features, and hico-tiny is asked about it.
"""
SHIPPED = Path(__file__).parent / "data" / "demo.mp4"
FRAMES = 4  # of a clip, as in the published model
MOST_CLIPS = 32  # the picture grows with them
SHOWN = 336  # pixels of a frame's shorter side in the picture
DRAWN = 64  # frames of a video that is drawn
WATCHED = 64  # frames that the model is shown
ANSWER = 32  # tokens
QUESTION = "What happens in this video?"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico demo`."""
    add = parser.add_argument
    parser.epilog = WHAT
    add("video", nargs="?", type=Path, help="any video file (default: one that is drawn)")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("demo.png"),
        metavar="PNG",
        help="where the picture goes (default: %(default)s)",
    )
    add("--question", help=f"what the model is asked (default: for a card; {QUESTION!r})")
    add("--seed", type=int, default=0, metavar="S", help="of the drawn video (default: 0)")
    add("--frames", type=int, default=DRAWN, metavar="N", help=f"of it (default: {DRAWN})")
    for name, default, what in (
        ("--tokens", 64, "tokens that a clip keeps"),
        ("--clips", 4, f"clips of {FRAMES} frames, spread over the video"),
        ("--image-size", 224, "pixels of a frame's side"),
        ("--patch", 16, "pixels of a patch's side"),
    ):
        add(name, type=int, default=default, metavar="N", help=f"{what} (default: {default})")


def run(args: argparse.Namespace) -> int:
    """Ask the model, write the picture, and print what came out; 0 on success.

    Raises:
        ValueError, OSError: an argument out of range, or a file that cannot be read or written.
        ModuleNotFoundError: PyAV or matplotlib is not installed.
    """
    _check(args)
    require_matplotlib()
    return find_needle(args) if args.video is None else merge_and_ask(args)


def merge_and_ask(args: argparse.Namespace) -> int:
    """Draw how a video's patches are merged, then ask the model about it; 0."""
    side = args.image_size // args.patch
    before, after = FRAMES * side * side, args.tokens
    with open_video(args.video) as video:
        chosen = video.sample(args.clips * FRAMES)
        shots = _read(video, chosen.tolist())
        times = video.seconds[chosen].reshape(args.clips, FRAMES)
        print(
            f"read {len(chosen.unique())} of the {video.frames} frames, "
            f"spread over {video.duration:.1f} s"
        )
    clips = shots.reshape(args.clips, FRAMES, *shots.shape[1:])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    features = patch_features(resize_frames(clips, (args.image_size,) * 2), args.patch)
    merged = hico.merge_tokens(features.to(device), after, num_heads=1)
    total = f"{args.clips * before} -> {args.clips * after} tokens"
    print(f"merged {args.clips} clips on {device}: {total}, {before / after:.1f} times fewer")
    titles = [
        f"{first:.1f} s to {last:.1f} s: {before} patches \u2192 {after} tokens"
        for first, last in times[:, [0, -1]].tolist()
    ]
    headline = f"Patches of one colour, across {FRAMES} frames, become one token"
    save_picture(merge_picture(clips, merged.map, (side, side), titles, headline), args.output)
    print(f"picture: {args.output}")
    _answer(args.video, args.question or QUESTION)
    return 0


def _answer(video: Path, question: str) -> None:
    """The whole path, from file to words."""
    from .session import VideoSession

    model, processor = load_model()
    print("\nmodel: hico-tiny, which has learned from drawn cards alone: of other things it knows")
    print("nothing, and what it answers about them means nothing.")
    print(f"question: {question}\nanswer: ", end="")
    quiet = not sys.stderr.isatty()
    session = VideoSession.open(model, processor, video, frames=WATCHED, progress=not quiet)
    write(session.stream(question, max_new_tokens=ANSWER))
    print(table(session))


def patch_features(frames: torch.Tensor, patch: int) -> torch.Tensor:
    """Describe every patch by its colour, texture and place: what a trained encoder does better.

    Args:
        frames: uint8 [B, T, S, S, 3], S a multiple of `patch`.
        patch: pixels of a patch's side.

    Returns:
        float32 [B, T * (S / patch)^2, 16], numbered frame by frame and row by row: colour (3),
        strength of edges (2), low frequencies (5), each standardised within the clip, and the
        place in the frame and in time on arcs of a circle (6).
    """
    batch, count, size = frames.shape[:3]
    side = size // patch
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2).float() / 255
    red, green, blue = planes.unbind(1)
    light = (red + green + blue) / 3
    maps = [light, red - green, (red + green) / 2 - blue]
    maps += [F.pad(light.diff(dim=-1).abs(), (0, 1)), F.pad(light.diff(dim=-2).abs(), (0, 0, 0, 1))]
    wave = torch.cos(torch.pi * (torch.arange(patch) + 0.5) / patch * torch.arange(3)[:, None])
    for i, j in ((0, 1), (1, 0), (1, 1), (0, 2), (2, 0)):
        maps.append(light * (wave[i][:, None] * wave[j]).repeat(side, side))
    means = F.avg_pool2d(torch.stack(maps, 1), patch)
    looks = means.reshape(batch, count, len(maps), -1).transpose(2, 3).flatten(1, 2)
    looks = looks - looks.mean(1, keepdim=True)
    looks = looks / looks.std(1, keepdim=True).clamp(min=1e-6)
    weight = torch.tensor([2.0] * 3 + [0.7] * 2 + [0.35] * 5)
    return torch.cat([looks * weight, _places(count, side).expand(batch, -1, -1)], -1)


def _places(count: int, side: int) -> torch.Tensor:
    """[T * side * side, 6]: cosine and sine of time, row and column, each over a quarter turn."""
    axes = [torch.linspace(0, 1, n) for n in (count, side, side)]
    turns = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3) * torch.pi / 2
    weight = torch.tensor([1.0, 2.5, 2.5])
    return torch.cat([turns.cos() * weight, turns.sin() * weight], -1)


def _read(video: Video, indices: list[int]) -> torch.Tensor:
    """uint8 [T, H, W, 3], small enough for the picture, in the video's own aspect ratio."""
    scale = min(1.0, SHOWN / min(video.size))
    size = tuple(max(1, round(s * scale)) for s in video.size)
    frames = video.stream(indices, (size[0], size[1]))
    quiet = not sys.stderr.isatty()
    return torch.stack(
        list(tqdm(frames, "reading", len(indices), unit="frame", leave=False, disable=quiet))
    )


def _check(args: argparse.Namespace) -> None:
    if not 1 <= args.clips <= MOST_CLIPS:
        raise ValueError(f"--clips: expected 1 to {MOST_CLIPS}, got {args.clips}")
    if args.patch < 1:
        raise ValueError(f"--patch: expected at least 1, got {args.patch}")
    if args.image_size < 1 or args.image_size % args.patch:
        raise ValueError(
            f"--image-size: expected a multiple of --patch ({args.patch}), got {args.image_size}"
        )
    most = FRAMES * (args.image_size // args.patch) ** 2
    if not 1 <= args.tokens <= most:
        raise ValueError(f"--tokens: expected 1 to {most}, got {args.tokens}")
    if args.question is not None and not args.question.strip():
        raise ValueError("--question: expected some text, got none")
    check_output(args.output)
