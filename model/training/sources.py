"""What to train on, as published: a YAML file that lists annotation files and where media are."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hico.model.training.annotations import (
    MEDIA,
    READERS,
    BadRow,
    BadRowError,
    Part,
    Rows,
    read_rows,
)
from hico.ops import _check

KEYS = ("json_path", "data_root", "sampling_strategy", "media_type", "video_read_type")
# of a slice of n rows: where it begins
SLICES = {"first": 0, "first2": 1, "first3": 2, "first4": 3}
STRATEGIES = "all, first:N, first:P%, first2:N, first3:N, first4:N or end:N"


@dataclass(frozen=True)
class Sources:
    """What a data YAML names.

    Attributes:
        rows: that can be used, in the order of the files.
        bad: that cannot.
        worlds: entries with the key `world`, see WorldSpec.
    """

    rows: Rows
    bad: list[BadRow]
    worlds: list[dict]


def load_sources(
    path: str | os.PathLike[str], on_bad: str = "raise", progress: bool = False
) -> Sources:
    """All rows of the annotation files that a data YAML lists.

    The YAML is `datasets:` and a list of entries of json_path (a JSON list or .jsonl),
    sampling_strategy (all; first:N or end:N rows; first2, first3, first4:N the slice of N behind
    that; N may be a share such as 25%, rounded up), data_root (folder in which paths of media
    begin), media_type (image, video, text or mix; without it each row is what it holds) and
    video_read_type (see READERS; without it a video is read as it looks). Relative paths begin in
    the folder of the YAML, also those of media without data_root and of a world's haystack: the
    current folder plays no part.

    Args:
        path: the YAML.
        on_bad: "raise", or "skip" to leave bad rows out and list them.
        progress: show a bar on stderr for each file.

    Raises:
        BadRowError: rows that cannot be used, or none of the first three media of a file is there,
            unless on_bad is "skip".
        ValueError: no such YAML, an unknown key, strategy, type or reader, or nothing to train on.
        OSError: no such file, or it may not be read.

    Source: VideoChat-Flash (arXiv 2501.00574), its published training code.
    """
    _check.one_of("on_bad", on_bad, ("raise", "skip"))
    base = Path(path).parent
    parts: list[Part] = []
    bad: list[BadRow] = []
    worlds: list[dict] = []
    # all entries are checked before the first file is read
    checked = [_checked(path, i, entry) for i, entry in enumerate(_entries(path))]
    for entry, choose in checked:
        if "world" in entry:
            worlds.append(entry)
            continue
        root = str(base / (entry.get("data_root") or ""))
        kinds = entry.get("media_type"), entry.get("video_read_type")
        rows, found = read_rows(base / entry["json_path"], root, *kinds, choose, progress)
        bad += found
        if on_bad == "raise":
            bad += _missing(rows)
            if bad:
                raise BadRowError(*bad)
        parts += rows.parts
    rows = Rows(parts)
    if not rows and not worlds:
        told = f" ({bad[0]})" if bad else ""
        raise ValueError(f"{path}: expected something to train on, got {len(bad)} bad rows{told}")
    return Sources(rows, bad, worlds)


def strategy(text: str) -> Callable[[int], range]:
    """Of n rows, the numbers of those that a sampling_strategy means.

    Raises:
        ValueError: another strategy, such as the published "random", which never worked.

    >>> strategy("first2:25%")(10), strategy("end:3")(10), strategy("all")(10)
    (range(3, 6), range(7, 10), range(0, 10))
    """
    name, _, amount = str(text).partition(":")
    if name == "all" and not amount:
        return range
    try:
        number = float(amount.removesuffix("%")) if amount.endswith("%") else int(amount)
    except ValueError:
        number = 0
    if name not in (*SLICES, "end") or not 0 < number < math.inf:
        raise ValueError(f"sampling_strategy: expected {STRATEGIES}, got {text!r}")

    def chosen(count: int) -> range:
        n = math.ceil(number * count / 100) if amount.endswith("%") else int(number)
        start = max(0, count - n) if name == "end" else SLICES[name] * n
        return range(count)[start : start + n]

    return chosen


def _entries(path: str | os.PathLike[str]) -> list:
    with open(path, encoding="utf-8") as file:
        try:
            found = yaml.safe_load(file)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: expected YAML, got {error}") from None
    entries = found.get("datasets") if isinstance(found, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected `datasets:` and a list, got {str(found)[:60]!r}")
    return entries


def _checked(
    path: str | os.PathLike[str], i: int, entry: Any
) -> tuple[dict[str, Any], Callable[[int], range]]:
    """An entry without a fault, and which of its rows are meant."""
    where = f"{path}: entry {i}"
    if not isinstance(entry, dict) or not ("world" in entry or "json_path" in entry):
        raise ValueError(f"{where}: expected json_path or world, got {str(entry)[:60]!r}")
    if "world" in entry:
        return _world(where, Path(path).parent, entry), range
    if unknown := [key for key in entry if key not in KEYS]:
        raise ValueError(f"{where}: expected keys of {', '.join(KEYS)}, got {unknown[0]!r}")
    try:
        _check.one_of("media_type", entry.get("media_type"), (None, *MEDIA))
        _check.one_of("video_read_type", entry.get("video_read_type"), (None, *READERS))
        for key in ("json_path", "data_root"):
            if not isinstance(entry.get(key) or "", str) or "://" in (entry.get(key) or ""):
                raise ValueError(f"{key}: expected a path on this machine, got {entry[key]!r}")
        return entry, strategy(entry.get("sampling_strategy", "all"))
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _world(where: str, base: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of which worlds can be made."""
    from .worlds.spec import WorldSpec
    from .worlds.world import DRAWN

    haystack = entry.get("haystack")
    if isinstance(haystack, str) and haystack not in DRAWN:
        entry = entry | {"haystack": str(base / haystack)}
    try:
        WorldSpec.of(entry)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return entry


def _missing(rows: Rows) -> list[BadRow]:
    """A row whose media is missing, if no media of the first three is there, as published."""
    found = [row for row in rows[:3] if row.reader != "fake" and (row.video or row.images)]
    paths = [row.video or row.images[0] for row in found]
    if not paths or any(os.path.exists(path) for path in paths):
        return []
    return [BadRow(found[0].file, found[0].index, f"no such file: {paths[0]} (see data_root)")]
