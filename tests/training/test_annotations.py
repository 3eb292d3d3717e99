"""Annotation files in the published format, whole and broken."""

import json
import math
import pickle
import random

import pytest
from data_helpers import said

from hico.model.training import records as reading
from hico.model.training.annotations import BadRowError, parse_row, read_rows
from hico.model.training.records import parse, records

QUESTION = "<image>\nWhat?"
GOOD = {"video": "a.mp4", "conversations": said(QUESTION)}


def row(**changed):
    """A good record with some fields changed; None takes one out."""
    return {key: value for key, value in (GOOD | changed).items() if value is not None}


def turns(*texts, keys=("from", "value")):
    return [dict(zip(keys, text, strict=True)) for text in texts]


def test_every_kind_of_row():
    record = row(id=7, start=1, end="2.5", video_read_type="img")
    found = parse_row(record, "a.json", 3, root="clips")
    assert (found.file, found.index, found.id) == ("a.json", 3, "7")
    assert (found.video, found.start, found.end) == ("clips/a.mp4", 1.0, 2.5)
    assert found.reader == "img" and found.images == ()
    assert found.turns == (("human", QUESTION), ("gpt", "It is a cat."))
    image = row(video=None, image="b.jpg")
    assert parse_row(image, "a.json", 0, "pics", reader="gif").images == ("pics/b.jpg",)
    assert parse_row(image, "a.json", 0, reader="gif").reader == "gif"
    # a data YAML's word counts more than a row's
    assert parse_row(record, "a.json", 0, reader="gif").reader == "gif"
    several = row(video=None, image=["b", "/c"], conversations=said("<image><image>"))
    assert parse_row(several, "a.json", 0, "pics").images == ("pics/b", "/c")
    # nothing is shown: <image> is a word like any other
    text = parse_row(row(video=None, conversations=said("Is <image> a tag?")), "a.json", 0)
    assert text.video is None and text.images == () and "<image>" in text.turns[0][1]


def test_keys_and_roles():
    spoken = turns(("user", QUESTION), ("assistant", "a"), keys=("role", "content"))
    assert parse_row(row(conversations=spoken), "", 0).turns == (("human", QUESTION), ("gpt", "a"))
    first = turns(("gpt", "Hello."), ("human", QUESTION), ("gpt", "a"))
    assert parse_row(row(conversations=first), "", 0).turns == (("human", QUESTION), ("gpt", "a"))
    system = turns(("system", "Be kind."), ("human", QUESTION), ("system", "b"), ("gpt", "a"))
    assert [r for r, _ in parse_row(row(conversations=system), "", 0).turns] == [
        "human", "system", "gpt",
    ]  # fmt: skip


