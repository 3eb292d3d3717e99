"""How many tokens rows take, without reading a frame: what containers say, kept in a file."""

import json
import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Self

from tqdm import tqdm

from hico.model.processing import VideoChatFlashProcessor
from hico.model.training.annotations import BadRow, Row
from hico.model.training.collator import TOKENS
from hico.model.training.media import FAKE, DataOptions, Facts, check_kind, chosen, tile_count
from hico.model.training.records import json_lines
from hico.model.video import open_video, read_image
from hico.model.video.pictures import PictureFolder, exif_turn
from hico.model.video.table import check_file, open_file, packets

THREADS = 16  # they wait for files more than they work
SAMPLED = 256  # rows whose text is tokenised to estimate that of all
MOST_FRAMES = 10_000_000  # 46 hours at 60 a second; a damaged header may state any number
FEW, MANY = 1e-9, 1e9  # frames a second, seconds and pixels of a side are between
OVERHEAD = 5  # tokens of a turn beside its text


class Measured(NamedTuple):
    """Of each row its tokens and "text" or "visual"; and the rows that are bad, by their number."""

    lengths: list[int]
    modalities: list[str]
    bad: dict[int, BadRow]


def measure(
    rows: Sequence[Row],
    tokenizer: Any,
    options: DataOptions,
    size: int,
    cache: str | Path | None = None,
    progress: bool = False,
) -> Measured:
    """The tokens that each row is expected to take, up to options.max_length.

    Args:
        rows, tokenizer, options: as of VideoChatDataset.
        size: pixels of a tile's side.
        cache: a file that keeps what was found, see Cache.
        progress: show a bar on stderr.
    """
    rate, told = _tokens_a_byte(rows, tokenizer), _message_tokens(tokenizer, options)
    known = Cache(cache)

    def visual(row: Row) -> int | BadRow:
        try:
            return _visual(row, options, size, known)
        except (ValueError, OSError) as error:
            return BadRow(row.file, row.index, str(error))

    lengths: list[int] = []
    kinds: list[str] = []
    bad: dict[int, BadRow] = {}
    look = {"unit": "row", "leave": False, "disable": not progress}
    coming, bar = iter(rows), tqdm(None, "measuring", len(rows), **look)
    with bar, ThreadPoolExecutor(THREADS) as pool, known:
        # group by group, so that only a few rows wait in memory
        while group := list(islice(coming, 1024)):
            for row, found in zip(group, pool.map(visual, group), strict=True):
                count = OVERHEAD * (1 + len(row.turns)) + (told if row.video is not None else 0)
                count += round(rate * sum(len(text.encode()) for _, text in row.turns))
                if isinstance(found, BadRow):
                    bad[len(lengths)] = found
                else:
                    count += found
                lengths.append(min(count, options.max_length))
                kinds.append("text" if row.video is None and not row.images else "visual")
                bar.update()
    return Measured(lengths, kinds, bad)


