"""The records of a JSON list or of JSON lines one after the other, and where each stands."""

import codecs
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path
from typing import Any, BinaryIO

CHUNK = 1 << 20  # bytes
DIGITS = 400  # of an integer; no float has more
# no number, literal or escape is cut in two farther from the end than this many characters
NEAR = 16


@dataclass(frozen=True, slots=True)
class Record:
    """One element of a list, or one line.

    Attributes:
        index: its number, from 0; blank lines count.
        start, stop: its bytes in the file.
        value: what it holds.
        error: what is wrong with it, None if nothing is.
    """

    index: int
    start: int
    stop: int
    value: Any
    error: str | None


def records(path: str | os.PathLike[str]) -> Iterator[Record]:
    """Yield what a file holds, without ever holding all of it.

    A .jsonl file is read line by line, and a broken line costs no other. Any other file is one JSON
    list; where it is broken it ends, with a record that says so.

    Raises:
        OSError: no such file, or it may not be read.
        ValueError: not a list.

    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "a.jsonl"
    >>> _ = path.write_text('{"id": 1}\\n\\n{"id": 2\\n')
    >>> [(r.index, r.value, r.error is None) for r in records(path)]
    [(0, {'id': 1}, True), (2, None, False)]
    """
    with open(path, "rb") as file:
        lines = Path(path).suffix.lower() == ".jsonl"
        yield from json_lines(file) if lines else _elements(file, path)


def parse(data: bytes) -> Any:
    """The value of one record.

    Raises:
        ValueError: not JSON in UTF-8, or nested too deeply.
    """
    try:
        return DECODER.decode(data.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _integer(digits: str) -> int | float:
    """An error of Python's for very many digits would end a list."""
    return int(digits) if len(digits) < DIGITS else float(digits)


# NaN and Infinity, which Python's json writes too, are left to those who need a number
DECODER = json.JSONDecoder(parse_int=_integer)


def json_lines(file: BinaryIO) -> Iterator[Record]:
    """Yield the lines of a file that are not blank."""
    start = 0
    for index, line in enumerate(file):
        stop = start + len(line)
        if line.strip():
            try:
                yield Record(index, start, stop, parse(line), None)
            except ValueError as error:
                yield Record(index, start, stop, None, f"broken JSON ({error})")
        start = stop


def _elements(file: BinaryIO, path: str | os.PathLike[str]) -> Iterator[Record]:
    window, index = _Window(file), 0
    try:
        if window.peek() != "[":
            raise ValueError(f"{path}: expected a JSON list, or JSON lines in a .jsonl file")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: expected JSON in UTF-8 ({error})") from None
    window.take(1)
    try:
        while window.peek() != "]" or index:
            start, value, stop = window.element()
            yield Record(index, start, stop, value, None)
            index += 1
            if window.peek() == "]":
                break
            window.comma()
        window.take(1)
        window.end()
    except (ValueError, RecursionError) as error:
        lost = f"broken JSON ({error}): it and all rows after it are lost"
        yield Record(index, window.place, window.place, None, lost)


class _Window:
    """What has been read of a file and not yet been used; `place` is the byte where that begins."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._text, self._at, self._ended = file, "", 0, False
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        if file.read(3) != codecs.BOM_UTF8:
            file.seek(0)
        self.place = file.tell()

    def peek(self) -> str:
        """The next character that is no white space, "" at the end."""
        while True:
            rest = self._text[self._at : self._at + NEAR]
            blank = len(rest) - len(rest.lstrip(" \t\r\n"))
            self.take(blank)
            if blank < len(rest):
                return rest[blank]
            if not rest and not self._more():
                return ""

    def take(self, count: int) -> None:
        """Go on by so many characters."""
        used = self._text[self._at : self._at + count]
        self.place += len(used) if used.isascii() else len(used.encode())
        self._at += count

    def comma(self) -> None:
        """Go on behind the comma that comes next."""
        found = self.peek()
        if found != ",":
            raise ValueError(f"expected a comma or ] at byte {self.place}, got {found!r}")
        self.take(1)

    def end(self) -> None:
        """Make sure that nothing follows."""
        if found := self.peek():
            raise ValueError(f"expected nothing after the list, got {found!r} at byte {self.place}")

    def element(self) -> tuple[int, Any, int]:
        """Its first byte, its value, and the byte behind it."""
        self.peek()
        start = self.place
        while True:
            try:
                value, stop = DECODER.raw_decode(self._text, self._at)
                # a number may go on in what has not been read
                if stop < len(self._text) - NEAR or not self._more():
                    self.take(stop - self._at)
                    return start, value, self.place
            except JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos > len(self._text) - NEAR
                if not cut or not self._more():
                    raise ValueError(f"{error.msg} at byte {self._byte(error.pos)}") from None

    def _byte(self, place: int) -> int:
        return self.place + len(self._text[self._at : place].encode())

    def _more(self) -> bool:
        """Read on, twice as far each time for one large element; whether there was anything."""
        if self._ended:
            return False
        data = self._file.read(max(CHUNK, len(self._text) - self._at))
        new, self._ended = self._decode(data, final=not data), not data
        if data:
            self._text, self._at = self._text[self._at :] + new, 0
        return bool(data)
