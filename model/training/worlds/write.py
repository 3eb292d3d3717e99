"""Worlds as files: mp4 videos, questions in the published format, a YAML that names them."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from hico.model.processing import IMAGE

from .preview import tile, write_png
from .questions import Question
from .spec import WorldSpec
from .world import CLIP, World

QUESTIONS, DATA, VIDEOS = "questions.jsonl", "data.yaml", "videos"
X264 = {"preset": "veryfast", "crf": "18", "g": "16"}
TILE, COLUMNS = 168, 8
READING = """\
# Every frame has to be seen: one left out could hold the answer. `hico train` does so, whatever
# max_frames, as each row says "frames": "all"; with other programs turn the sampling of frames off.
"""


def write_worlds(
    spec: WorldSpec, folder: str | os.PathLike[str], size: int = 224, progress: bool = False
) -> list[dict[str, Any]]:
    """spec.count videos -> folder/videos/*.mp4, questions.jsonl and data.yaml, for `hico train`.

    The questions and the YAML come last: where they are, all is there. Every file is written beside
    its place and then moved; what was written before an error is removed.

    A row says `"frames": "all"`: training then reads every frame, whatever a stage's max_frames, as
    one left out could hold the answer.

    Args:
        size: pixels of a side, even.
        progress: show a bar on stderr.

    Returns:
        The rows of questions.jsonl: the published keys, and besides frames, split, world, seed,
        number, card; where the form is a question also asked, options, answer (the letter),
        free_question, free_answer, steps, hops, needle_frames [[first, last], ...].

    Raises:
        ValueError: an odd size, or the folder has questions already.
        OSError: no permission, or the disk is full.
        ModuleNotFoundError: PyAV is not installed.
    """
    folder = Path(folder)
    if size < 16 or size % 2:
        raise ValueError(f"size: expected an even number of 16 or more, got {size}")
    for name in (QUESTIONS, DATA):
        if (folder / name).exists():
            raise ValueError(f"{folder}: expected a folder without worlds, found {name}")
    rows: list[dict[str, Any]] = []
    frames = sum(spec.length(i) for i in range(spec.count))
    bar = tqdm(total=frames, unit="frame", disable=not progress)
    with bar, _removed_if_broken(folder / VIDEOS) as written:
        for number in range(spec.count):
            world = spec.make(number)
            name = f"{spec.world}_{spec.split}_{spec.seed}_{number:05d}.mp4"
            write_video(folder / VIDEOS / name, world, size, spec.device, bar.update)
            written.append(folder / VIDEOS / name)
            rows += rows_of(spec, number, world, name)
        with replacing(folder / QUESTIONS) as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
        written.append(folder / QUESTIONS)
        entry = {"json_path": QUESTIONS, "data_root": VIDEOS, "media_type": "video"}
        with replacing(folder / DATA) as file:
            file.write((READING + yaml.safe_dump({"datasets": [entry]}, sort_keys=False)).encode())
    return rows


def rows_of(spec: WorldSpec, number: int, world: World, video: str) -> list[dict[str, Any]]:
    """The rows of one world's questions, one each, or the row of its description."""
    rows = []
    known = [{}] if spec.form == "describe" else [_facts(world, q) for q in world.questions]
    for i, ((asked, answer), facts) in enumerate(zip(spec.said(number, world), known, strict=True)):
        turns = [("human", f"{IMAGE}\n{asked}"), ("gpt", answer)]
        rows.append(
            {
                "id": f"{Path(video).stem}_{i}",
                "video": video,
                "frames": "all",
                "conversations": [{"from": role, "value": text} for role, text in turns],
                **facts,
                "split": world.split,
                "world": world.kind,
                "seed": spec.seed,
                "number": number,
                "card": world.card,
            }
        )
    return rows


def _facts(world: World, question: Question) -> dict[str, Any]:
    """A question in all its forms, and where its answer is."""
    starts = [world.placements[place].start for place in question.needles]
    return {
        "asked": question.asked,
        "options": list(question.options),
        "answer": question.letter,
        "free_question": question.turn("free")[0],
        "free_answer": question.free_answer,
        "steps": list(question.steps),
        "hops": question.hops,
        "needle_frames": [[start, start + CLIP - 1] for start in starts],
    }


def write_video(
    path: Path,
    world: World,
    size: int,
    device: Any = "cpu",
    progress: Callable[[int], object] | None = None,
) -> None:
    """One world as h264 in mp4, in bounded memory.

    Args:
        progress: called with the number of frames that are done.
    """
    import av

    with replacing(path) as file, av.open(file, "w", format="mp4") as out:
        rate = Fraction(world.fps).limit_denominator(1001)
        stream = out.add_stream("libx264", rate=rate, options=X264)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for piece in world.stream(size, device):
            for pixels in piece.cpu().numpy():
                out.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, "rgb24")))
            if progress is not None:
                progress(len(piece))
        out.mux(stream.encode(None))


def write_preview(path: str | os.PathLike[str], world: World, device: Any = "cpu") -> None:
    """A PNG: eight frames of the video, and all frames of the first question's cards below."""
    question = world.questions[0]
    spread = np.linspace(0, world.frames - 1, COLUMNS).round().astype(int)
    cards = [i for i in (*question.needles, *question.foils) if i >= 0]
    starts = [world.placements[i].start for i in cards]
    rows = [spread, *(np.arange(start, start + CLIP) for start in starts)]
    write_png(tile(world.render(np.concatenate(rows).tolist(), TILE, device), COLUMNS), path)


@contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A new binary file that takes its place when the block ends, and is gone if it fails."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with open(handle, "w+b") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


@contextmanager
def _removed_if_broken(folder: Path) -> Iterator[list[Path]]:
    """The folder, made; if the block fails, the files that it lists and what was made are gone."""
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield written
    except BaseException:
        for path in written:
            path.unlink()
        for path in made:
            path.rmdir()
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
