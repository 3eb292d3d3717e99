"""The stages of hico-tiny, each from weights to weights in as many seconds as are given."""

import argparse
import inspect
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hico.model.vision.clip_modes import MODES

from .align import align
from .bank import paint_bank
from .levels import LEVELS
from .perceive import perceive
from .reading import Heads
from .recall import examine, recall
from .recipe import repeat
from .weights import READING, check_size, new_model, open_model, take_reader, write_model

HEADS = "heads.safetensors"  # stage 0a's alone
SO_FAR, EACH = "so-far", 60  # of stage 0b, where and how often: after so many seconds
STAGES = ("0a", "0b", "1", "2", "3", "4", "all")
WORKERS = 8  # of stage 0; the others say it themselves
LEAST = {"workers": 0, "seed": 0, "worlds": 1, "hay": 4, "tested": 0, "level": 0}
GIVEN = {"0a": ("heads",), "0b": ("levels", "level", "workers", "seed")}  # not through --set
TOLD = (
    "0a: the encoder reads cards; 0b: the LLM finds them; 1 to 4: as published, see stages/; all: "
    "every run of recipe.yaml that --out does not have yet"
)


def _object(text: str) -> dict[str, Any]:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"expected a JSON object, got {text}")
    return found


def parser() -> argparse.ArgumentParser:
    """The arguments of `python -m hico.model.training.tiny`."""
    found = argparse.ArgumentParser(
        prog="python -m hico.model.training.tiny", description=__doc__, allow_abbrev=False
    )
    add = found.add_argument
    add("stage", choices=STAGES, help=TOLD)
    add("--seconds", type=float, metavar="N", help="how long to train (all: as the recipe says)")
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="DIR",
        help="a folder that --out was (0b: the encoder at hand)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="weights, notes and curves")
    add("--seed", type=int, default=0, help="of weights and data (0)")
    add("--peak", type=float, help="highest rate (1e-3; of 1 to 4, the stage's own)")
    add("--device", help="cuda or cpu (the GPU where there is one)")
    add("--workers", type=int, metavar="N", help="processes that draw ahead (8; the stage's own)")
    add(
        "--set",
        type=_object,
        default={},
        metavar="JSON",
        help='other arguments of the stage, such as {"tune.llm": 1e-4} in 1 to 4',
    )
    bank = found.add_argument_group("0b: the bank of clips")
    bank.add_argument("--worlds", type=int, default=1200, help="about 40 cards each (1200)")
    bank.add_argument("--hay", type=int, default=8000, help="clips of haystack (8000)")
    bank.add_argument(
        "--clip", choices=MODES, default="similarity", help="how clips are compressed (similarity)"
    )
    bank.add_argument("--tested", type=int, default=0, help="worlds of the test split, behind (0)")
    bank.add_argument("--level", type=int, help="to begin with (where the last run ended)")
    last = len(LEVELS) - 1
    bank.add_argument("--until", type=int, default=last, help="the last level (%(default)s)")
    return found


