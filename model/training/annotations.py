"""Rows of annotations in the published format: read once to be checked, kept as places in files."""

import math
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from hico.model.processing import IMAGE
from hico.model.training.records import parse, records

ROLES = {"human": "human", "user": "human", "gpt": "gpt", "assistant": "gpt", "system": "system"}
MEDIA = ("image", "video", "text", "mix")
READERS = ("decord", "av", "lazy", "img", "frame", "gif", "fake")
LONGEST = 1e9  # seconds, 30 years


@dataclass(frozen=True, slots=True)
class Row:
    """One sample: what is said, and what is seen.

    Attributes:
        file, index: where it stands; see Record.
        turns: (role, text), the first of them "human", then "human", "gpt" or "system".
        images, video: paths, joined to their data_root.
        start, end: seconds of the part of the video that is meant, None = from its start, to its
            end.
        reader: how the video is stored: one of READERS, None = as it looks.
        id: as given; whole: every frame of the video is seen, however many.
    """

    file: str
    index: int
    turns: tuple[tuple[str, str], ...]
    images: tuple[str, ...] = ()
    video: str | None = None
    start: float | None = None
    end: float | None = None
    reader: str | None = None
    id: str | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be used, and why."""

    file: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: row {self.index}: {self.reason}"


class BadRowError(ValueError):
    """Rows that cannot be used; `bad` holds them, or their text where a DataLoader raises it."""

    def __init__(self, *bad: BadRow) -> None:
        self.bad = bad
        more = f" (and {len(bad) - 1:,} more bad rows)" if len(bad) > 1 else ""
        super().__init__(f"{bad[0]}{more}")

    def __reduce__(self) -> tuple:
        return type(self), self.bad


def parse_row(
    record: Any,
    file: str,
    index: int,
    root: str = "",
    media_type: str | None = None,
    reader: str | None = None,
) -> Row:
    """The row of one JSON object.

    A first turn that is not the human's is dropped, as published.

    Args:
        record: {"conversations": [{"from", "value"} or {"role", "content"}, ...]} and, as there
            are, "image" (a path or a list), "video", "start", "end", "video_read_type", "id";
            "frames": "all" for a video of which no frame may be left out, as of `hico world`.
        file, index: where it comes from.
        root: folder in which paths begin.
        media_type: "image", "video" or "text" where all rows have to be, else "mix" or None.
        reader: of all rows, as published whatever they name; None = what they name.

    Raises:
        ValueError: the reason why it cannot be used.

    >>> turns = [{"from": "human", "value": "<image>\\nWhat?"}, {"from": "gpt", "value": "A cat."}]
    >>> parse_row({"video": "a.mp4", "conversations": turns}, "a.json", 0, root="clips").video
    'clips/a.mp4'
    """
    if not isinstance(record, dict):
        raise ValueError(f"expected an object, got {type(record).__name__}")
    turns = _turns(record.get("conversations"))
    images, video = _media(record, media_type)
    shown = len(images) + (video is not None)
    asked = sum(text.count(IMAGE) for _, text in turns)
    if shown and asked != shown:
        raise ValueError(f"expected one {IMAGE} for each of {shown} images or videos, got {asked}")
    start, end = (_second(name, record.get(name)) for name in ("start", "end"))
    if start is not None and end is not None and not start < end:
        raise ValueError(f"expected start < end, got {start} to {end}")
    kind = reader or record.get("video_read_type")
    if kind not in (None, *READERS):
        raise ValueError(f"video_read_type: expected one of {', '.join(READERS)}, got {kind!r}")
    joined = tuple(os.path.join(root, path) for path in images)
    at = None if video is None else os.path.join(root, video)
    name = record.get("id")
    name, whole = None if name is None else str(name), record.get("frames") == "all"
    return Row(file, index, turns, joined, at, start, end, kind, name, whole)


def _turns(given: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(given, list) or not given:
        raise ValueError(f"conversations: expected a list of turns, got {_brief(given)}")
    turns = tuple(_turn(i, turn) for i, turn in enumerate(given))
    turns = turns[1:] if turns[0][0] != "human" else turns
    answers = [(i, text) for i, (role, text) in enumerate(turns) if role == "gpt"]
    if not answers:
        raise ValueError("conversations: expected an answer, got none")
    for i, text in answers:
        if not text.strip():
            raise ValueError(f"conversations: expected an answer, got an empty one in turn {i}")
    return turns


def _turn(i: int, turn: Any) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise ValueError(f"turn {i}: expected an object, got {_brief(turn)}")
    role = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    if not isinstance(role, str) or role not in ROLES:
        raise ValueError(f"turn {i}: expected a role of {', '.join(ROLES)}, got {_brief(role)}")
    if not isinstance(text, str):
        raise ValueError(f"turn {i}: expected text, got {_brief(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"turn {i}: expected text in Unicode, got {error}") from None
    return ROLES[role], text


def _media(record: dict, media_type: str | None) -> tuple[tuple[str, ...], str | None]:
    images, video = record.get("image"), record.get("video")
    found = {"image": images is not None, "video": video is not None}
    if all(found.values()):
        raise ValueError("expected an image or a video, got both")
    kind = next((name for name, there in found.items() if there), "text")
    if media_type not in (None, "mix", kind):
        raise ValueError(f"media_type: expected {media_type}, got a row of {kind}")
    listed = images if isinstance(images, list) else [] if images is None else [images]
    paths = listed if video is None else [video]
    if found["image"] and not listed or not all(map(_is_path, paths)):
        raise ValueError(f"{kind}: expected a path, got {_brief(record[kind])}")
    return tuple(listed), video


def _is_path(given: Any) -> bool:
    try:
        return isinstance(given, str) and bool(os.fsencode(given).strip())
    except UnicodeEncodeError:
        return False


def _second(name: str, given: Any) -> float | None:
    if given is None:
        return None
    number = math.nan
    if isinstance(given, int | float | str) and not isinstance(given, bool):
        try:
            number = float(given)
        except (ValueError, OverflowError):
            pass
    if not abs(number) < LONGEST:
        raise ValueError(f"{name}: expected seconds, got {_brief(given)}")
    return number


def _brief(given: Any) -> str:
    text = repr(given)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Part:
    """The rows of one file: their numbers int64 [n] and their bytes [n, 2]."""

    file: str
    indices: np.ndarray
    places: np.ndarray
    root: str = ""
    media_type: str | None = None
    reader: str | None = None

    def row(self, i: int) -> Row:
        """Read row i again.

        Raises:
            ValueError: the file is no longer what it was.
        """
        start, stop = self.places[i].tolist()
        index = int(self.indices[i])
        with open(self.file, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        try:
            found = parse(data)
            return parse_row(found, self.file, index, self.root, self.media_type, self.reader)
        except ValueError as error:
            changed = f"the file has changed since it was first read ({error})"
            raise BadRowError(BadRow(self.file, index, changed)) from error


class Rows(Sequence[Row]):
    """Rows of many files, each read from its file when it is asked for."""

    def __init__(self, parts: Sequence[Part] = ()) -> None:
        self.parts = tuple(parts)
        self._ends = list(accumulate(len(part.indices) for part in self.parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, i: int) -> Row: ...
    @overload
    def __getitem__(self, i: slice) -> list[Row]: ...
    def __getitem__(self, i: int | slice) -> Row | list[Row]:
        if isinstance(i, slice):
            return [self[j] for j in range(*i.indices(len(self)))]
        at = i + len(self) if i < 0 else i
        if not 0 <= at < len(self):
            raise IndexError(f"row {i} of {len(self)}")
        part = bisect_right(self._ends, at)
        return self.parts[part].row(at - (self._ends[part - 1] if part else 0))


def read_rows(
    path: str | os.PathLike[str],
    root: str = "",
    media_type: str | None = None,
    reader: str | None = None,
    choose: Callable[[int], range] | None = None,
    progress: bool = False,
) -> tuple[Rows, list[BadRow]]:
    """All rows of a .json list or a .jsonl file: those that can be used, and those that cannot.

    The file is read once from end to end, a record at a time; media are not looked at.

    Args:
        path: the file.
        root, media_type, reader: as in parse_row.
        choose: of n records, the numbers of those that are meant; None = all.
        progress: show a bar on stderr.

    Raises:
        OSError: no such file, or it may not be read.
        ValueError: no JSON list.
    """
    file = os.fspath(path)
    indices, places = array("q"), array("q")  # of millions of rows
    reasons: dict[int, BadRow] = {}
    for record in _watched(records(path), Path(path), progress):
        reason = record.error
        if reason is None:
            try:
                parse_row(record.value, file, record.index, root, media_type, reader)
            except ValueError as error:
                reason = str(error)
        if reason is not None:
            reasons[len(indices)] = BadRow(file, record.index, reason)
        indices.append(record.index)
        places.extend((record.start, record.stop))
    meant = range(len(indices)) if choose is None else choose(len(indices))
    good = [i for i in meant if i not in reasons]
    where = np.array(places, np.int64).reshape(-1, 2)[good]
    part = Part(file, np.array(indices, np.int64)[good], where, root, media_type, reader)
    return Rows([part]), [reasons[i] for i in meant if i in reasons]


def _watched(found: Iterator, path: Path, progress: bool) -> Iterator:
    """The same records, with a bar on stderr that counts their bytes."""
    size = path.stat().st_size
    look = {"unit": "B", "unit_scale": True, "leave": False, "disable": not progress}
    with tqdm(None, f"reading {path.name}", size, **look) as bar:
        for record in found:
            bar.update(record.stop - bar.n)
            yield record
