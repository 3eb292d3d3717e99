"""Grounding, multiple choice and needles: questions about one event of a video.

Wrong options are other events of the same video. A caption is offered only if none of its like is
on during the time asked about; a time range, if it shares at most a tenth of the shorter of the two
with the right one, so that their IoU is at most 0.1.
"""

from __future__ import annotations

import random

from .choosing import Question, Unclear, check_unique, either, multiple, wrong_captions
from .timeline import SECOND, Event, Video, barely_overlap, disjoint, seconds
from .wording import BETWEEN, BRIEF, GROUNDING, LETTERS, WHAT, WHEN, bare, quoted

NEARLY_ALL = 0.9  # of the video: an event that lasts longer is no answer to "when"
NEEDLE_SHARE = 0.05  # of the video's length: a needle lasts no longer
NEEDLE_HAYSTACK = 60 * SECOND  # the shortest video with needles


def grounding(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """When does it happen? An event whose caption is like no other's; answered with its range."""
    _check_when(video, event)
    text = rng.choice(GROUNDING).format(event=quoted(event.caption))
    return Question(text, event.range, event)


def when(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """When does it happen? One of four time ranges, all those of events."""
    _check_when(video, event)
    pool = {other.range for other in video.events if barely_overlap(event, other)}
    if len(pool) < len(LETTERS) - 1:
        raise Unclear("fewer than three wrong options")
    wrong = rng.sample(sorted(pool), len(LETTERS) - 1)
    text = rng.choice(WHEN).format(event=quoted(event.caption))
    return multiple(text, event.range, wrong, event, rng, place)


def what(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """What happens between these seconds? Wrong are any other events of the video."""
    pool = rng.sample(video.events, len(video.events))
    return _what(video, event, pool, WHAT, rng, place)


def brief(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """What is the short event between these seconds? Wrong are the nearest events."""
    return _what(video, event, _nearest(video, event), BRIEF, rng, place)


def between(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """What is the short event between these two? They are its neighbours; wrong, the next nearest.

    No time is given: the neighbours have to be found.
    """
    earlier = [other for other in video.events if other.end <= event.start]
    later = [other for other in video.events if other.start >= event.end]
    if not earlier or not later:
        raise Unclear("no event before it or none after it")
    before, after = max(earlier, key=lambda e: (e.end, e)), min(later)
    check_unique(video, before, event, after)
    inside = Event(before.end, after.start, event.caption)
    pool = [
        other
        for other in _nearest(video, event)
        if disjoint(other, inside) and other not in (before, after)
    ]
    wrong = wrong_captions(pool, [event, *video.during(inside.start, inside.end)])
    words = {"before": quoted(before.caption), "after": quoted(after.caption)}
    text = rng.choice(BETWEEN).format(**words)
    return multiple(text, bare(event.caption), wrong, event, rng, place)


def needle(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """`brief` or `between`: an event of at most a twentieth of a video of a minute or more."""
    if video.length < NEEDLE_HAYSTACK:
        raise Unclear("the video is shorter than a minute")
    if event.end - event.start > NEEDLE_SHARE * video.length:
        raise Unclear("not short in its video")
    return either(brief, between)(video, event, rng, place)


def _what(
    video: Video,
    event: Event,
    pool: list[Event],
    wordings: tuple[str, ...],
    rng: random.Random,
    place: int,
) -> Question:
    others = [other for other in pool if disjoint(other, event)]
    wrong = wrong_captions(others, video.during(event.start, event.end))
    text = rng.choice(wordings).format(start=seconds(event.start), end=seconds(event.end))
    return multiple(text, bare(event.caption), wrong, event, rng, place)


def _check_when(video: Video, event: Event) -> None:
    check_unique(video, event)
    if event.end - event.start > NEARLY_ALL * video.length:
        raise Unclear("lasts nearly all of the video")


def _nearest(video: Video, event: Event) -> list[Event]:
    """The video's other events, those with the shortest gap to this one first."""

    def gap(other: Event) -> int:
        return max(other.start - event.end, event.start - other.end)

    return sorted((other for other in video.events if other is not event), key=gap)
