"""Checks a row of `hico build` from its text and the raw events alone, by brute force."""

import re

RANGE = re.compile(r"(\d+\.\d) - (\d+\.\d) seconds")
QUOTED = re.compile(r'"([^"]*)"')
VERBS = {"cutting": ("cut", "cuts", "cutting"), "jumping": ("jump", "jumps", "jumping")}


def normal(caption):
    """Small letters, words only."""
    return " ".join(re.findall(r"\w+", caption.lower()))


def shown(caption):
    return " ".join(caption.replace('"', "'").split()).rstrip(" .")


def to_range(text):
    start, end = RANGE.fullmatch(text).groups()
    return round(float(start) * 10), round(float(end) * 10)


def options_of(question):
    """(question without them, {letter: option}), the options in the order of their letters."""
    if "\nOptions:\n" not in question:
        return question, {}
    head, tail = question.split("\nOptions:\n")
    lines = tail.split("\n")
    assert lines.pop() == "Only give the best option."
    options = dict(re.fullmatch(r"\(([A-D])\) (.+)", line).groups() for line in lines)
    assert list(options) == list("ABCD") and len(set(options.values())) == 4
    return head, options


def check_row(row, events):
    """Assert that the row has exactly one right answer, and gives it.

    Args:
        row: as written.
        events: [(start, end, caption)] of its video in tenths of a second: all of the input.
    """
    assert set(row) == {"id", "video", "conversations"}
    human, gpt = row["conversations"]
    assert (human["from"], gpt["from"]) == ("human", "gpt")
    assert human["value"].startswith("<image>\n") and human["value"].count("<image>") == 1
    task = row["id"].split("/")[0]
    question, options = options_of(human["value"].removeprefix("<image>\n"))
    real = [event for event in events if event[1] > event[0]]
    judge = {"choice": _time, "needle": _time}.get(task) or globals()[f"_{task}"]
    right = judge(question, options, real, events)
    if not options:
        assert right(gpt["value"]), (question, gpt["value"])
        return
    letter, text = re.fullmatch(r"\(([A-D])\) (.+)", gpt["value"]).groups()
    assert options[letter] == text
    assert [letter] == [x for x, option in options.items() if right(option)], (question, options)


def _named(caption, events):
    found = [event for event in events if shown(event[2]) == caption]
    assert found, f"no such event: {caption}"
    assert len({normal(event[2]) for event in found}) == 1
    return found


def _only(caption, events):
    """The one event with this caption, however it is written."""
    key = normal(_named(caption, events)[0][2])
    same = {event[:2] for event in events if normal(event[2]) == key}
    assert len(same) == 1, f"not the only one: {same}"
    return (*same.pop(), key)


def _grounding(question, options, real, events):
    (caption,) = QUOTED.findall(question)
    start, end, _ = _only(caption, events)
    return lambda answer: to_range(answer) == (start, end)


def _time(question, options, real, events):
    """Multiple choice: what happens then, when does it happen, what happens between two events."""
    captions = QUOTED.findall(question)
    if len(captions) == 1:
        start, end, _ = _only(captions[0], events)

        def overlaps(option):
            a, b = to_range(option)
            assert any((a, b) == event[:2] for event in real), "not a range of the video"
            shared = max(0, min(end, b) - max(start, a))
            if (a, b) != (start, end):
                assert shared <= 0.1 * min(b - a, end - start)
                assert shared <= 0.1 * (max(end, b) - min(start, a))
            return shared > 0.1 * min(b - a, end - start)

        return overlaps
    if captions:
        before, after = (_only(caption, events) for caption in captions)
        start, end = before[1], after[0]
    else:
        start, end = (round(float(x) * 10) for x in re.findall(r"\d+\.\d", question))
    assert start < end
    return lambda option: any(
        a < end and start < b and normal(_named(option, events)[0][2]) == normal(caption)
        for a, b, caption in events
    )


def _ordering(question, options, real, events):
    listed = re.findall(r"^\d\. (.+?)\.?$", question, re.M)
    if listed:
        found = [_only(caption, events) for caption in listed]
        assert 3 <= len(found) == len(set(found)) <= 5
        ordered = sorted(found)
        assert all(a[1] + 10 <= b[0] for a, b in zip(ordered, ordered[1:], strict=False))
        order = ", ".join(str(found.index(event) + 1) for event in ordered)
        return lambda answer: answer == order
    first = "first" in question or "before all" in question
    assert first != ("last" in question or "after all" in question)
    found = sorted(_only(option, events) for option in options.values())
    assert all(a[1] + 10 <= b[0] for a, b in zip(found, found[1:], strict=False))
    return lambda option: _only(option, events) == found[0 if first else -1]


def _counting(question, options, real, events):
    captions = QUOTED.findall(question)
    if captions:
        key = normal(_named(captions[0], events)[0][2])
        found = [event for event in events if normal(event[2]) == key]
    else:
        (verb,) = (verb for verb in VERBS if verb in question)
        found = [e for e in events if set(VERBS[verb]) & set(normal(e[2]).split())]
    ordered = sorted({event[:2] for event in found})
    assert all(a[0] < a[1] for a in ordered), "counts an event without duration"
    assert all(a[1] + 10 <= b[0] for a, b in zip(ordered, ordered[1:], strict=False))
    return lambda answer: int(answer) == len(ordered) >= 2


def _dense(question, options, real, events):
    everything = {(a, b, normal(c)) for a, b, c in events}
    assert all(a < b for a, b, _ in everything)

    def tells(answer):
        parts = re.split(r" ?(\d+\.\d - \d+\.\d seconds), ", answer)
        told = [
            (*to_range(when), normal(caption))
            for when, caption in zip(parts[1::2], parts[2::2], strict=True)
        ]
        starts = [start for start, *_ in told]
        return starts == sorted(starts) and len(told) == len(everything) == len(
            everything & {*told}
        )

    return tells
