"""What the questions of one method came to: from film to film, and from row to row."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from hico.bench import record
from hico.bench.quality_methods import layer_average
from hico.bench.record import Row
from hico.model.needle.asking import Ask
from hico.model.needle.grid import share_of
from hico.model.stats import Stage

SAID = ("case", "provider", "levels", "model", "frames", "settings", "complete", "error")
FOUND = (
    "questions", "films", "accuracy", "low", "high", "outcomes", "frames_seen", "stage_tokens",
    "dropped_before", "tokens", "tokens_a_layer", "survival", "peak_bytes", "above_bytes",
    "films_s", "seconds",
)  # fmt: skip


@dataclass
class Tally:
    """What the films so far came to; a row holds it, and a later run goes on with it.

    Attributes:
        films: that have been asked.
        outcomes: kind of question -> "01..." in the order of films and of their questions.
        watching, question: seconds, a film each; a question's is the mean over its film.
        tokens: visual ones of the first layer, then what each stage of dropout leaves.
        frames: that the encoder saw; layers: before which tokens are dropped.
        survival: for each stage and hop the sum of the shares of needles' tokens that are left.
        peak, above: bytes, the device's most, and without what was there before a film.
        complete: whether all films have been asked.
    """

    films: int = 0
    outcomes: dict[str, str] = field(default_factory=dict)
    watching: list[float] = field(default_factory=list)
    question: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    frames: int = 0
    layers: list[int] = field(default_factory=list)
    survival: list[Row] = field(default_factory=list)
    peak: int = 0
    above: int | None = None
    complete: bool = False

    @property
    def count(self) -> int:
        """Questions."""
        return sum(map(len, self.outcomes.values()))

    def answered(self, ask: Ask, right: bool) -> None:
        """One more outcome."""
        self.outcomes[ask.kind] = self.outcomes.get(ask.kind, "") + "01"[right]

    def survived(self, stages: list[Row]) -> None:
        """What every stage, with its shares of each hop's needle, left of one question's."""
        for i, stage in enumerate(stages):
            if i == len(self.survival):
                self.survival.append(stage | {"hops": [0.0] * len(stage["hops"])})
            sums = self.survival[i]["hops"]
            self.survival[i]["hops"] = [a + b for a, b in zip(sums, stage["hops"], strict=True)]

    def noted(self, stage: Stage, before: int | None) -> None:
        """The memory of a stage."""
        self.peak = max(self.peak, stage.peak)
        if before is not None:
            self.above = max(self.above or 0, stage.peak - before)


def row_of(tally: Tally, depth: int, encoding: float | None) -> Row:
    """What a row says of a tally.

    Args:
        depth: layers of the language model.
        encoding: seconds of a film's, None = nothing is timed.
    """
    every = share_of([outcome == "1" for said in tally.outcomes.values() for outcome in said])
    count, timed = tally.count, encoding is not None
    row: Row = {
        "questions": count,
        "complete": tally.complete,
        "films": tally.films,
        "accuracy": every["score"],
        "low": every["low"],
        "high": every["high"],
        "chance": 0.25,
        "outcomes": tally.outcomes,
        "frames_seen": tally.frames if timed else None,
        "tokens": tally.tokens[0],
        "stage_tokens": tally.tokens,
        "dropped_before": tally.layers,
        "tokens_a_layer": layer_average(tally.tokens, tally.layers, depth),
        "survival": [
            stage | {"hops": [round(share / max(1, count), 6) for share in stage["hops"]]}
            for stage in tally.survival
        ],
        "peak_bytes": tally.peak,
        "above_bytes": tally.above,
        "films_s": [tally.watching, tally.question],
        "seconds": None,
    }
    if encoding is not None:
        parts = {
            "encoding_s": encoding,
            "watching_s": median(tally.watching),
            "question_s": median(tally.question),
        }
        row |= parts | {"seconds": sum(parts.values())}
    return row


def tally_of(row: Row | None) -> Tally:
    """The tally that a row was made of, an empty one of None."""
    if row is None or row["error"]:
        return Tally()
    watching, question = row["films_s"]
    sums = [
        stage | {"hops": [share * row["questions"] for share in stage["hops"]]}
        for stage in row["survival"]
    ]
    return Tally(
        row["films"], dict(row["outcomes"]), list(watching), list(question),
        list(row["stage_tokens"]), row["frames_seen"] or 0, list(row["dropped_before"]), sums,
        row["peak_bytes"], row["above_bytes"], row["complete"],
    )  # fmt: skip


def settled(row: Row) -> bool:
    """Whether another run would add nothing."""
    return row["complete"] or row.get("skipped", False)


def newest(path: Path) -> dict[str, Row]:
    """The last row of a file for each of its settings, the latest row at the end.

    Raises:
        ValueError: as record.load, or a row that lacks what these have.
    """
    found: dict[str, Row] = {}
    for row in record.load(path):
        if row.get("suite") != "quality":
            continue
        done = isinstance(row.get("error", ""), str)
        missing = [name for name in (SAID if done else (*SAID, *FOUND)) if name not in row]
        if missing or not isinstance(row["settings"], dict):
            wrong = ", ".join(missing) or "settings by name"
            raise ValueError(f"{path}: expected rows of bench quality, got one without {wrong}")
        key = key_of(row["settings"])
        found.pop(key, None)
        found[key] = row
    return found


def key_of(settings: Row) -> str:
    """Equal for equal settings, read from a file or not."""
    return json.dumps(settings, sort_keys=True)