def _tokens_a_byte(rows: Sequence[Row], tokenizer: Any) -> float:
    """Tokens of a byte of text, in rows spread over all."""
    step = max(1, len(rows) // SAMPLED)
    texts = [text for i in range(0, len(rows), step) for _, text in rows[i].turns if text]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return sum(map(len, ids)) / sum(len(text.encode()) for text in texts)


def _message_tokens(tokenizer: Any, options: DataOptions) -> int:
    """Tokens of a time message."""
    if options.time_message is None or options.template == "plain":
        return 0
    moments = range(options.max_frames)
    told = VideoChatFlashProcessor.time_message(100.0, moments, options.time_message)
    return len(tokenizer(told, add_special_tokens=False)["input_ids"])


def _visual(row: Row, options: DataOptions, size: int, known: "Cache") -> int:
    """Tokens of what a row shows."""
    if row.images:
        if len(row.images) > 1 or options.image_mode == "square":
            for path in row.images:
                check_file(Path(path))
            return len(row.images) * TOKENS["image"]
        height, width = known.find(row.images[0], _size_of, _is_size)
        return tile_count(height, width, options, size) * TOKENS["image"]
    if row.video is None:
        return 0
    if options.sampling == "middle" and row.reader != "fake" and not row.whole:
        check_kind(row, stat.S_ISDIR(os.stat(row.video).st_mode))
        return options.max_frames * TOKENS["video"]
    facts = FAKE if row.reader == "fake" else Facts(*known.find(row.video, _facts_of, _is_facts))
    if facts is not FAKE:
        check_kind(row, facts.folder)
    # whether it is shorter than a clip is left to who reads it: some containers only estimate
    count = len(chosen(facts.part(row), replace(options, short="repeat"), row.whole))
    tokens = count * TOKENS["video"]
    if row.whole and tokens > options.max_length:
        raise ValueError(
            f"max_length: expected all {count} frames of {row.video} within {options.max_length} "
            f"tokens (frames: all), got {tokens}"
        )
    return tokens


def _size_of(path: str) -> list:
    """Height and width of a picture."""
    try:
        container, stream = open_file(Path(path), 1)
    except ModuleNotFoundError:
        return list(read_image(path).shape[:2])
    with container:
        turned = exif_turn(Path(path))
        sizes = [stream.height, stream.width]
        return sizes[::-1] if turned and not turned[0] else sizes


def _is_size(found: list) -> bool:
    """Whether these are the height and width of a picture."""
    return len(found) == 2 and all(isinstance(n, int) and 0 < n < MANY for n in found)


def _facts_of(path: str) -> list:
    """The fields of Facts, as the container states them."""
    file = Path(path)
    try:
        stated = None if file.is_dir() else _stated(file)
    except ModuleNotFoundError:
        stated = None
    if stated is None or not _is_facts(list(astuple(stated))):
        with open_video(file) as video:
            folder = isinstance(video, PictureFolder)
            stated = Facts(video.frames, video.fps, video.duration, folder)
    return list(astuple(stated))


def _is_facts(found: list) -> bool:
    """Whether these are the fields of Facts, and can be true."""
    match found:
        case [int(frames), int(fps) | float(fps), int(duration) | float(duration), bool()]:
            return 0 < frames <= MOST_FRAMES and FEW < fps < MANY and FEW < duration < MANY
    return False


def _stated(file: Path) -> Facts | None:
    """What a container says of its video; None if it says no rate."""
    container, stream = open_file(file, 1)
    with container:
        if file.suffix.lower() == ".gif":
            frames = sum(1 for packet in packets(container, stream) if packet.size)
            return Facts(frames, 1.0, float(frames))
        rate = float(stream.average_rate or 0)
        seconds = float(stream.duration * stream.time_base) if stream.duration else 0.0
        seconds = seconds or (container.duration or 0) / 1e6
        frames = stream.frames or round(seconds * rate)
    return Facts(frames, rate, seconds or frames / rate) if rate else None


class Cache:
    """What was found about files, kept in one: JSON lines of path, bytes, time of change, facts.

    A context manager: on leaving, also through an error, it replaces the file as a whole. Files
    that have changed are looked at again; a cache that is damaged counts as none. Threads may
    find at once: a file is looked at by one of them.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.path = None if path is None else Path(path)
        self._known: dict[str, list] = {}
        self._busy: dict[str, Lock] = {}
        self._new = False

    def __enter__(self) -> Self:
        if self.path is not None and self.path.exists():
            with open(self.path, "rb") as file:
                for record in json_lines(file):
                    match record.value:
                        case [str(path), int(size), int(changed), list(facts)]:
                            self._known[path] = [size, changed, facts]
        return self

    def __exit__(self, *exception: object) -> None:
        if self.path is None or not self._new:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with open(part, "w", encoding="utf-8") as file:
                for path in sorted(self._known):
                    file.write(json.dumps([path, *self._known[path]]) + "\n")
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)

    def find(self, path: str, look: Callable[[str], list], sound: Callable[[list], bool]) -> list:
        """What is known of a file and is sound, or what looking at it finds.

        Raises:
            OSError, ValueError: no such file, or it cannot be opened.
        """
        now = os.stat(path)
        stamp = [now.st_size, now.st_mtime_ns]
        # rows share files: while one thread looks at a file, others wait for what it finds
        with self._busy.setdefault(path, Lock()):
            known = self._known.get(path)
            # a GIF may be a picture in one row and a video in another
            if known is None or known[:2] != stamp or not sound(known[2]):
                known = [*stamp, look(path)]
                self._known[path], self._new = known, True
            return known[2]
