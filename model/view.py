"""`hico view`: what of a video was merged and what was kept, drawn over its frames."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from hico import TokenMap

from .options import (
    RANDOM,
    add_model_options,
    add_reading_options,
    check_frames,
    is_random,
    model_of,
    usual_dropout,
)
from .picture import check_output, merge_picture, require_matplotlib, save_picture

CHUNK = 32  # clips in one pass of the encoder
SHOWN = 336  # pixels of a frame's shorter side
QUESTION = "What happens in this video?"
MOST_CLIPS = {".png": 32, ".html": 256}
CLIPS = {".png": 4, ".html": 32}


@dataclass(frozen=True)
class Seen:
    """A video as the model saw it; C clips of T frames are shown of `total`.

    Attributes:
        title, question, note: lines of text.
        frames: uint8 [C, T, H, W, 3], for looking at.
        seconds: float [C, T].
        clips: [C], which of the video's clips these are.
        total: clips in all.
        grid: (rows, columns) of patches in a frame.
        map: the merge of the shown clips, [C, T * rows * columns] -> [C, M].
        layers: where each stage of dropout begins.
        kept: for each stage bool [total, M], the tokens that it left.
    """

    title: str
    question: str
    note: str
    frames: torch.Tensor
    seconds: torch.Tensor
    clips: list[int]
    total: int
    grid: tuple[int, int]
    map: TokenMap
    layers: list[int]
    kept: list[torch.Tensor]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico view`."""
    add = parser.add_argument
    add("video", type=Path, help="any video file")
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("view.html"),
        metavar="FILE",
        help="an .html page to step through, or a .png (default: %(default)s)",
    )
    add("--question", default=QUESTION, help="what attention ranks for (default: %(default)r)")
    add("--clips", type=int, metavar="N", help="draw N, evenly spread (default: 32, PNG: 4)")
    add_model_options(parser)
    add_reading_options(parser)


def run(args: argparse.Namespace) -> int:
    """Read, encode, merge and drop, then write the page or picture; 0 on success.

    Raises:
        ValueError, OSError: an argument out of range, or a file that cannot be read or written.
        ModuleNotFoundError: PyAV or, for a PNG, matplotlib is not installed.
    """
    kind = check_output(args.output, tuple(CLIPS)).suffix.lower()
    clips = CLIPS[kind] if args.clips is None else args.clips
    if not 1 <= clips <= MOST_CLIPS[kind]:
        raise ValueError(f"--clips: expected 1 to {MOST_CLIPS[kind]} in {kind}, got {clips}")
    check_frames(args.frames)
    if kind == ".png":
        require_matplotlib()
    model, processor, dropout = model_of(args)
    seen = look(model, processor, dropout or usual_dropout(model), args, clips)
    levels = [f"{seen.total * n:,}" for n in (seen.map.num_inputs, seen.map.num_slots)]
    stages = zip(seen.layers, seen.kept, strict=True)
    left = [f"{int(kept.sum()):,} from layer {layer}" for layer, kept in stages]
    print(" -> ".join([f"{levels[0]} patches", f"{levels[1]} tokens", *left]))
    save(seen, args.output)
    print(f"{'page' if kind == '.html' else 'picture'}: {args.output}")
    return 0


@torch.inference_mode()
def look(
    model: Any,
    processor: Any,
    dropout: Any,
    args: argparse.Namespace,
    shown: int | Sequence[int],
) -> Seen:
    """Run the model on the video up to its answer's first token, and note what went where.

    Args:
        shown: clips to keep frames and merges of, by number, or how many, evenly spread.
    """
    from ._opening import frames_of
    from .video import open_video

    size = model.encoder.image_size
    with open_video(args.video, start=args.start, end=args.end) as video:
        chosen = frames_of(model, video, args.frames)
        if args.keyframes == "snap":
            chosen = video.snapped(chosen)
        visual, merged = encode(model, video.stream(chosen.tolist(), size), len(chosen))
        times = video.seconds[chosen].unflatten(0, (-1, model.encoder.num_frames))
        total = len(times)
        clips = _spread(total, shown) if isinstance(shown, int) else list(shown)
        scale = min(1.0, SHOWN / min(video.size))
        height, width = (max(1, round(side * scale)) for side in video.size)
        drawn = chosen.view(times.shape)[clips].flatten().tolist()
        pictures = list(_watched(video.stream(drawn, (height, width)), "reading", len(drawn)))
        message = processor.time_message(video.duration, video.seconds[chosen])
    ids = processor.ids(processor.prompt(args.question, message=message)).to(visual.device)
    with dropout.use(model) as run:
        model(input_ids=ids, visual_features=[visual], logits_to_keep=1, use_cache=False)
    start = int((ids[0] < 0).nonzero()[0])
    side = size // model.encoder.patch_size
    return Seen(
        title=args.video.name,
        question=f"Q: {args.question}",
        note=RANDOM if is_random(args.model) else "",
        frames=torch.stack(pictures).unflatten(0, (len(clips), -1)),
        seconds=times[clips],
        clips=clips,
        total=total,
        grid=(side, side),
        map=TokenMap(merged.assign[clips], merged.anchor[clips]),
        layers=list(dropout.layers),
        kept=[k.view(total, -1) for k in kept_tokens(run.kept, start, len(visual))],
    )


