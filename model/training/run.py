"""One stage from settings to a model in a folder."""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from . import lora, parts
from .annotations import BadRowError
from .feed import Feed, feed_of, read_sources, sampler_of
from .progress import Epochs, Record, Stop, curve
from .saving import (
    CONFIG,
    UNFINISHED,
    checkpoints,
    read_json,
    whole_state,
    write_text,
    write_whole,
)
from .settings import StageSettings
from .signals import Signals, Stopped, name, status
from .start import start

RUN, BAD = "stage.json", "bad_rows.jsonl"
CACHE = "lengths.json"
# what may differ when a run goes on
FREE = ("workers", "save_every", "keep", "log_every", "resume", "on_bad", "backend", "device")


def train(stage: StageSettings) -> int:
    """Trains a stage, or goes on with it, and returns the exit status: 0, or 143 or 130 for a
    SIGTERM or SIGINT, after which the same call goes on where training stopped.

    In `output`: checkpoint-N (the newest `keep`), log.jsonl, loss.png, stage.json, bad_rows.jsonl,
    and at the end the model: config.json, safetensors, tokenizer and processor. Where torchrun or
    accelerate launch started several processes, each calls this.

    Raises:
        ValueError: settings that do not fit the model or each other; a folder with another run;
            bad rows, unless they are to be skipped.
        OSError: files that are missing or cannot be written.
    """
    folder = _folder(stage)
    main = int(os.environ.get("RANK", 0)) == 0
    with Signals() as signals:
        try:
            going_on = _earlier(stage, folder)
            if going_on == "finished":
                _say(main, f"{stage.name}: finished already, see {folder}")
                return 0
            return _whole(stage, folder, signals)
        except Stopped as stop:
            _say(main, f"{stage.name}: stopped by {stop} before training began, nothing to keep")
            return status(stop.number)
        finally:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # a reducer that outlives its group waits, holding the GIL, for the group's thread,
                # which may want the GIL to let go of the last barrier (seen with torch 2.13, gloo)
                gc.collect()
                torch.distributed.destroy_process_group()


def _whole(stage: StageSettings, folder: Path, signals: Signals) -> int:
    """The trainer is gone when this is over."""
    with _removed_if_new(folder):
        trainer, feed, bad = _prepared(stage, folder, signals)
    return _trained(trainer, feed, bad, folder, signals)


def _prepared(stage: StageSettings, folder: Path, signals: Signals) -> tuple[Any, Feed, list]:
    """The trainer, what it reads, and the rows that are bad already on paper."""
    from .collator import Collator
    from .trainer import StageTrainer, arguments

    world = int(os.environ.get("WORLD_SIZE", 1))
    args = arguments(stage, world)
    sources = read_sources(stage)
    model, processor = start(stage)
    if stage.lora is not None:
        lora.adapt(model, stage.lora)
    parts.freeze(model, stage.tune)
    # the first to come looks at every file, the others read what it noted
    with args.main_process_first(local=False):
        feed = feed_of(
            stage, sources, processor, cache=folder / CACHE, progress=sys.stderr.isatty()
        )
        sampler = sampler_of(stage, feed, world)
    tokenizer = processor.tokenizer
    pad = tokenizer.pad_token_id
    collator = Collator(tokenizer.eos_token_id if pad is None else pad, stage.max_length)
    calls = [Epochs(sampler, feed), Record(folder, stage.name), Stop(signals)]
    trainer = StageTrainer(model, stage, args, feed, collator, sampler, processor, calls)
    return trainer, feed, list(sources.bad)


