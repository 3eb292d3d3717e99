"""`python -m hico.bench model`: seconds and memory of the whole model, stage by stage, on a GPU.

UMT-L and Qwen2-7B of the published sizes with random weights. "encoder": 10,000 frames; "prefill":
160,256 rows; "questions": decoded frames to the first token, and a second question; "decode":
tokens a second; "table": every stage, from 64 to 10,000 frames. Every row is written when it is
there; --resume goes on where a run ended.
"""

import argparse
import gc
import os
import sys
import time
from pathlib import Path

import torch

from hico.bench import record
from hico.bench.limits import rounded
from hico.bench.record import Row

RESULTS = record.RESULTS / "model.jsonl"
CASES = ("encoder", "prefill", "questions", "decode", "table")
STAGES = ("reading", "encoding", "merging", "prefill", "selection", "decode")
GIB = 1 << 30
NONE = "–"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("--only", default=",".join(CASES), metavar="CASES", help="comma-separated (%(default)s)")
    add("--dry", action="store_true", help="tiny sizes on the CPU: whether it runs, no figures")
    add("--budget", type=float, default=540.0, metavar="SECONDS",
        help="nothing new starts after so many (%(default)s)")  # fmt: skip
    add("--limit", type=float, default=80.0, metavar="GB",
        help="memory that questions and table may have, in 10^9 bytes (%(default)s)")  # fmt: skip
    add("--video", type=Path, help="a file to read the table's frames from; none is not timed")
    add("--resume", action="store_true", help="leave out what this commit has rows of")
    add("--out", type=Path, help=f"JSON lines to append to ({RESULTS})")
    add("--show", action="store_true", help="only print the tables of the newest rows there")


def run(args: argparse.Namespace) -> int:
    """0, or 1 if something failed or was not run for want of time."""
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    if not only or not set(only) <= set(CASES):
        raise ValueError(f"only: expected some of {', '.join(CASES)}, got {args.only!r}")
    if not args.budget > 0 or not args.limit > 0:
        raise ValueError("budget, limit: expected more than 0")
    if args.dry and args.out is None and not args.show:
        raise ValueError("out: expected a file of its own for a dry run, got none")
    out = args.out or RESULTS
    if args.show:
        print(markdown(record.load(out)))
        return 0
    if not args.dry and not torch.cuda.is_available():
        raise ValueError("device: expected a CUDA GPU, found none (--dry is a smoke run)")
    failed = measure(args, only, out)
    print(markdown(record.load(out)))
    print(f"rows appended to {out}")
    return int(failed)


def measure(args: argparse.Namespace, only: list[str], out: Path) -> bool:
    """Runs the jobs and writes their rows; whether there was an error."""
    # the other commands start without the model
    from hico.bench.model_setup import DRY, REAL, Setup
    from hico.bench.model_video import jobs

    device = torch.device("cpu" if args.dry else "cuda:0")
    setup, started = Setup(DRY if args.dry else REAL, device), time.perf_counter()
    environment = record.environment(device) | {
        "kind": "model", "suite": "model", "quick": args.dry, "dtype": str(setup.dtype)[6:],
        "transformers": record.version("transformers"), "cudnn": torch.backends.cudnn.version(),
        "sizes": "tiny" if args.dry else "UMT-L 224, Qwen2-7B", "weights": "random",
        "dropout": str(setup.sizes.dropout),
        # transformers' cache takes new memory in every step: how that is found decides its speed
        "allocator": os.environ.get("PYTORCH_ALLOC_CONF"),
    }  # fmt: skip
    there = done(out, environment) if args.resume else set()
    failed = False
    planned = jobs(setup.sizes, args.video, int(args.limit * 1e9))
    for case in [name for name in CASES if name in only]:
        for provider, work in planned[case]:
            elapsed = time.perf_counter() - started
            if (case, provider) in there:
                say(elapsed, f"{case}: {provider}: there is a row")
                continue
            say(elapsed, f"{case}: {provider}")
            row: Row = {"case": case, "provider": provider, "error": None}
            if elapsed > args.budget:
                row["error"] = f"not run: the budget of {args.budget:g} s was spent"
            else:
                try:
                    row |= work(setup)
                except Exception as error:
                    row["error"] = record.one_line(error)
            record.append(out, row | environment)
            say(time.perf_counter() - started, f"{case}: {provider}: {told(row)}")
            failed |= row["error"] is not None
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return failed


