"""`hico train`: one stage of training from its YAML file."""

from __future__ import annotations

import argparse
import json
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `hico train`."""
    add = parser.add_argument
    add(
        "stage",
        help="a stage's YAML file, or one that ships: align, short, joint, high_resolution",
    )
    add("--model", metavar="ID_OR_PATH", help="where to start from, instead of the file's")
    add("--data", metavar="YAML", help="the data sets, instead of the file's")
    add("--output", metavar="DIR", help="where the run goes, instead of the file's")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="other settings, such as batch=2 tune.llm=1e-5 dropout.share=0.5",
    )
    add("--on-bad", choices=("raise", "skip"), help="what is done with rows that can't be read")
    add(
        "--dry-run",
        action="store_true",
        help="build the model without weights, say what would be tuned and how, and stop",
    )


def run(args: argparse.Namespace) -> int:
    """Train, or only say what would be trained; the exit status.

    Raises:
        ValueError, OSError: as load_stage and hico.model.training.run.train.
    """
    from .settings import load_stage

    own = {"model": args.model, "data": args.data, "output": args.output, "on_bad": args.on_bad}
    named = [f"{key}={json.dumps(value)}" for key, value in own.items() if value is not None]
    stage = load_stage(args.stage, [*args.set, *named])
    if args.dry_run:
        print(plan(stage))
        return 0
    from .run import train

    return train(stage)


def plan(stage: Any) -> str:
    """What the stage would do, from the model's shapes and, if there are any, its data."""
    from . import lora, parts
    from .feed import read_sources
    from .start import on_meta

    model = on_meta(stage)
    if stage.lora is not None:
        lora.adapt(model, stage.lora)
    parts.freeze(model, stage.tune)
    lines = [f"{stage.name}: {stage.model}, tower {model.config.mm_vision_tower} at "
             f"{model.encoder.image_size} pixels"]  # fmt: skip
    rows = [("part", "parameters", "tuned", "learning rate")]
    for part, (count, tuned) in parts.counts(model).items():
        rate = f"{stage.tune[part]:g}" if part in stage.tune else "frozen"
        rows.append((part, f"{count:,}", f"{tuned:,}", rate))
    lines += [f"  {a:<10} {b:>15} {c:>15}  {d}" for a, b, c, d in rows]
    for group in parts.groups(model, stage.tune):
        decay = stage.weight_decay if group.decays else 0.0
        lines.append(
            f"  group {group.part}: {len(group.names)} tensors, {group.count:,} numbers, learning "
            f"rate {group.rate:g}, weight decay {decay:g}"
        )
    frames = f"{stage.min_frames} to {stage.max_frames} frames ({stage.sampling})"
    lines.append(f"  {frames}, template {stage.template}, at most {stage.max_length} tokens")
    lines.append(f"  {stage.global_batch} rows a step, {stage.batch} a pass of a process")
    if stage.data is not None:
        sources = read_sources(stage)
        steps = stage.steps or stage.epochs * (len(sources.rows) // stage.global_batch)
        told = f"{len(sources.rows)} rows, {len(sources.bad)} bad, {len(sources.worlds)} worlds"
        lines.append(f"  {told}; {steps} steps" if not sources.worlds else f"  {told}")
    return "\n".join(lines)
