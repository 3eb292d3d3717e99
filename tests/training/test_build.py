"""Every row that is built has exactly one right answer; what is unclear is not asked."""

import doctest
import json
from collections import Counter

import pytest
from build_helpers import VERBS, check_row
from hypothesis import given, settings
from hypothesis import strategies as st

from hico.model.training.build import statistics, timeline, wording
from hico.model.training.build.building import TASKS, Recipe, build, build_all, is_held_out
from hico.model.training.build.events import read_events
from hico.model.training.build.timeline import Event, Video, alike, stem

THINGS = "apple box car dog egg fish gate hat ink jar kite lamp".split()
ACTIONS = "cuts the {}, jumps over a {}, finds the {}, looks at a {} for long, A man cuts a {}."
CAPTIONS = [a.format(thing) for a in ACTIONS.split(", ") for thing in THINGS]
CAPTIONS += ["Finds  the Apple!", 'says "go"', "cutting of the film", "a dog", "sieht den Äpfel"]
ROW = st.tuples(
    st.integers(0, 1500), st.integers(0, 120) | st.integers(0, 900), st.sampled_from(CAPTIONS)
)
EASY = [(100 * i, 100 * i + 40, f"finds the {thing}") for i, thing in enumerate(THINGS)]


def video_of(events, tmp_path, duration=None):
    """The video that the reader makes of (start, end, caption) in tenths of a second."""
    rows = [{"start": a / 10, "end": b / 10, "caption": c} for a, b, c in events]
    text = json.dumps({"video": "v.mp4", "duration": duration, "events": rows})
    path = tmp_path / "events.jsonl"
    path.write_text(text, encoding="utf-8")
    (video,) = read_events(path).videos
    return video


def rows_of(video, *tasks, **recipe):
    return [row for _, _, row in build(video, Recipe(tasks or tuple(TASKS), **recipe)).rows]


@settings(max_examples=250, deadline=None)
@given(
    drawn=st.lists(ROW, min_size=1, max_size=30),
    spaced=st.booleans(),
    seed=st.integers(0, 99),
    per_video=st.integers(1, 4),
)
def test_every_row_has_exactly_one_right_answer(tmp_path_factory, drawn, spaced, seed, per_video):
    """Random events, in half the cases one after another with gaps of 0 to 3 seconds."""
    at, events = 0, []
    for start, length, caption in drawn:
        begin = at if spaced else start
        events.append((begin, begin + length, caption))
        at = begin + length + start % 31
    video = video_of(events, tmp_path_factory.getbasetemp())
    for row in rows_of(video, seed=seed, per_video=per_video):
        check_row(row, events)


@pytest.mark.parametrize("task", TASKS)
def test_a_clear_video_gives_rows_of_each_task(tmp_path, task):
    events = [*EASY, *((a + 1500, b + 1500, c) for a, b, c in EASY)]
    events = events if task == "counting" else EASY
    video = video_of(events, tmp_path)
    rows = rows_of(video, task, per_video=5)
    assert len(rows) == (1 if task == "dense" else 5)
    assert len({row["conversations"][0]["value"] for row in rows}) == len(rows)
    for row in rows:
        check_row(row, events)


@pytest.mark.parametrize("task", TASKS)
def test_the_check_itself_finds_wrong_answers(tmp_path, task):
    events = [*EASY, *((a + 1500, b + 1500, c) for a, b, c in EASY)]
    events = events if task == "counting" else EASY
    for row in rows_of(video_of(events, tmp_path), task, per_video=4):
        _, gpt = row["conversations"]
        if gpt["value"].startswith("("):
            gpt["value"] = f"({'BCDA'['ABCD'.index(gpt['value'][1])]}{gpt['value'][2:]}"
        elif task == "ordering":
            gpt["value"] = ", ".join(gpt["value"].split(", ")[::-1])
        else:
            digits = str.maketrans("0123456789", "1234567890")
            gpt["value"] = gpt["value"].translate(digits)
        with pytest.raises((AssertionError, KeyError)):
            check_row(row, events)


APART = [(0, 40, "finds the apple"), (100, 140, "opens a box"), (200, 240, "drives the car")]
APART += [(300, 340, "feeds the dog"), (400, 440, "boils an egg")]
UNCLEAR = {
    "the same caption twice": ("grounding", [APART[0], (500, 540, "Finds the Apple!")]),
    "one within the other": ("grounding", [APART[0], (500, 540, "finds the apple in a box")]),
    "nearly all of the video": ("grounding", [(0, 100, "finds the apple"), (90, 101, "a dog")]),
    "order of overlapping": ("ordering", [(i, 100 + i, c) for i, (_, _, c) in enumerate(APART)]),
    "order of touching": ("ordering", [(i * 9, i * 9 + 9, c) for i, (*_, c) in enumerate(APART)]),
    "count of touching": ("counting", [(0, 40, "a dog"), (45, 90, "a dog")]),
    "count of overlapping": ("counting", [(0, 40, "a dog"), (30, 90, "a dog")]),
    "count with one like it": ("counting", [(0, 9, "x"), (20, 29, "x"), (50, 59, "x y")]),
    "count of a caption of many": ("counting", [(0, 9, "dog again"), (50, 59, "dog again")]),
    "count of two actions": ("counting", [(0, 9, "cuts egg"), (50, 59, "cuts and dices fish")]),
    "count with a noun": (
        "counting",
        [(0, 9, "cuts egg"), (50, 59, "cuts ham"), (90, 99, "a cut")],
    ),
    "count with a point": ("counting", [(0, 9, "a dog"), (50, 59, "a dog"), (80, 80, "a dog")]),
    "dense, with a point": ("dense", [*APART, (500, 500, "a man waves")]),
    "dense, twice over": ("dense", [*APART, (410, 450, "boils eggs")]),
    "needle in a short video": (
        "needle",
        [(i * 20, i * 20 + 9, c) for i, (*_, c) in enumerate(APART)],
    ),
    "needle not short": (
        "needle",
        [(i * 200, i * 200 + 190, c) for i, (*_, c) in enumerate(APART)],
    ),
    "too few to choose from": ("choice", APART[:3]),
    "all at once": ("choice", [(i, 100 + i, c) for i, (_, _, c) in enumerate(APART)]),
}


