"""Reading event annotations: both forms, every kind of error with its row, in any order."""

import json
import random

import pytest

from hico.model.training.build.events import read_events
from hico.model.training.build.timeline import Event

GOOD = {"video": "a.mp4", "start": 1, "end": 2.5, "caption": "a dog barks"}


def reading_of(tmp_path, *rows, **options):
    path = tmp_path / "e.jsonl"
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines))
    return read_events(path, **options)


def test_both_forms_say_the_same(tmp_path):
    events = [{"start": 3, "end": 4, "caption": " a  cat\tmews "}, GOOD]
    flat = [{"video": "a.mp4", "duration": 9, "more": 0, **event} for event in events]
    nested = {"video": "a.mp4", "duration": 9, "events": events}
    by_event, by_video = reading_of(tmp_path, *flat), reading_of(tmp_path, nested)
    assert by_event == by_video and by_event.read == 2
    (video,) = by_event.videos
    assert video.events == (Event(10, 25, "a dog barks"), Event(30, 40, "a cat mews"))
    assert (video.name, video.duration, video.complete, video.faint) == ("a.mp4", 90, True, ())


def test_blank_lines_count_and_a_byte_order_mark_does_not(tmp_path):
    text = json.dumps(GOOD).encode()
    reading = reading_of(tmp_path, b"\xef\xbb\xbf" + text, b"", b"  ", b"x", on_bad="skip")
    assert [row for row, _ in reading.bad] == [4] and len(reading.videos) == 1


BAD = {
    "broken": (b'{"video": "a.mp4",', "row 2: broken JSON: "),
    "deep": (b"[" * 100_000, "row 2: broken JSON: "),
    "bytes": (b"\xff\xfe", "row 2: expected UTF-8 text"),
    "list": ([1], r"row 2: expected a JSON object, got \[1\]"),
    "no video": ({"start": 1, "end": 2, "caption": "x"}, "row 2: missing key 'video'"),
    "video": (GOOD | {"video": 3}, "row 2: video: expected text, got 3"),
    "name": (GOOD | {"video": "a\0b"}, "video: expected text without control characters"),
    "no start": ({"video": "a.mp4", "end": 2, "caption": "x"}, "row 2: missing key 'start'"),
    "no end": ({"video": "a.mp4", "start": 2, "caption": "x"}, "row 2: missing key 'end'"),
    "no caption": ({"video": "a.mp4", "start": 1, "end": 2}, "row 2: missing key 'caption'"),
    "text": (GOOD | {"start": "1"}, "row 2: start: expected a number of seconds, got '1'"),
    "bool": (GOOD | {"end": True}, "end: expected a number of seconds, got True"),
    "none": (GOOD | {"end": None}, "end: expected a number of seconds, got None"),
    "nan": (GOOD | {"end": float("nan")}, "end: expected 0 to 1000000 seconds, got nan"),
    "inf": (GOOD | {"end": float("inf")}, "end: expected 0 to 1000000 seconds, got inf"),
    "huge": (GOOD | {"end": 10**400}, "end: expected 0 to 1000000 seconds, got 10000"),
    "negative": (GOOD | {"start": -1}, "start: expected 0 to 1000000 seconds, got -1"),
    "reversed": (GOOD | {"start": 5}, "row 2: end before start: 5 to 2.5"),
    "empty": (GOOD | {"caption": "  "}, "row 2: caption: expected some text, got none"),
    "no words": (GOOD | {"caption": "..."}, r"caption: expected words, got '\.\.\.'"),
    "mark": (GOOD | {"caption": "a <image>"}, "caption: expected text, got the mark <image>"),
    "token": (GOOD | {"caption": "a <|im_end|>"}, r"got the mark <\|im_end\|>"),
    "surrogate": (GOOD | {"caption": "a \ud800"}, "caption: expected text without control"),
    "duration": (GOOD | {"duration": "9"}, "duration: expected a number of seconds, got '9'"),
    "no time": (GOOD | {"duration": 0}, "duration: expected more than 0 seconds, got 0"),
    "events": ({"video": "a.mp4", "events": 1}, "row 2: events: expected a list, got 1"),
    "event": ({"video": "a.mp4", "events": [GOOD, 1]}, "row 2: event 2: expected an object"),
    "inner": ({"video": "a.mp4", "events": [GOOD, {}]}, "row 2: event 2: missing key 'start'"),
    "other": (
        GOOD | {"duration": 5},
        r"duration: 5\.0 seconds, but another row of a.mp4 says 3\.0",
    ),
}


