"""Stages 0a and 0b of hico-tiny, each from weights to weights in as many seconds as are given."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hico.model.vision.clip_modes import MODES

from .align import align
from .bank import paint_bank
from .perceive import perceive
from .reading import Heads
from .recall import LEVELS, examine, recall
from .weights import new_model, open_model, take_reader, write_model

HEADS = "heads.safetensors"  # stage 0a's alone
STAGES = ("0a", "0b")


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m hico.model.training.tiny`."""
    found = argparse.ArgumentParser(
        prog="python -m hico.model.training.tiny", description=__doc__, allow_abbrev=False
    )
    add = found.add_argument
    add("stage", choices=STAGES, help="0a: the encoder reads cards; 0b: the LLM finds them")
    add("--seconds", type=float, required=True, metavar="N", help="how long to train")
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="a folder that --out was (0b: the encoder at hand)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="weights, notes and curves")
    add("--seed", type=int, default=0, help="of weights and data (0)")
    add("--peak", type=float, help="highest rate (1e-3)")
    add("--device", help="cuda or cpu (the GPU where there is one)")
    add("--workers", type=int, default=8, metavar="N", help="processes that draw ahead (8)")
    add("--set", type=json.loads, default={}, metavar="JSON", help="other arguments of the stage")
    bank = found.add_argument_group("0b: the bank of clips")
    bank.add_argument("--worlds", type=int, default=1200, help="about 40 cards each (1200)")
    bank.add_argument("--hay", type=int, default=8000, help="clips of haystack (8000)")
    bank.add_argument(
        "--clip", choices=MODES, default="similarity", help="how clips are compressed (similarity)"
    )
    bank.add_argument("--tested", type=int, default=0, help="worlds of the test split, behind (0)")
    bank.add_argument("--level", type=int, help="to begin with (where the last run ended)")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run a stage; 0 on success.

    Every record is printed, and added to curve-STAGE.jsonl in --out; the weights are written there
    at the end, as a model that load_model opens.

    Raises:
        ValueError, OSError: arguments out of range, or folders that do not fit.
    """
    args = parser().parse_args(argv)
    if not args.seconds > 0:
        raise ValueError(f"seconds: expected more than 0, got {args.seconds}")
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if args.source is None:
        model, processor = new_model(args.seed, device, dtype)
        notes: dict[str, Any] = {}
        if args.stage == "0b":
            take_reader(model)
    else:
        model, processor, notes = open_model(args.source, device, dtype)
    args.out.mkdir(parents=True, exist_ok=True)
    stage = _perceive if args.stage == "0a" else _recall
    with (args.out / f"curve-{args.stage}.jsonl").open("a", encoding="utf-8") as file:
        for record in stage(model, processor, notes, args):
            line = json.dumps(record)
            file.write(f"{line}\n")
            file.flush()
            print(line, flush=True)
    notes.setdefault("runs", []).append({"stage": args.stage, "seconds": args.seconds})
    write_model(model, processor, args.out, notes)
    print(f"{args.stage}: {args.seconds:.0f} s, written to {args.out}")
    return 0


def _perceive(
    model: Any, processor: Any, notes: dict[str, Any], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    heads = Heads(model.encoder.channels)
    if args.source is not None and (args.source / HEADS).is_file():
        heads.load_state_dict(load_file(args.source / HEADS))
    given = args.set | ({} if args.peak is None else {"peak": args.peak})
    given = {"workers": args.workers, "seed": args.seed} | given
    yield from perceive(model, args.seconds, heads=heads, **given)
    whole = {name: one.detach().float().cpu() for name, one in heads.state_dict().items()}
    save_file(whole, args.out / HEADS)


def _recall(
    model: Any, processor: Any, notes: dict[str, Any], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    given = args.set | ({} if args.peak is None else {"peak": args.peak})
    level = notes.get("level", 0) if args.level is None else args.level
    bank = paint_bank(model, args.worlds, args.hay, seed=args.seed, mode=args.clip)
    if "level" not in notes:
        yield {"align": round(align(model, bank, processor.tokenizer), 4)}
    for record in recall(
        model,
        bank,
        processor.tokenizer,
        args.seconds,
        level=min(level, len(LEVELS) - 1),
        workers=args.workers,
        seed=args.seed,
        **given,
    ):
        notes["level"] = record["level"]
        yield record
    if args.tested:
        bank = paint_bank(model, args.tested, args.hay // 4, "test", args.seed, mode=args.clip)
        for number, one in enumerate(LEVELS[: notes.get("level", 0) + 1]):
            yield {"tested": number, **examine(model, bank, processor.tokenizer, one)}
