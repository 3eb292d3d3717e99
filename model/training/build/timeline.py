"""The events of one video, and what makes two of them too alike, or too close, to be told apart.

Times are integers, tenths of a second: what is compared is exactly what is printed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

SECOND = 10  # tenths
GAP = SECOND  # events closer than this have no clear order and no clear number
SHARED = 0.75  # of the words of two captions together: from here on they may describe the same
OVERLAP = 0.1  # of the shorter of two time ranges, and so at most their IoU

FILLERS = frozenset("a an the is are was were be been of and his her its their".split())
# scripts without spaces: a sign is a word
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_]+")
ENDINGS = ("ing", "ed", "es", "s")
IRREGULAR = {"threw": "throw", "thrown": "throw", "drank": "drink", "drunk": "drink"}
IRREGULAR |= {"dove": "dive", "leapt": "leap"}


@lru_cache(1 << 16)
def plain(caption: str) -> str:
    """The caption's words in small letters, without punctuation and fillers.

    >>> plain("The man OPENS a door.")
    'man opens door'
    """
    found = words(caption)
    return " ".join([word for word in found if word not in FILLERS] or found)


def words(caption: str) -> list[str]:
    """All its words in small letters, without punctuation."""
    return WORD.findall(unicodedata.normalize("NFKC", caption).casefold())


@lru_cache(1 << 16)
def stem(word: str) -> str:
    """The word without its ending, so that its forms are equal; good for comparing only.

    >>> stem("cuts") == stem("cutting") == stem("cut"), stem("slices") == stem("slicing")
    (True, True)
    """
    word = IRREGULAR.get(word, word)
    for ending in ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word


def seconds(tenths: int) -> str:
    """The time as every question and answer writes it.

    >>> seconds(1205)
    '120.5'
    """
    return f"{tenths / SECOND:.1f}"


@lru_cache(1 << 16)
def stems(caption: str) -> frozenset[str]:
    """The stems of the caption's words but fillers."""
    return frozenset(map(stem, plain(caption).split()))


@dataclass(frozen=True, order=True, slots=True)
class Event:
    """What happens from `start` to `end`, in tenths of a second."""

    start: int
    end: int
    caption: str

    @property
    def range(self) -> str:
        """The time range as every question and answer writes it.

        >>> Event(120, 175, "a dog barks").range
        '12.0 - 17.5 seconds'
        """
        return f"{seconds(self.start)} - {seconds(self.end)} seconds"


@dataclass(frozen=True)
class Video:
    """A video's events, in the order of their start.

    Args:
        name: the file, as the annotation names it.
        events: those that questions may be about.
        faint: those without a duration or beyond the video's end: never asked for, but what is
            asked must not be mistaken for them.
        duration: tenths of a second, None if unknown.
        complete: nothing of the annotation was left out.
    """

    name: str
    events: tuple[Event, ...]
    faint: tuple[Event, ...] = ()
    duration: int | None = None
    complete: bool = True

    @property
    def length(self) -> int:
        """Its duration, or the end of its last event."""
        return self.duration or max(event.end for event in self.events)

    def all(self) -> Iterator[Event]:
        """Every event, faint ones included."""
        yield from self.events
        yield from self.faint

    def unique(self, event: Event) -> bool:
        """Whether no other event of the video has a caption like this one's."""
        return not any(alike(event, other) for other in self.all() if other is not event)

    def during(self, start: int, end: int) -> list[Event]:
        """The events that are on at some time between `start` and `end`, both left out."""
        return [event for event in self.all() if event.start < end and start < event.end]


def alike(a: Event, b: Event) -> bool:
    """Whether the captions may describe the same.

    They do when the words of one are all among the other's, or when they share three quarters
    of their words together.

    >>> open_, wide = Event(0, 9, "opens the door"), Event(20, 29, "he opens the blue door wide")
    >>> alike(open_, wide), alike(open_, Event(40, 49, "closes the door"))
    (True, False)
    """
    one, other = stems(a.caption), stems(b.caption)
    shared = len(one & other)
    return shared == min(len(one), len(other)) or shared >= SHARED * len(one | other)


def apart(a: Event, b: Event) -> bool:
    """Whether one ends at least a second before the other begins."""
    return a.end + GAP <= b.start or b.end + GAP <= a.start


def disjoint(a: Event, b: Event) -> bool:
    """Whether no moment belongs to both; they may touch."""
    return a.end <= b.start or b.end <= a.start


def barely_overlap(a: Event, b: Event) -> bool:
    """Whether they share at most a tenth of the shorter one, so that their IoU is 0.1 at most."""
    shared = min(a.end, b.end) - max(a.start, b.start)
    return shared <= OVERLAP * min(a.end - a.start, b.end - b.start)


def all_apart(events: Iterable[Event]) -> bool:
    """Whether each of the events is apart from the next."""
    ordered = sorted(events)
    return all(apart(a, b) for a, b in zip(ordered, ordered[1:], strict=False))
