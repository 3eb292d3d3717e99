"""Reading event annotations.

A JSONL file, UTF-8, one JSON object a line, in one of two forms that may be mixed:

    {"video": "a.mp4", "start": 12, "end": 17.5, "caption": "a dog barks", "duration": 600}
    {"video": "a.mp4", "duration": 600, "events": [{"start": 12, "end": 17.5, "caption": "..."}]}

Times are seconds from the video's beginning; "duration", the video's, may be left out. Rows of one
video belong together wherever they stand, and what else a row holds is ignored.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .timeline import SECOND, Event, Video, plain

LONGEST = 1_000_000  # seconds, 11 days: more is milliseconds mistaken for seconds
ROUNDING = SECOND // 2  # an event may end this much after its video
# what templates and tokenizers take for something else than text
MARKS = re.compile(r"<image>|<video>|<\|[^|<>]*\|>")


@dataclass
class Reading:
    """What a file held: videos by name, rows left out as (row, reason), and counts of events."""

    videos: list[Video] = field(default_factory=list)
    bad: list[tuple[int, str]] = field(default_factory=list)
    read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class _Noted:
    """What is known of a video before all rows are read."""

    row: int
    events: list[tuple[int, Event]] = field(default_factory=list)
    durations: dict[int, int] = field(default_factory=dict)  # row -> tenths
    complete: bool = True


def read_events(
    path: str | os.PathLike[str],
    on_bad: str = "raise",
    measure: Callable[[str], float] | None = None,
) -> Reading:
    """The videos of an annotation file, ordered by name, their events by start.

    Events that end up to half a second after their video are cut to it. Events without a duration
    or further beyond the end are kept apart as `Video.faint`, and counted. An event that is there
    twice counts once. All of this is the same in whatever order the rows come.

    Args:
        path: a file as the module describes it.
        on_bad: "raise", or "skip" to leave rows out and list them in `Reading.bad`.
        measure: video -> seconds, which then count instead of the stated duration; its OSError or
            ValueError makes all rows of the video bad.

    Raises:
        FileNotFoundError, PermissionError: no such file, or it may not be read.
        ValueError: a bad row and on_bad is "raise": file, row and reason. No rows at all.
    """
    reading, noted = Reading(), dict[str, _Noted]()
    for row, line in _lines(path):
        try:
            _note(row, line, noted, reading)
        except ValueError as error:
            reading.bad.append((row, str(error)))
    names = sorted(noted)
    quiet = measure is None or not sys.stderr.isatty()
    for name in tqdm(names, "checking", unit="video", disable=quiet):
        _settle(name, noted[name], reading, measure)
    reading.bad.sort()
    if reading.bad and on_bad != "skip":
        row, reason = reading.bad[0]
        more = f" ({len(reading.bad)} bad rows in all)" if len(reading.bad) > 1 else ""
        raise ValueError(f"{path}: row {row}: {reason}{more}")
    if not noted and not reading.bad:
        raise ValueError(f"{path}: expected rows of events, found none")
    return reading


def _lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, bytes]]:
    with Path(path).open("rb") as file:
        for row, line in enumerate(file, 1):
            line = line.removeprefix(b"\xef\xbb\xbf") if row == 1 else line
            if line.strip():
                yield row, line


def _note(row: int, line: bytes, noted: dict[str, _Noted], reading: Reading) -> None:
    """Put down what a line holds; ValueError if it is bad, after marking its video incomplete."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise ValueError("expected UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {_short(value)}")
    video = noted.setdefault(_text(value, "video"), _Noted(row))
    try:
        duration = None if value.get("duration") is None else _time(value, "duration")
        if duration == 0:
            raise ValueError("duration: expected more than 0 seconds, got 0")
        events = value.get("events", [value])
        if not isinstance(events, list):
            raise ValueError(f"events: expected a list, got {_short(events)}")
    except ValueError:
        video.complete = False
        raise
    if duration is not None:
        video.durations[row] = duration
    for number, event in enumerate(events, 1):
        try:
            video.events.append((row, _event(event)))
            reading.read += 1
        except ValueError as error:
            video.complete = False
            where = f"event {number}: " if "events" in value else ""
            reading.bad.append((row, f"{where}{error}"))


def _event(value: Any) -> Event:
    if not isinstance(value, dict):
        raise ValueError(f"expected an object with start, end and caption, got {_short(value)}")
    start, end, caption = _time(value, "start"), _time(value, "end"), _text(value, "caption")
    if value["end"] < value["start"]:
        raise ValueError(f"end before start: {value['start']} to {value['end']}")
    if not plain(caption):
        raise ValueError(f"caption: expected words, got {_short(caption)}")
    if mark := MARKS.search(caption):
        raise ValueError(f"caption: expected text, got the mark {mark[0]}")
    return Event(start, end, caption)


def _time(value: dict[str, Any], key: str) -> int:
    """Seconds as tenths."""
    if key not in value:
        raise ValueError(f"missing key {key!r}")
    seconds = value[key]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        raise ValueError(f"{key}: expected a number of seconds, got {_short(seconds)}")
    if not 0 <= seconds <= LONGEST or not math.isfinite(seconds):
        raise ValueError(f"{key}: expected 0 to {LONGEST} seconds, got {_short(seconds)}")
    return round(seconds * SECOND)


def _text(value: dict[str, Any], key: str) -> str:
    """The text without white space at its ends, or more than one between words."""
    if key not in value:
        raise ValueError(f"missing key {key!r}")
    if not isinstance(value[key], str):
        raise ValueError(f"{key}: expected text, got {_short(value[key])}")
    text = value[key].strip() if key == "video" else " ".join(value[key].split())
    if not text:
        raise ValueError(f"{key}: expected some text, got none")
    if any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text):
        raise ValueError(f"{key}: expected text without control characters, got {_short(text)}")
    return text


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _settle(
    name: str, noted: _Noted, reading: Reading, measure: Callable[[str], float] | None
) -> None:
    """Add the video to the reading, with its events sorted out."""
    duration = min(noted.durations.values(), default=None)
    if measure is not None:
        try:
            duration = max(1, round(measure(name) * SECOND))
        except (OSError, ValueError) as error:
            reading.bad.append((noted.row, f"video {name}: {error}"))
            reading.dropped["bad video"] += len(noted.events)
            return
        noted.durations.clear()
    differing = {row for row, stated in noted.durations.items() if stated != duration}
    for row in sorted(differing):
        stated, known = noted.durations[row] / SECOND, (duration or 0) / SECOND
        reason = f"duration: {stated} seconds, but another row of {name} says {known}"
        reading.bad.append((row, reason))
    whole: dict[tuple[int, int, str], Event] = {}
    for row, event in sorted(noted.events, key=lambda pair: pair[1]):
        key = event.start, event.end, plain(event.caption)
        if row in differing:
            reading.dropped["bad row"] += 1
        elif key in whole:
            reading.dropped["there twice"] += 1
        else:
            whole[key] = event
    clear, faint = [], []
    for event in whole.values():
        if duration is not None and duration < event.end <= duration + ROUNDING:
            event = Event(min(event.start, duration), duration, event.caption)
        beyond = duration is not None and event.end > duration
        if beyond or event.start == event.end:
            reading.dropped["beyond the video" if beyond else "without duration"] += 1
            faint.append(event)
        else:
            clear.append(event)
    complete = noted.complete and not differing
    reading.videos.append(Video(name, tuple(sorted(clear)), tuple(faint), duration, complete))
