"""Files that appear together and whole, or not at all."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TextIO


class Outputs:
    """Text files of one folder, written beside their places and put there at the end of the block.

    On an error the folder is left as it was, and not there if it was not.

    Args:
        folder: made if it is missing, with its parents.
        names: the files. Those that are not opened in the block are removed at its end: they would
            be of an earlier run.

    Raises:
        FileExistsError, NotADirectoryError, PermissionError: the folder cannot be made or written.

    Example:
        with Outputs("rows", ["train.jsonl", "data.yaml"]) as outputs:
            outputs.open("train.jsonl").write(line)
    """

    def __init__(self, folder: str | os.PathLike[str], names: list[str]) -> None:
        self.folder, self.names = Path(folder), names
        self._parts: dict[str, Path] = {}
        self._files = ExitStack()

    def __enter__(self) -> Outputs:
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def open(self, name: str) -> TextIO:
        """A new UTF-8 file to be written; it gets its name at the end of the block."""
        if name not in self.names:
            raise ValueError(f"name: expected one of {', '.join(self.names)}, got {name!r}")
        self._parts[name] = self.folder / f".{name}.{os.getpid()}.part"
        file = self._parts[name].open("w", encoding="utf-8", newline="\n")
        return self._files.enter_context(file)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._files.close()
            if kind is None:
                self._place()
        finally:
            for part in self._parts.values():
                part.unlink(missing_ok=True)
            if self._made and not any(self.folder.iterdir()):
                self.folder.rmdir()

    def _place(self) -> None:
        for name in self.names:
            if name in self._parts:
                os.replace(self._parts[name], self.folder / name)
            else:
                (self.folder / name).unlink(missing_ok=True)