def encode(model: Any, frames: Iterable[torch.Tensor], total: int) -> tuple[torch.Tensor, TokenMap]:
    """uint8 [S, S, 3] each -> visual tokens [n, D], and how each clip was merged, on the CPU."""
    from ._pixels import normalize

    maps: list[TokenMap] = []
    connector, encoder = model.model.mm_projector, model.encoder

    def merge(tokens: torch.Tensor, metric: torch.Tensor) -> torch.Tensor:
        result = connector.merge(tokens, metric)
        maps.append(result.map.to("cpu"))
        return connector.mlp(result.tokens)

    device, done = next(model.parameters()).device, []
    coming = _watched(frames, "encoding", total)
    while group := list(islice(coming, CHUNK * encoder.num_frames)):
        clips = normalize(torch.stack(group), device).unflatten(0, (-1, encoder.num_frames))
        done.append(encoder.encode(clips, CHUNK, merge))
    whole = TokenMap(torch.cat([m.assign for m in maps]), torch.cat([m.anchor for m in maps]))
    return torch.cat(done).flatten(0, 1), whole


def kept_tokens(kept: Sequence[torch.Tensor], start: int, count: int) -> list[torch.Tensor]:
    """For each stage bool [count] on the CPU: which visual tokens are left of one prompt.

    Args:
        kept: of hico.progressive_dropout: [1, k] rows of each stage's own input.
        start, count: the prompt's visual rows.

    >>> kept_tokens([torch.tensor([[0, 2, 3, 4]]), torch.tensor([[0, 2, 3]])], start=1, count=3)
    [tensor([False,  True,  True]), tensor([False, False,  True])]
    """
    out, rows = [], None
    for stage in kept:
        index = stage[0].cpu()
        index = index[index >= 0]
        rows = index if rows is None else rows[index]
        left = torch.zeros(count, dtype=torch.bool)
        left[rows[(rows >= start) & (rows < start + count)] - start] = True
        out.append(left)
    return out


def save(seen: Seen, path: Path) -> None:
    """Write the page (.html) or picture (.png), replacing the file when the new one is complete."""
    if path.suffix.lower() == ".png":
        titles = [
            f"clip {clip + 1} of {seen.total}, {times[0]:.1f} s to {times[-1]:.1f} s: "
            f"{seen.map.num_inputs} patches \u2192 {seen.map.num_slots} tokens"
            for clip, times in zip(seen.clips, seen.seconds.tolist(), strict=True)
        ]
        stages = [
            (f"tokens left from layer {layer} on", kept[seen.clips])
            for layer, kept in zip(seen.layers, seen.kept, strict=True)
        ]
        # a dollar sign would begin a formula
        words = (seen.title, seen.question, seen.note and "(random weights)")
        headline = "   ".join(filter(None, words)).replace("$", r"\$")
        picture = merge_picture(seen.frames, seen.map, seen.grid, titles, headline, stages)
        return save_picture(picture, path)
    from .view_html import html_page

    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(html_page(seen), encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _watched(frames: Iterable[torch.Tensor], what: str, total: int) -> Iterator[torch.Tensor]:
    quiet = not sys.stderr.isatty()
    return iter(tqdm(frames, what, total, unit="frame", leave=False, disable=quiet))


def _spread(total: int, shown: int) -> list[int]:
    """At most `shown` of `total` clips, evenly spread, the first and the last among them."""
    if shown >= total:
        return list(range(total))
    return torch.linspace(0, total - 1, shown).round().int().tolist()