@pytest.mark.parametrize(("task", "events"), UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_not_asked_and_counted(tmp_path, task, events):
    built = build(video_of(events, tmp_path), Recipe((task,), per_video=4))
    if task == "grounding":  # the other event may be asked about
        assert all('"finds the apple"' not in str(row) for *_, row in built.rows)
    else:
        assert not built.rows
    assert built.dropped and all(of == task for of, _ in built.dropped)


def test_a_caption_on_at_the_time_is_no_wrong_option(tmp_path):
    """The dog runs all the time, and once alone: it never stands beside what happens meanwhile."""
    long = (0, 500, "a dog runs")
    events = [*APART, long, (600, 640, "a dog runs"), (700, 740, "paints it"), (800, 840, "sings")]
    video = video_of(events, tmp_path)
    rows = [row for seed in range(20) for row in rows_of(video, "choice", seed=seed, per_video=8)]
    for row in rows:
        check_row(row, events)
    assert any("a dog runs" in str(row) for row in rows)


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("A man opens the door.", "the man OPENS door", True),
        ("cuts an onion", "cutting onions", True),
        ("a man runs", "a man runs in the park", True),
        ("a man in red opens the big door", "a man in blue opens the big door", False),
        ("a b c d e f g h", "a b c d e f g x", True),
        ("opens the door", "closes the door", False),
        ("walks into a house", "walks out of a house", False),
        ("切洋葱", "切洋葱。", True),
        ("切洋葱", "洗苹果", False),
    ],
)
def test_which_captions_are_alike(a, b, same):
    assert alike(Event(0, 1, a), Event(2, 3, b)) == alike(Event(0, 1, b), Event(2, 3, a)) == same


def test_all_forms_of_a_verb_have_one_stem():
    for line in wording.VERBS:
        for verb, doing in line.items():
            third = verb + ("es" if verb[-1] in "sx" or verb[-2:] in ("ch", "sh") else "s")
            assert {stem(verb), stem(doing), stem(third)} == {stem(verb)}
    stems = [stem(verb) for line in wording.VERBS for verb in line]
    assert len(set(stems)) == len(stems) and set(VERBS) <= set().union(
        *map(dict.values, wording.VERBS)
    )


def test_an_action_is_counted_over_its_objects(tmp_path):
    events = [(0, 40, "A man cuts the apple."), (90, 99, "cuts a fish"), (150, 160, "he cut ham")]
    rows = [r for s in range(20) for r in rows_of(video_of(events, tmp_path), "counting", seed=s)]
    assert len(rows) == 20 and all("cutting" in str(row) for row in rows)
    for row in rows:
        check_row(row, events)


def many(count):
    """Videos of the same clear events at other times."""
    move = [(f"v{i}.mp4", 7 * i % 50) for i in range(count)]
    return [Video(n, tuple(Event(a + d, b + d, c) for a, b, c in EASY), (), 2000) for n, d in move]


def test_counts_have_no_options_to_guess_from(tmp_path):
    events = [*EASY, *((a + 1500, b + 1500, c) for a, b, c in EASY)]
    video = video_of(events, tmp_path)
    assert all(letter is None for *_, letter, _ in build(video, Recipe(("counting",), 9)).rows)


def test_letters_are_balanced():
    for task in ("choice", "needle", "ordering"):
        found = [build(video, Recipe((task,), 4)).rows for video in many(400)]
        letters = Counter(letter for rows in found for _, letter, _ in rows if letter)
        assert min(letters.values()) > 0.8 * letters.total() / 4 and len(letters) == 4
    for video in many(5):
        assert len({letter for _, letter, _ in build(video, Recipe(("choice",), 4)).rows}) == 4


def test_a_row_depends_on_seed_video_task_and_number_alone():
    first, *others = many(9)
    alone = build(first, Recipe(("needle",), 2)).rows
    assert alone == build(first, Recipe(("needle", "choice"), 4)).rows[:2]
    assert [b for b in build_all([*others, first], Recipe(("needle",), 2)) if b.video == "v0.mp4"][
        0
    ].rows == alone
    assert alone != build(first, Recipe(("needle",), 2, seed=1)).rows
    forward, back = (list(build_all(v, Recipe())) for v in (many(9), many(9)[::-1]))
    assert forward == back


@pytest.mark.parametrize(
    "module", [timeline, wording, statistics], ids=lambda module: module.__name__
)
def test_the_examples(module):
    result = doctest.testmod(module)
    assert result.attempted and not result.failed


def test_held_out_videos_stay_held_out():
    names = [f"{i}.mp4" for i in range(2000)]
    some = {name for name in names if is_held_out(name, 0.02, 3)}
    assert 20 < len(some) < 65
    assert some < {name for name in names if is_held_out(name, 0.1, 3)}
    assert not any(is_held_out(name, 0, 3) for name in names)


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"tasks": ("needle", "x")}, "tasks: expected some of ordering, .* got 'x'"),
        ({"tasks": ()}, "tasks: expected each once, got none"),
        ({"tasks": ("dense", "dense")}, "got dense, dense"),
        ({"per_video": 0}, "per_video: expected at least 1, got 0"),
    ],
)
def test_wrong_recipes(recipe, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**recipe)