@pytest.mark.parametrize(("row", "said"), BAD.values(), ids=BAD)
def test_a_bad_row_is_an_error_unless_skipped(tmp_path, row, said):
    rows = [GOOD | {"duration": 3}, row, GOOD | {"video": "b.mp4"}]
    with pytest.raises(ValueError, match=said) as caught:
        reading_of(tmp_path, *rows)
    assert str(caught.value).startswith(f"{tmp_path / 'e.jsonl'}: row 2: ")
    reading = reading_of(tmp_path, *rows, on_bad="skip")
    assert [row for row, _ in reading.bad] == [2]
    assert [video.name for video in reading.videos] == ["a.mp4", "b.mp4"]
    assert reading.videos[0].events == (Event(10, 25, "a dog barks"),)
    assert reading.videos[1].complete
    named = isinstance(row, dict) and row.get("video") == "a.mp4"
    assert reading.videos[0].complete == (not named)


def test_several_bad_rows_are_counted(tmp_path):
    with pytest.raises(ValueError, match=r"row 1: missing key .* \(2 bad rows in all\)"):
        reading_of(tmp_path, {}, GOOD, [])


@pytest.mark.parametrize("rows", [[], [b"", b" "]])
def test_no_rows(tmp_path, rows):
    with pytest.raises(ValueError, match="expected rows of events, found none"):
        reading_of(tmp_path, *rows)
    with pytest.raises(FileNotFoundError):
        read_events(tmp_path / "none.jsonl")


def test_what_cannot_be_asked_for_is_kept_apart_and_counted(tmp_path):
    times = [(0, 5), (6, 10.4), (7, 10.6), (10.2, 10.3), (12, 13), (4, 4), (4, 4.04), (0, 5)]
    captions = ["one", "two", "three", "four", "five", "six", "seven", "One!"]
    events = [
        {"start": a, "end": b, "caption": c} for (a, b), c in zip(times, captions, strict=True)
    ]
    reading = reading_of(tmp_path, {"video": "a", "duration": 10, "events": events})
    (video,) = reading.videos
    assert [event.caption for event in video.events] == ["One!", "two"]
    assert video.events[1] == Event(60, 100, "two")
    assert {event.caption for event in video.faint} == {"three", "four", "five", "six", "seven"}
    assert reading.dropped == {"beyond the video": 2, "without duration": 3, "there twice": 1}
    assert reading.read == 8 and video.complete


def test_the_order_of_rows_changes_nothing(tmp_path):
    rng = random.Random(0)
    times = [(rng.randrange(90), rng.randrange(9)) for _ in range(60)]
    rows = [
        {"video": f"{a % 4}.mp4", "start": a, "end": a + b, "caption": f"x {a % 7}", "duration": 80}
        for a, b in times
    ]
    rows += [rows[0], GOOD | {"video": "1.mp4", "duration": 70}, rows[1] | {"caption": "X  0."}]
    reading = reading_of(tmp_path, *rows, on_bad="skip")
    for _ in range(5):
        rng.shuffle(rows)
        other = reading_of(tmp_path, *rows, on_bad="skip")
        assert (other.videos, other.dropped) == (reading.videos, reading.dropped)


def test_measured_durations_count(tmp_path):
    def measure(video):
        if video == "b":
            raise OSError("no such file")
        return 2.0

    rows = [GOOD | {"video": "a", "duration": 100}, GOOD | {"video": "b"}]
    with pytest.raises(ValueError, match="row 2: video b: no such file"):
        reading_of(tmp_path, *rows, measure=measure)
    reading = reading_of(tmp_path, *rows, measure=measure, on_bad="skip")
    (video,) = reading.videos
    assert video.duration == 20 and video.events == (Event(10, 20, "a dog barks"),)
    assert reading.dropped == {"bad video": 1} and len(reading.bad) == 1