def _trained(trainer: Any, feed: Feed, bad: list, folder: Path, signals: Signals) -> int:
    stage, main = trainer.stage, trainer.is_world_process_zero()
    if main:
        for left in (folder / UNFINISHED, folder / ".saving"):
            shutil.rmtree(left, ignore_errors=True)
        write_text(folder / RUN, _record(stage, False))
        _say(True, _opening(trainer, feed, bad))
    newest = checkpoints(folder)[-1:]
    if newest:
        _say(main, f"{stage.name}: goes on from {newest[0]}")
    try:
        trainer.train(resume_from_checkpoint=str(newest[0]) if newest else None)
    except BadRowError as error:  # of a worker it comes with a whole traceback as its text
        raise ValueError(str(error).splitlines()[-1].rpartition("BadRowError: ")[2]) from error
    state = trainer.state
    if main:
        _report(bad + feed.skipped, folder)
    caught = signals.agreed(trainer.args.device)
    if caught is not None and state.global_step < state.max_steps:
        where = checkpoints(folder)[-1]
        told = f"{name(caught)} after step {state.global_step} of {state.max_steps}"
        _say(main, f"{stage.name}: stopped by {told}; {where} is whole, run the same to go on")
        return status(caught)
    _finish(trainer, folder)
    trainer.accelerator.wait_for_everyone()  # none leaves while another still writes
    _say(main, f"{stage.name}: {state.global_step} steps done, model in {folder}")
    return 0


def _finish(trainer: Any, folder: Path) -> None:
    """The model in the official format, in the type of the passes."""
    stage = trainer.stage
    dtype = torch.bfloat16 if stage.precision == "bf16" else None
    state = whole_state(trainer, dtype if stage.lora is None else None)
    if state is None:
        return
    if stage.lora is not None:
        state = {n: t.to(dtype or t.dtype) for n, t in lora.merged(state, stage.lora).items()}
    if trainer.plain.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    model = trainer.accelerator.unwrap_model(trainer.model)
    write_whole(model, trainer.processor, folder, state, "llm" not in stage.tune)
    curve(folder, stage.name)
    write_text(folder / RUN, _record(stage, True))


def _folder(stage: StageSettings) -> Path:
    if stage.output is None:
        raise ValueError("output: expected a folder for the run (--output), got none")
    folder = Path(stage.output)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: expected a folder, got the file {folder}")
    return folder


def _earlier(stage: StageSettings, folder: Path) -> str | None:
    """Whether the folder holds this run, "finished" or "begun"; None = nothing of it.

    Raises:
        ValueError: it holds another run, or any if none is to be resumed.
    """
    known = read_json(folder / RUN)
    whole = checkpoints(folder)
    if known is None:
        if whole or (folder / CONFIG).exists():
            raise ValueError(f"output: expected a new folder or a run's own, got {folder}")
        return None
    if not known["finished"] and not whole:
        return None
    if stage.resume == "never":
        raise ValueError(f"output: expected a new folder (resume: never), got a run in {folder}")
    before, now = known["settings"], json.loads(_record(stage, False))["settings"]
    for key in now:
        if key not in FREE and before.get(key) != now[key]:
            raise ValueError(
                f"{key}: expected {before.get(key)!r}, as the run in {folder} was begun, got "
                f"{now[key]!r} (name another output)"
            )
    return "finished" if known["finished"] else "begun"


@contextmanager
def _removed_if_new(folder: Path) -> Iterator[None]:
    """A folder that was made for what then fails is gone again."""
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _record(stage: StageSettings, finished: bool) -> str:
    return json.dumps({"finished": finished, "settings": stage.plain()}, indent=1) + "\n"


def _opening(trainer: Any, feed: Feed, bad: list) -> str:
    stage, args = trainer.stage, trainer.args
    tuned = ", ".join(
        f"{part} {count / 1e6:.1f}M at {stage.tune[part]:g}"
        for part, (_, count) in parts.counts(trainer.plain).items()
        if part in stage.tune
    )
    sizes = f"{stage.batch} x {args.gradient_accumulation_steps} x {args.world_size}"
    told = f"{stage.name}: {len(feed)} rows, {len(bad)} bad; {stage.global_batch} a step ({sizes})"
    return f"{told}; tunes {tuned}"


def _report(bad: list, folder: Path) -> None:
    lines = [json.dumps({"file": b.file, "index": b.index, "reason": b.reason}) for b in bad]
    if bad:
        write_text(folder / BAD, "".join(line + "\n" for line in lines))
        _say(True, f"bad rows skipped: {len(bad)}, see {folder / BAD}")


def _say(main: bool, text: str) -> None:
    if main:
        print(text, file=sys.stderr, flush=True)
