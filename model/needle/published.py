"""The published needle tests: files of questions, images as needles, one long haystack."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..processing import IMAGE
from ..video import read_image
from ..vision import square_image
from .asking import Ask, Cell, Film, letter_answers
from .features import Haystack, Store
from .haystacks import video_settings

SINGLE = {"question": str, "answer": str, "image": str}
MULTI = {"images": list, "question1": str, "answer1": str, "question2": str, "answer2": str}
TURNS = (("caption", "question1", "answer1"), ("qa", "question2", "answer2"))
SHOWN = 3  # missing images that an error names


@dataclass(frozen=True)
class PublishedTask:
    """The rows of one published question file, each in a video of its own.

    A needle is one image, padded to a square and repeated for one clip: 64 tokens. They are put
    between the haystack's tokens, 16 a frame, at frame int(depth * n), or, of k needles, the first
    ahead of all and needle j at frame int(j * n / (k - 1)).

    Attributes:
        name: of the file; digest: of what is in it.
        rows: of the file; single: of one needle each.
        images: the folder that the rows' paths begin in.
        depths: of single needles.
        haystack, haystack_seed, split: which one; the seed is of what is drawn.
    """

    name: str
    digest: str
    rows: tuple[dict[str, Any], ...]
    single: bool
    images: Path
    depths: tuple[float, ...] = ()
    haystack: str = "natural"
    haystack_seed: int = 0
    split: str = "test"

    @classmethod
    def open(
        cls,
        path: Path,
        images: Path | None,
        depths: Sequence[float],
        needles: int | None,
        **more: Any,
    ) -> PublishedTask:
        """The task of a question file, or of a folder with one.

        Args:
            images: None = the folder of the file.
            needles: at most so many rows; None = all.

        Raises:
            ValueError, OSError: not such a file, or images that are not there.
        """
        path = _question_file(path)
        try:
            text = path.read_bytes()
            rows = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: not valid JSON ({error})") from error
        single = _check_rows(path, rows)
        rows, root = rows[:needles], images or path.parent
        _check_images(path, rows, single, root)
        digest = hashlib.sha256(text).hexdigest()[:16]
        places = tuple(depths) if single else ()
        return cls(path.name, digest, tuple(rows), single, root, places, **more)

    @property
    def needles(self) -> int:
        """Rows that each cell is made of."""
        return len(self.rows)

    def settings(self) -> dict[str, Any]:
        """All that cells depend on, what is in the images and in the haystack included."""
        seen = hashlib.sha256()
        for row in self.rows:
            for name in _images(row, self.single):
                seen.update(hashlib.sha256((self.images / name).read_bytes()).digest())
        names = ("digest", "needles", "haystack", "haystack_seed", "split")
        found = {"data": self.name} | {name: getattr(self, name) for name in names}
        videos = video_settings(self.haystack, self.split)
        return found | {"images": seen.hexdigest()[:16]} | videos

    def check(self, frames: Sequence[int]) -> None:
        """Every length will do."""

    def groups(self, frames: Sequence[int]) -> list[list[Cell]]:
        """Every cell alone: each has videos of its own."""
        depths = self.depths if self.single else (None,)
        return [[(count, depth)] for count in frames for depth in depths]

    def count(self, cells: Sequence[Cell]) -> int:
        """Questions of these cells."""
        return len(cells) * self.needles * (1 if self.single else 2)

    def films(self, cells: Sequence[Cell], hay: Haystack, store: Store) -> Iterator[Film]:
        """A video a row and cell."""
        for frames, depth in cells:
            for number, row in enumerate(self.rows):
                names = _images(row, self.single)
                at = places(frames, len(names), depth)
                asks = _asks(row, (frames, depth), number, at)
                yield Film(
                    frames=frames + 4 * len(names),
                    fps=None,
                    features=self._features(names, at, frames, hay, store),
                    pixels=self._pixels(names, at, frames, hay),
                    asks=asks,
                )

    def _features(
        self, names: list[str], at: list[int], frames: int, hay: Haystack, store: Store
    ) -> Callable[[], Tensor]:
        def make() -> Tensor:
            clips = hay.clips(frames // 4).flatten(0, 1)
            needles = [self._needle(name, hay, store).to(clips) for name in names]
            return spliced(clips, needles, [16 * place for place in at])

        return make

    def _needle(self, name: str, hay: Haystack, store: Store) -> Tensor:
        """[64, D], of an image; encoded once."""
        path = self.images / name
        facts = path.stat()
        key = {"image": f"{path.resolve()} {facts.st_size} {facts.st_mtime_ns}", "size": hay.size}
        return store.get(key, lambda: store.encode(self._still(name, hay.size)))

    def _still(self, name: str, size: int) -> Tensor:
        return square_image(read_image(self.images / name), size).expand(4, -1, -1, -1)

    def _pixels(
        self, names: list[str], at: list[int], frames: int, hay: Haystack
    ) -> Callable[[Sequence[int]], Tensor]:
        line = spliced(
            torch.arange(frames), [torch.full((4,), -1 - i) for i in range(len(names))], at
        )

        def pixels(numbers: Sequence[int]) -> Tensor:
            wanted = line[list(numbers)]
            drawn = hay.pixels(wanted.clamp(min=0))
            for i, name in enumerate(names):
                if bool((wanted == -1 - i).any()):
                    drawn[(wanted == -1 - i).to(drawn.device)] = self._still(name, hay.size)[0].to(
                        drawn.device
                    )
            return drawn

        return pixels


def places(frames: int, count: int, depth: float | None) -> list[int]:
    """The frame of the haystack that stands behind each of count needles.

    >>> from hico.model.needle.published import places
    >>> places(1000, 1, 0.2), places(1000, 4, None)
    ([200], [0, 333, 666, 1000])
    """
    if depth is not None:
        return [int(depth * frames)]
    return [j * frames // (count - 1) for j in range(count)]


def spliced(hay: Tensor, needles: Sequence[Tensor], at: Sequence[int]) -> Tensor:
    """hay [n, ...] with needle j [m, ...] ahead of its item at[j], which ascend.

    >>> import torch
    >>> from hico.model.needle.published import spliced
    >>> spliced(torch.arange(3), [torch.tensor([7, 8])], [1]).tolist()
    [0, 7, 8, 1, 2]
    """
    pieces, begin = [], 0
    for needle, end in zip(needles, at, strict=True):
        pieces += [hay[begin:end], needle]
        begin = end
    return torch.cat([*pieces, hay[begin:]])


def _images(row: dict[str, Any], single: bool) -> list[str]:
    return [row["image"]] if single else row["images"]


def _asks(row: dict[str, Any], cell: Cell, number: int, at: list[int]) -> tuple[Ask, ...]:
    first = tuple(16 * place + 64 * j for j, place in enumerate(at))
    turns = (("needle", "question", "answer"),) if "question" in row else TURNS
    found = []
    for kind, question, answer in turns:
        text, letter = row[question], row[answer]
        free = (text, letter_answers(text, letter))
        found.append(Ask(cell, kind, number, text, letter, free, None, first))
    return tuple(found)


def _question_file(path: Path) -> Path:
    if path.is_dir():
        files = sorted(path.glob("*.json"))
        if len(files) != 1:
            names = ", ".join(file.name for file in files) or "none"
            raise ValueError(f"{path}: expected one question file in this folder, got {names}")
        return files[0]
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder")
    return path


def _check_rows(path: Path, rows: Any) -> bool:
    """Whether the rows are of single needles."""
    if not isinstance(rows, list) or not rows:
        got = "an empty one" if isinstance(rows, list) else type(rows).__name__
        raise ValueError(f"{path}: expected a list of questions, got {got}")
    single = isinstance(rows[0], dict) and "question" in rows[0]
    form = SINGLE if single else MULTI
    for i, row in enumerate(rows):
        wrong = [k for k, kind in form.items() if not isinstance(row, dict) or k not in row]
        wrong = wrong or [k for k, kind in form.items() if not isinstance(row[k], kind)]
        if wrong:
            raise ValueError(f"{path}, row {i}: expected {', '.join(form)}, got no good {wrong[0]}")
        names = _images(row, single)
        if len(names) < (1 if single else 2) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"{path}, row {i}: expected two or more paths in images, got {names}")
        for key in form:
            if key.startswith("answer") and not (len(row[key]) == 1 and row[key].isalpha()):
                raise ValueError(f"{path}, row {i}: expected a letter in {key}, got {row[key]!r}")
            if key.startswith("question") and IMAGE in row[key]:
                raise ValueError(f"{path}, row {i}: expected no {IMAGE} in {key}, got one")
    return single


def _check_images(path: Path, rows: list[dict[str, Any]], single: bool, root: Path) -> None:
    missing = []
    for i, row in enumerate(rows):
        for name in _images(row, single):
            inside = (root / name).resolve().is_relative_to(root.resolve())
            if not inside or not (root / name).is_file():
                missing.append(f"{name} (row {i})")
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise FileNotFoundError(
            f"{path}: expected the images of its rows in {root}, found no "
            f"{', '.join(missing[:SHOWN])}{more}; name their folder with --images"
        )