def say(elapsed: float, text: str) -> None:
    """A progress line."""
    print(f"[{elapsed:6.1f} s] {text}", file=sys.stderr, flush=True)


def done(out: Path, environment: Row) -> set[tuple[str, str]]:
    """What this commit has measured on such a device."""
    same = ("commit", "dirty", "gpu", "sizes", "torch", "transformers")
    rows = record.load(out) if out.is_file() else []
    return {
        (row["case"], row["provider"])
        for row in rows
        if not row["error"] and all(row.get(key) == environment[key] for key in same)
    }


def told(row: Row) -> str:
    """A row in words: our figures rounded up."""
    if row["error"]:
        return row["error"]
    parts = [f"{rounded(row['seconds'], 3, up=True)} s"]
    if row.get("peak_bytes") is not None:
        parts.append(f"{rounded(row['peak_bytes'] / GIB, 2, up=True)} GiB")
    if "second_share" in row:
        share = rounded(100 * row["second_share"], 1, up=True)
        parts.append(f"second question {rounded(row['second_s'], 3, up=True)} s, {share}%")
        parts.append(f"second: {row['second_verdict']}")
    if "ratio" in row:
        rates = [rounded(row[key], 2, up=False) for key in ("tokens_s", "transformers_tokens_s")]
        parts.append(f"{rates[0]} tokens/s, {rounded(row['ratio'], 3, up=False)} x {rates[1]}")
    parts += [row[key] for key in ("verdict",) if key in row]
    parts += [f"memory: {row['memory_verdict']}"] if "memory_verdict" in row else []
    return ", ".join(parts)


def markdown(rows: list[Row]) -> str:
    """The newest row of each case and provider, and the table of stages."""
    newest = {(row["case"], row["provider"]): row for row in rows if not row["error"]}
    failed = {(row["case"], row["provider"]): row for row in rows if row["error"]}
    shown = list((failed | newest).values())
    shown.sort(key=lambda row: CASES.index(row["case"]))
    lines = ["| case | form | measured |", "| --- | --- | --- |"]
    lines += [
        f"| {row['case']} | {row['provider']} | {told(row)} |"
        for row in shown
        if row["case"] != "table"
    ]
    head = ("frames", "seconds", "GiB", *STAGES)
    lines += ["", "| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    lines += [stage_line(row) for row in shown if row["case"] == "table"]
    runs = {row["run"]: row for row in shown}
    return "\n".join([*lines, "", *(where(row) for row in runs.values())])


def stage_line(row: Row) -> str:
    """A line of the table: seconds of each stage and its share."""
    if row["error"]:
        return f"| {row['provider']} | {row['error']} |" + f" {NONE} |" * (1 + len(STAGES))
    most = row["peak_bytes"]
    cells = [str(row["frames"]), rounded(row["seconds"], 2, up=True)]
    cells.append(NONE if most is None else rounded(most / GIB, 1, up=True))
    for name in STAGES:
        seconds = row["stages_s"][name]
        cells.append(
            "not measured"
            if seconds is None
            else f"{rounded(seconds, 3, up=True)} s, {row['shares'][name]:.0%}"
        )
    return "| " + " | ".join(cells) + " |"


def where(row: Row) -> str:
    """The machine and the versions of a row."""
    state = ", with changes" if row["dirty"] else ""
    return (
        f"{row['gpu']}, torch {row['torch']}, triton {row['triton']}, transformers "
        f"{row['transformers']}, commit {row['commit'] or 'unknown'}{state}, {row['date'][:10]}"
    )