def main(argv: list[str] | None = None) -> int:
    """Run a stage; 0 on success.

    Every record is printed, and added to curve-STAGE.jsonl in --out; the weights are written there
    at the end, as a model that load_model opens, and only then tested. What stage 0b has learned so
    far lies in --out/so-far meanwhile, for --from.

    Raises:
        ValueError, OSError: arguments out of range, or folders that do not fit.
    """
    args = parser().parse_args(argv)
    if args.out.exists() and not args.out.is_dir():
        raise NotADirectoryError(f"--out: expected a folder, got the file {args.out}")
    if args.stage == "all":
        return _all(args)
    _check(args)
    device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")

    def tell(record: dict[str, Any]) -> None:
        line = json.dumps(record)
        with (args.out / f"curve-{args.stage}.jsonl").open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")
        print(line, flush=True)

    begin = _from_nothing if args.stage in ("0a", "0b") else _tuned
    model, processor, notes = begin(args, device, tell)
    notes.setdefault("runs", []).append({"stage": args.stage, "seconds": args.seconds})
    write_model(model, processor, args.out, notes)
    if args.stage == "0b":
        shutil.rmtree(args.out / SO_FAR, ignore_errors=True)
        for record in _examined(model, processor, notes, args):
            tell(record)
    print(f"{args.stage}: {args.seconds:.0f} s, written to {args.out}")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises ValueError for what would be wrong only when a bank is painted, or never."""
    if args.seconds is None or not args.seconds > 0:
        raise ValueError(f"--seconds: expected more than 0, got {args.seconds}")
    if args.peak is not None and not 0 < args.peak < float("inf"):
        raise ValueError(f"--peak: expected more than 0, got {args.peak}")
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"--{name}: expected {least} or more, got {value}")
    for name in ("level", "until"):
        if (getattr(args, name) or 0) not in range(len(LEVELS)):
            most = len(LEVELS) - 1
            raise ValueError(f"--{name}: expected 0 to {most}, got {getattr(args, name)}")
    if args.level is not None and args.level > args.until:
        raise ValueError(f"--level: expected at most --until {args.until}, got {args.level}")
    if args.stage in GIVEN:
        stage: Callable[..., Any] = perceive if args.stage == "0a" else recall
        every = inspect.signature(stage).parameters.values()
        known = [one.name for one in every if one.kind is one.KEYWORD_ONLY]
        known = [name for name in known if name not in GIVEN[args.stage]]
        wrong = [name for name in args.set if name not in known]
        if wrong:
            raise ValueError(f"--set: expected some of {', '.join(known)}, got {wrong[0]}")


def _all(args: argparse.Namespace) -> int:
    """Every run of the recipe."""
    usual = parser()
    given = {k: v for k, v in vars(args).items() if v != usual.get_default(k)}
    for name in given.keys() - {"stage", "out", "device", "workers"}:
        raise ValueError(
            f"--{name.replace('source', 'from')}: expected it of one stage, not of all"
        )
    more = [word for k in ("device", "workers") if k in given for word in (f"--{k}", str(given[k]))]
    return repeat(args.out, more)


def _from_nothing(args: argparse.Namespace, device: str, tell: Callable) -> Any:
    """(model, processor, notes) of stage 0a or 0b."""
    dtype = torch.bfloat16 if device.startswith("cuda") else torch.float32
    if args.source is None:
        model, processor = new_model(args.seed, device, dtype)
        notes: dict[str, Any] = {}
        if args.stage == "0b":
            take_reader(model)
    else:
        model, processor, notes = open_model(args.source, device, dtype)
        check_size(model)
    args.out.mkdir(parents=True, exist_ok=True)
    args.workers = WORKERS if args.workers is None else args.workers
    stage = _perceive if args.stage == "0a" else _recall
    for record in stage(model, processor, notes, args):
        tell(record)
    return model, processor, notes


def _tuned(args: argparse.Namespace, device: str, tell: Callable) -> Any:
    """(model, processor, notes) of stage 1, 2, 3 or 4."""
    from .tune import stage_of, tune

    if args.source is None:
        raise ValueError(f"--from: expected a folder of the stage before {args.stage}, got none")
    model, _, notes = open_model(args.source, "cpu")
    check_size(model)
    own: dict[str, Any] = {"seed": args.seed, "model": str(args.source), "output": str(args.out)}
    if args.workers is not None:
        own["workers"] = args.workers
    if device == "cpu":
        own |= {"device": "cpu", "precision": "fp32"}
    stage = stage_of(args.stage, own | args.set, args.peak)
    return *tune(stage, args.seconds, tell), notes


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
    # a folder without notes is no stage's, such as the one that ships: it can do this already
    if args.source is None or (notes and "level" not in notes):
        yield {"align": round(align(model, bank, processor.tokenizer), 4)}
    kept, notes["level"] = 0.0, min(level, args.until)
    for record in recall(
        model,
        bank,
        processor.tokenizer,
        args.seconds,
        levels=LEVELS[: args.until + 1],
        level=notes["level"],
        workers=args.workers,
        seed=args.seed,
        **given,
    ):
        notes["level"] = record["level"]
        yield record
        if record["seconds"] > kept + EACH:
            _keep_heads(args.source, write_model(model, processor, args.out / SO_FAR, notes))
            kept = record["seconds"]
    _keep_heads(args.source, args.out)


def _keep_heads(source: Path | None, folder: Path) -> None:
    """The heads of 0b's encoder, for stage 0a, which may go on from here."""
    heads = READING if source is None else source / HEADS
    if heads.is_file() and heads.resolve() != (folder / HEADS).resolve():
        shutil.copy(heads, folder / HEADS)


def _examined(
    model: Any, processor: Any, notes: dict[str, Any], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """What is right at each level up to the last one, on so many worlds of the split "test"."""
    if not args.tested:
        return
    bank = paint_bank(model, args.tested, args.hay // 4, "test", args.seed, mode=args.clip)
    for number, one in enumerate(LEVELS[: notes.get("level", 0) + 1]):
        yield {"tested": number, **examine(model, bank, processor.tokenizer, one)}
