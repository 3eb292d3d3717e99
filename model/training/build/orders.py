"""Ordering, counting and dense captioning: questions about many events of a video."""

from __future__ import annotations

import itertools
import random

from .choosing import Question, Unclear, check_unique, either, multiple
from .timeline import (
    FILLERS,
    Event,
    Video,
    alike,
    all_apart,
    apart,
    disjoint,
    plain,
    stem,
    stems,
    words,
)
from .wording import (
    COUNTING,
    COUNTING_FREE,
    COUNTING_VERBS,
    DENSE,
    FIRST,
    LAST,
    LETTERS,
    SEQUENCE,
    SEQUENCE_FREE,
    VERBS,
    bare,
    quoted,
    sentence,
)

SEQUENCES = 3, 5  # events to be put in order, at least and at most
MOST = 20  # events that a question counts
DENSE_TEXT = 12_000  # characters of a dense description, about 3,000 tokens
# captions with these may stand for several events, or for another's
REPEATS = frozenset("again twice thrice times repeatedly several multiple many repeat".split())
REPEATS |= frozenset("each every both continues keeps two three four five".split())
# what may stand before the verb of a caption
SUBJECTS = frozenset("man woman person boy girl lady guy chef cook player child he she".split())
SUBJECTS |= frozenset("they someone somebody people c i we you young old then camera".split())
SUBJECTS |= {"wearer"}
ARTICLES = frozenset("a an the his her their its".split())


def sequence(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """Three to five events in random order: which order is right? One of four.

    The wrong orders are any others: close ones only would leave the right one in their middle.
    """
    text, order, about = _listed(video, event, rng)
    orders = [list(other) for other in itertools.permutations(sorted(order))]
    wrong = rng.sample([other for other in orders if other != order], len(LETTERS) - 1)
    return multiple(text, _joined(order), [_joined(o) for o in wrong], about, rng, place)


def sequence_free(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """Three to five events in random order, to be answered with their numbers."""
    text, order, about = _listed(video, event, rng)
    return Question(f"{text}\n{rng.choice(SEQUENCE_FREE)}", _joined(order), about)


def first_or_last(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """Which of four events happens first, or last?"""
    events = sorted(_apart(video, event, rng, len(LETTERS)))
    if len(events) < len(LETTERS):
        raise Unclear("fewer than four events clearly apart")
    last = rng.random() < 0.5
    right = events.pop(-1 if last else 0)
    text = rng.choice(LAST if last else FIRST)
    wrong = [bare(other.caption) for other in events]
    about = "last" if last else "first", frozenset([right, *events])
    return multiple(text, bare(right.caption), wrong, about, rng, place)


ordering = either(sequence, sequence_free, first_or_last)


def counting(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """How many times does it happen? A caption that repeats, or an action with several objects."""
    if not video.complete:
        raise Unclear("part of the video's annotation was left out")
    return either(_count_caption, _count_verb)(video, event, rng, place)


def dense(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    """All events of the video with their times, in the order of their start."""
    if not video.complete or video.faint:
        raise Unclear("part of the video's annotation was left out")
    if len(video.events) < 2:
        raise Unclear("fewer than two events")
    text = " ".join(f"{e.range}, {sentence(e.caption)}" for e in video.events)
    if len(text) > DENSE_TEXT:
        raise Unclear("too long to write down")
    for a, b in itertools.combinations(video.events, 2):
        if not disjoint(a, b) and alike(a, b):
            raise Unclear("events much alike at the same time")
    return Question(rng.choice(DENSE), text, "all")


def _listed(
    video: Video, event: Event, rng: random.Random
) -> tuple[str, list[int], tuple[str, frozenset[Event]]]:
    """A question that lists events under numbers, their right order, and what it is about."""
    events = _apart(video, event, rng, rng.randint(*SEQUENCES))
    if len(events) < SEQUENCES[0]:
        raise Unclear("fewer than three events clearly apart")
    rng.shuffle(events)
    lines = [f"{number}. {sentence(e.caption)}" for number, e in enumerate(events, 1)]
    order = sorted(range(1, len(events) + 1), key=lambda number: events[number - 1])
    text = rng.choice(SEQUENCE).format(events="\n".join(lines))
    return text, order, ("sequence", frozenset(events))


def _joined(order: list[int]) -> str:
    return ", ".join(map(str, order))


def _apart(video: Video, event: Event, rng: random.Random, count: int) -> list[Event]:
    """Up to `count` events, this one first, all apart and with captions like no other's."""
    check_unique(video, event)
    taken = [event]
    for other in rng.sample(video.events, len(video.events)):
        if len(taken) == count:
            break
        if all(apart(other, one) for one in taken) and video.unique(other):
            taken.append(other)
    return taken


def _count_caption(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    key = plain(event.caption)
    same = [other for other in video.events if plain(other.caption) == key]
    like = [other for other in video.all() if alike(event, other)]
    if len(like) > len(same):
        raise Unclear("another event has a caption much like it")
    text = rng.choice(COUNTING).format(event=quoted(event.caption))
    return _count(text, same, key, rng)


def _count_verb(video: Video, event: Event, rng: random.Random, place: int) -> Question:
    verb = _leading(event)
    forms = next((line for line in VERBS if verb in map(stem, line)), {})
    if not forms:
        raise Unclear("nothing in it repeats")
    name = next(form for base, form in forms.items() if stem(base) == verb)
    line = {stem(base) for base in forms}
    same = [other for other in video.events if _leading(other) == verb]
    near = [other for other in video.all() if stems(other.caption) & line]
    if len(near) > len(same) or any(stems(other.caption) & line != {verb} for other in same):
        raise Unclear("the action is part of other events as well")
    return _count(rng.choice(COUNTING_VERBS).format(event=name), same, verb, rng)


def _leading(event: Event) -> str:
    """The stem of the caption's first word behind its subject: of its verb, if it has one.

    None, "", if an article stands right before it: then it is a noun.
    """
    before = ""
    for word in words(event.caption):
        if word not in SUBJECTS | FILLERS:
            return "" if before in ARTICLES else stem(word)
        before = word
    return ""


def _count(text: str, events: list[Event], about: str, rng: random.Random) -> Question:
    """The question if the number of these events is beyond doubt.

    It has no options: small numbers are so frequent that among four the right one is often guessed.
    """
    if len(events) < 2:
        raise Unclear("nothing in it repeats")
    if len(events) > MOST:
        raise Unclear(f"more than {MOST} times")
    if any(REPEATS & set(plain(event.caption).split()) for event in events):
        raise Unclear("a caption may stand for several events")
    if not all_apart(events):
        raise Unclear("repeats too close to tell apart")
    return Question(f"{text} {rng.choice(COUNTING_FREE)}", str(len(events)), about)