BAD = {
    "no object": ([1], "expected an object, got list"),
    "no conversation": (row(conversations=None), "conversations: expected a list of turns"),
    "no turns": (row(conversations=[]), "conversations: expected a list of turns, got []"),
    "a turn of text": (row(conversations=["a"]), "turn 0: expected an object, got 'a'"),
    "an unknown role": (row(conversations=turns(("bot", "a"))), "turn 0: expected a role of human"),
    "a list for a role": (row(conversations=turns((["gpt"], "a"))), "expected a role of human"),
    "no text": (row(conversations=turns(("human", None))), "turn 0: expected text, got None"),
    "an empty answer": (row(conversations=said(QUESTION, " \n")), "an empty one in turn 1"),
    "no answer": (row(conversations=turns(("human", QUESTION))), "expected an answer, got none"),
    "an answer that is dropped": (row(conversations=turns(("gpt", "a"))), "an answer, got none"),
    "no <image>": (row(conversations=said("What?")), "one <image> for each of 1 images or videos"),
    "too many": (row(conversations=said("<image><image>")), "got 2"),
    "an image too few": (row(video=None, image=["a", "b"]), "for each of 2 images or videos, got"),
    "both": (row(image="b.jpg"), "an image or a video, got both"),
    "no path": (row(video=""), "video: expected a path, got ''"),
    "a number for a path": (row(video=4), "video: expected a path, got 4"),
    "a list of videos": (row(video=["a.mp4"]), "video: expected a path"),
    "no images": (row(video=None, image=[]), "image: expected a path, got []"),
    "an image that is none": (row(video=None, image=[None]), "image: expected a path"),
    "a word for a time": (row(start="soon"), "start: expected seconds, got 'soon'"),
    "a truth for a time": (row(end=True), "end: expected seconds, got True"),
    "no finite time": (row(end="inf"), "end: expected seconds"),
    "no time of this world": (row(end=1e308), "end: expected seconds, got 1e+308"),
    "the wrong way round": (row(start=3, end=2), "expected start < end, got 3.0 to 2.0"),
    "NaN for a time": (row(end=math.nan), "end: expected seconds, got nan"),
    "NaN for an answer": (row(conversations=said(QUESTION, math.nan)), "turn 1: expected text"),
    "half a character": (row(conversations=said(QUESTION, "\ud83d")), "turn 1: expected text in"),
    "half a character of a path": (row(video="\ud83d"), "video: expected a path"),
    "an unknown reader": (row(video_read_type="vhs"), "video_read_type: expected one of decord"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_rows(name, tmp_path):
    record, message = BAD[name]
    with pytest.raises(ValueError) as caught:
        parse_row(record, "a.json", 0)
    assert message in str(caught.value)
    (tmp_path / "a.json").write_text(json.dumps([GOOD, record, GOOD]))
    rows, bad = read_rows(tmp_path / "a.json")
    assert [r.index for r in rows] == [0, 2] and len(bad) == 1
    assert str(bad[0]) == f"{tmp_path / 'a.json'}: row 1: {caught.value}"


@pytest.mark.parametrize("given, media_type", [(GOOD, "image"), (row(video=None), "video")])
def test_media_of_another_type(given, media_type):
    with pytest.raises(ValueError, match=f"media_type: expected {media_type}, got a row of"):
        parse_row(given, "a.json", 0, media_type=media_type)
    assert parse_row(GOOD, "a.json", 0, media_type="mix").video == "a.mp4"


def test_json_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    good = json.dumps(row(id="caf\u00e9"), ensure_ascii=False).encode()
    lines = [b"\xef\xbb\xbf" + good, b"", b'{"video": ', good, b"\xff\xfe", b"[" * 10**5, b"NaN"]
    path.write_bytes(b"\r\n".join([*lines, good]))
    rows, bad = read_rows(path)
    assert "expected an object, got float" in bad.pop().reason
    # numbered as the lines are, and a broken line costs no other
    assert [r.index for r in rows] == [0, 3, 7] and [r.id for r in rows[1:]] == ["caf\u00e9"] * 2
    assert [b.index for b in bad] == [2, 4, 5]
    assert all("broken JSON" in b.reason for b in bad)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1" * 9999])
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_numbers_that_are_none(number, name, tmp_path):
    """Python's json writes some of them; they cost a row only where a number counts."""
    path = tmp_path / name
    texts = [json.dumps(row(**{key: "x"})) for key in ("score", "start", "id")]
    texts = [text.replace('"x"', number) for text in texts]
    path.write_text("\n".join(texts) if name == "a.jsonl" else f"[{','.join(texts)}]")
    rows, bad = read_rows(path)
    assert [r.index for r in rows] == [0, 2] and [b.index for b in bad] == [1]
    assert "start: expected seconds" in bad[0].reason


BROKEN = {
    "cut off in a row": lambda text: text[:-20],
    "cut off between rows": lambda text: text.rstrip("]").rstrip(),
    "a comma missing": lambda text: text.replace("}]}, {", "}]} {", 1),
    "a comma too many": lambda text: text.rstrip("]") + ",]",
    "something behind": lambda text: text + " x",
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_json(name, tmp_path):
    text = json.dumps([GOOD] * 3)
    path = tmp_path / "a.json"
    path.write_text(BROKEN[name](text))
    rows, bad = read_rows(path)
    assert len(bad) == 1 and bad[0].index == len(rows) and "broken JSON" in bad[0].reason
    assert "it and all rows after it are lost" in bad[0].reason


@pytest.mark.parametrize("data", [b"", b" ", b"{}", b'"a"', b"\xff["])
def test_files_that_are_no_list(data, tmp_path):
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.json: expected .*JSON"):
        read_rows(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError):
        read_rows(tmp_path / "gone.json")


def anything(rng, depth=0):
    """Some JSON value."""
    if depth > 2 or rng.random() < 0.3:
        return rng.choice(
            [1, -2.5e-3, True, None, -math.inf, '\u00e9\u6c34"\\\x01\U0001f600', "x" * 40, -1e300]
        )
    if rng.random() < 0.5:
        return [anything(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {f"k{i}": anything(rng, depth + 1) for i in range(rng.randrange(4))}


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
def test_lists_are_read_in_pieces_of_any_size(chunk, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    rng, path = random.Random(chunk), tmp_path / "a.json"
    for i in range(60):
        values = [anything(rng) for _ in range(rng.randrange(6))]
        text = json.dumps(values, ensure_ascii=i % 2 == 0, indent=rng.choice([None, 0, 3]))
        data = b"\xef\xbb\xbf" * (i % 3 == 0) + text.encode()
        path.write_bytes(data)
        found = list(records(path))
        assert [r.value for r in found] == values and all(r.error is None for r in found)
        assert [parse(data[r.start : r.stop]) for r in found] == values


def test_rows_are_read_when_they_are_asked_for(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([row(id=i) for i in range(5)]))
    rows, _ = read_rows(path, choose=lambda count: range(1, count))
    again = pickle.loads(pickle.dumps(rows))
    assert [r.id for r in again] == ["1", "2", "3", "4"] and again[-1].id == "4"
    assert [r.id for r in rows[::2]] == ["1", "3"]
    with pytest.raises(IndexError):
        rows[4]
    path.write_text(json.dumps([row(id="longer than before") for i in range(5)]))
    with pytest.raises(BadRowError, match=r"a\.json: row 3: the file has changed"):
        rows[2]


def test_bad_rows_of_a_slice_that_is_not_meant(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{}, GOOD, {}, GOOD]))
    rows, bad = read_rows(path, choose=lambda count: range(1, 3))
    assert [r.index for r in rows] == [1] and [b.index for b in bad] == [2]
    with pytest.raises(BadRowError, match=r"row 1: b \(and 1 more bad rows\)"):
        raise pickle.loads(pickle.dumps(BadRowError(*(type(bad[0])("a", 1, "b") for _ in "ab"))))
