"""`python -m hico.bench worlds`: what synthetic worlds give away to who cannot solve them.

Blind: question and options alone. One random frame, and 64 uniform frames, for a perfect reader of
them. Colour histograms and nearest neighbours, for which all frames are drawn. Chance is 1/4; the
readers and the guessers may learn from as many other worlds of the kind.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from tqdm import tqdm

from hico.bench import record, worlds_blind
from hico.bench.record import Row
from hico.bench.worlds_pixels import Searcher
from hico.bench.worlds_readers import case_of, right, sights, weights
from hico.model.needle.grid import wilson
from hico.model.training.worlds import KINDS, Question, World
from hico.model.training.worlds.make import CARDS
from hico.model.training.worlds.spec import WorldSpec
from hico.model.training.worlds.splits import SPLITS

RESULTS = record.RESULTS / "worlds.jsonl"
UNIFORM, CHANCE = 64, 0.25


def one_frame(world: World, rng: np.random.Generator) -> np.ndarray:
    """Any frame."""
    return rng.integers(world.frames, size=1)


def uniform(world: World, rng: np.random.Generator) -> np.ndarray:
    """64 frames, evenly spaced."""
    return np.linspace(0, world.frames - 1, min(UNIFORM, world.frames)).round().astype(int)


READERS: dict[str, Callable[[World, np.random.Generator], np.ndarray]] = {
    "one random frame": one_frame,
    f"{UNIFORM} uniform frames": uniform,
}


def blind(spec: WorldSpec, known: WorldSpec) -> dict[str, list[float]]:
    """Every way of guessing, and how often it is right."""

    def asked(given: WorldSpec) -> list[Question]:
        return [given.make(i).questions[0] for i in range(given.count)]

    guessed = worlds_blind.guesses(asked(known), asked(spec))
    return {name: [float(hit) for hit in hits] for name, hits in guessed.items()}


def reading(spec: WorldSpec, known: WorldSpec, provider: str) -> list[float]:
    """How often a perfect reader of some frames is right, question by question."""
    found = []
    for given in (known, spec):
        rng = np.random.default_rng([given.seed, 5])
        worlds = (given.make(i) for i in range(given.count))
        found.append(
            [
                case_of(world, world.questions[0], sights(world, READERS[provider](world, rng)))
                for world in worlds
            ]
        )
    weight = weights(found[0])
    return [right(case, weight) for case in found[1]]


def pixels(spec: WorldSpec, size: int, device: torch.device, until: float) -> list[float]:
    """How often the nearest neighbour by colours is right; ends early when time is up."""
    hits: list[float] = []
    for i in tqdm(range(spec.count), f"{spec.world} pixels", disable=not sys.stderr.isatty()):
        if hits and time.perf_counter() > until:
            break
        world, rng = spec.make(i), Random(i)
        search = Searcher.of(world, size, device)
        hits += [float(search.answer(one, rng) == one.answer) for one in world.questions]
    return hits


def row_of(spec: WorldSpec, provider: str, hits: list[float], **more: object) -> Row:
    """One row: accuracy, its interval, and the settings."""
    low, high = wilson(sum(hits), len(hits))
    return {
        "suite": "worlds", "kind": "accuracy", "case": spec.world, "provider": provider,
        "card": spec.card, "frames": spec.frames, "split": spec.split, "questions": len(hits),
        "accuracy": sum(hits) / len(hits), "low": low, "high": high, "chance": CHANCE,
        "seed": spec.seed, "error": None,
    } | more  # fmt: skip


def measure(spec: WorldSpec, args: argparse.Namespace, device: torch.device) -> list[Row]:
    """All baselines of one kind of world."""
    known = WorldSpec.of(vars(spec) | {"seed": spec.seed + 1})
    ways = blind(spec, known)
    best = max(ways, key=lambda name: sum(ways[name]))
    shares = {name: sum(hits) / len(hits) for name, hits in ways.items()}
    rows = [row_of(spec, "blind", ways[best], best=best, ways=shares)]
    rows += [row_of(spec, name, reading(spec, known, name)) for name in READERS]
    if args.videos:
        drawn = WorldSpec.of(
            vars(spec) | {"count": args.videos, "questions": args.questions, "device": str(device)}
        )
        until = time.perf_counter() + args.budget
        hits = pixels(drawn, args.size, device, until)
        rows.append(row_of(drawn, "colour histogram", hits, size=args.size))
    return rows


def line(row: Row) -> str:
    """One printed line of a row."""
    name = f"{row['case']:9} {row['card']:6} {row['provider']:17}"
    return (
        f"{name} {row['accuracy']:6.1%}  [{row['low']:.1%}, {row['high']:.1%}]  "
        f"chance {row['chance']:.0%}  {row['questions']} questions of {row['frames']} frames"
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    kinds = ",".join(KINDS)
    parser.add_argument("--kind", default=kinds, help=f"of: {kinds} (all)")
    parser.add_argument("--frames", type=int, default=1000, help="of a video (%(default)s)")
    parser.add_argument("--count", type=int, default=1000, help="questions a row (%(default)s)")
    parser.add_argument("--card", choices=CARDS[:2], default="turned", help="(%(default)s)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="(%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--videos", type=int, default=100, help="drawn for the histograms, 0 = none (%(default)s)"
    )
    parser.add_argument("--questions", type=int, default=4, help="of each of these (%(default)s)")
    parser.add_argument("--size", type=int, default=96, help="pixels of these (%(default)s)")
    parser.add_argument(
        "--budget", type=float, default=600.0, metavar="SECONDS",
        help="no new drawn video of a kind after so many (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--device", help="where they are drawn (a GPU where there is one)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """0; whether a row is near chance is for reading."""
    kinds = [name.strip() for name in args.kind.split(",")]
    if not set(kinds) <= set(KINDS):
        raise ValueError(f"kind: expected some of {', '.join(KINDS)}, got {args.kind}")
    for name, least in (("count", 4), ("videos", 0), ("questions", 1), ("size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"{name}: expected {least} or more, got {getattr(args, name)}")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    specs = [
        WorldSpec(kind, 2 * args.seed, args.frames, args.count, args.split, card=args.card, hops=3)
        for kind in kinds
    ]
    common = record.environment(device) | {"quick": False}
    for spec in specs:
        for row in measure(spec, args, device):
            record.append(args.out, row | common)
            print(line(row), flush=True)
    print(f"rows appended to {args.out}")
    return 0
