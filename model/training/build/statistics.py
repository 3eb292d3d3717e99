"""What was built and what was not: counts for people, and the same as JSON."""

from __future__ import annotations

from collections import Counter
from statistics import fmean, median
from typing import Any

from .building import Built, Recipe
from .events import Reading
from .timeline import SECOND
from .wording import LETTERS

PARTS = ("train", "val")


class Tally:
    """Counts rows as they are written."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.rows: dict[str, Counter[str]] = {part: Counter() for part in PARTS}
        self.videos: Counter[str] = Counter()
        self.letters: dict[str, Counter[str]] = {task: Counter() for task in recipe.tasks}
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.empty = 0

    def add(self, built: Built, part: str) -> None:
        """Count a video's rows as those of this part, "train" or "val"."""
        self.dropped.update(built.dropped)
        self.videos[part] += bool(built.rows)
        self.empty += not built.rows
        for task, letter, _ in built.rows:
            self.rows[part][task] += 1
            self.letters[task].update(letter or "")

    def report(self, reading: Reading) -> dict[str, Any]:
        """All counts as JSON takes them; times in seconds."""
        events = [event for video in reading.videos for event in video.events]
        lengths = [(event.end - event.start) / SECOND for event in events]
        known = [video.duration / SECOND for video in reading.videos if video.duration]
        tasks = self.recipe.tasks
        return {
            "seed": self.recipe.seed,
            "per_video": self.recipe.per_video,
            "rows": {
                task: {part: self.rows[part][task] for part in PARTS}
                | {"letters": {x: self.letters[task][x] for x in LETTERS}}
                for task in tasks
            },
            "videos": {part: self.videos[part] for part in PARTS}
            | {"without rows": self.empty, "seconds": spread(known)},
            "events": {
                "read": reading.read,
                "used": len(events),
                "a video": spread([len(video.events) for video in reading.videos]),
                "seconds": spread(lengths),
            },
            "dropped": {
                "events": dict(sorted(reading.dropped.items())),
                "questions": {
                    task: {why: n for (of, why), n in sorted(self.dropped.items()) if of == task}
                    for task in tasks
                },
            },
            "bad rows": [{"row": row, "reason": reason} for row, reason in reading.bad],
        }


def spread(values: list[float]) -> dict[str, float] | None:
    """Smallest, median, mean and largest, rounded to tenths; None of no values.

    >>> spread([1, 2, 6])
    {'min': 1, 'median': 2, 'mean': 3.0, 'max': 6}
    """
    if not values:
        return None
    found = {
        "min": min(values),
        "median": median(values),
        "mean": fmean(values),
        "max": max(values),
    }
    return {name: round(value, 1) for name, value in found.items()}


def table(report: dict[str, Any]) -> str:
    """The report as lines to be read."""
    lines = [("task", *PARTS, *LETTERS, "dropped")]
    for task, counts in report["rows"].items():
        left = sum(report["dropped"]["questions"][task].values())
        cells = [counts[part] for part in PARTS] + list(counts["letters"].values()) + [left]
        lines.append((task, *(f"{cell:,}" for cell in cells)))
    text = ["  ".join([f"{line[0]:<10}", *(f"{c:>8}" for c in line[1:])]) for line in lines]
    videos, events = report["videos"], report["events"]
    text += [
        f"videos: {videos['train']:,} train, {videos['val']:,} val, "
        f"{videos['without rows']:,} without rows; seconds {_spread(videos['seconds'])}",
        f"events: {events['read']:,} read, {events['used']:,} used; "
        f"a video {_spread(events['a video'])}; seconds {_spread(events['seconds'])}",
    ]
    text += [f"  event left out, {why}: {n:,}" for why, n in report["dropped"]["events"].items()]
    for task, reasons in report["dropped"]["questions"].items():
        text += [f"  {task} not asked, {why}: {n:,}" for why, n in reasons.items()]
    text += [f"  bad row {bad['row']}: {bad['reason']}" for bad in report["bad rows"]]
    return "\n".join(text)


def _spread(found: dict[str, float] | None) -> str:
    if found is None:
        return "unknown"
    low, middle, high = (f"{found[name]:,}" for name in ("min", "median", "max"))
    return f"{low} to {high}, median {middle}"
