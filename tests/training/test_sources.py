"""The published data YAML."""

import json
from pathlib import Path

import pytest
from data_helpers import said

from hico.model.training.annotations import BadRowError
from hico.model.training.sources import load_sources, strategy

TEXT = {"conversations": said("Who are you?")}


def write(folder, *entries, rows=10):
    """d.yaml of entries, JSON being YAML too, and a.json of rows of text."""
    given = [TEXT | {"id": i} for i in range(rows)] if isinstance(rows, int) else rows
    (folder / "a.json").write_text(json.dumps(given))
    (folder / "d.yaml").write_text(json.dumps({"datasets": list(entries)}))
    return folder / "d.yaml"


@pytest.mark.parametrize(
    "text, expected",
    [
        ("all", range(11)),
        ("first:3", range(3)),
        ("first:99", range(11)),
        ("first:25%", range(3)),
        ("first2:25%", range(3, 6)),
        ("first3:4", range(8, 11)),
        ("first4:25%", range(9, 11)),
        ("first4:5", range(0)),
        ("end:2", range(9, 11)),
        ("end:10%", range(9, 11)),
        ("end:50", range(11)),
    ],
)
def test_strategies(text, expected):
    assert list(strategy(text)(11)) == list(expected)


@pytest.mark.parametrize(
    "text", ["random:5", "random", "first", "first5:2", "end:0", "first:-1", "first:x%", "all:3"]
)
def test_strategies_that_are_none(text, tmp_path):
    with pytest.raises(ValueError, match="sampling_strategy: expected all, first:N"):
        strategy(text)
    path = write(tmp_path, {"json_path": "a.json"}, {"json_path": "b", "sampling_strategy": text})
    with pytest.raises(ValueError, match=r"d\.yaml: entry 1: sampling_strategy"):
        load_sources(path)


def test_entries(tmp_path):
    (tmp_path / "b.jsonl").write_text(json.dumps({"video": "v", "conversations": said("<image>")}))
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "v").touch()
    world = {"world": "needle", "seed": 3, "count": 100}
    path = write(
        tmp_path,
        {"json_path": "a.json", "sampling_strategy": "first2:3", "media_type": "text"},
        world,
        {"json_path": str(tmp_path / "b.jsonl"), "data_root": "media", "video_read_type": "gif"},
    )
    found = load_sources(path)
    assert [row.id for row in found.rows] == ["3", "4", "5", None] and found.bad == []
    assert found.worlds == [world]
    assert found.rows[3].video == str(tmp_path / "media" / "v") and found.rows[3].reader == "gif"


def test_a_haystack_begins_in_the_folder_of_the_yaml(tmp_path, monkeypatch):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / "films").mkdir(exist_ok=True)
        (tmp_path / "films" / name).touch()
    here = str(tmp_path / "films")
    given = ("films", here, "natural", "shipped")
    path = write(tmp_path, *({"world": "needle", "haystack": hay} for hay in given))
    monkeypatch.chdir("/")
    found = [world["haystack"] for world in load_sources(path).worlds]
    assert found == [here, here, "natural", "shipped"]


@pytest.mark.parametrize("root", [None, "", "media"])
def test_relative_paths_begin_in_the_folder_of_the_yaml(root, tmp_path, monkeypatch):
    """As if the current folder held nothing, also where the YAML is named from there."""
    rows = [{"video": "v", "conversations": said("<image>")}]
    entry = {"json_path": "a.json"} | ({} if root is None else {"data_root": root})
    for folder, given in (("out", rows), (".", [])):
        path = tmp_path / folder / (root or "")
        path.mkdir(parents=True, exist_ok=True)
        (path / "v").touch()
        write(tmp_path / folder, entry, rows=given)
    monkeypatch.chdir(tmp_path)
    for given in ("out/d.yaml", tmp_path / "out" / "d.yaml"):
        found = load_sources(given).rows[0]
        assert Path(found.video).resolve() == tmp_path / "out" / (root or "") / "v"
    (tmp_path / "out" / "a.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"out/a\.json"):
        load_sources("out/d.yaml")


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"json": "a.json"}, "expected json_path or world"),
        ("a.json", "expected json_path or world"),
        ({"json_path": "a.json", "sampling": "all"}, "expected keys of json_path.* got 'sampling'"),
        ({"json_path": "a.json", "media_type": "audio"}, "media_type: expected one of None"),
        ({"json_path": "a.json", "video_read_type": "vhs"}, "video_read_type: expected one of"),
        ({"json_path": "a.json", "data_root": "https://a.b/c"}, "data_root: expected a path on"),
        ({"json_path": 3}, "json_path: expected a path"),
        (
            {"world": "needle", "haystack": "films"},
            "haystack: expected natural, shipped or a folder",
        ),
        ({"world": "needle", "frames": 65}, "frames: expected multiples of 4"),
    ],
)
def test_bad_entries(entry, message, tmp_path):
    with pytest.raises(ValueError, match=rf"d\.yaml: entry 0: {message}"):
        load_sources(write(tmp_path, entry))


@pytest.mark.parametrize("text", ["", "a: b", "datasets: []", "datasets: {", "- 1", "\x00"])
def test_bad_yaml(text, tmp_path):
    (tmp_path / "d.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"d\.yaml: expected"):
        load_sources(tmp_path / "d.yaml")


def test_yaml_makes_no_objects(tmp_path):
    (tmp_path / "d.yaml").write_text("datasets: !!python/object/apply:os.getcwd []")
    with pytest.raises(ValueError, match="expected YAML"):
        load_sources(tmp_path / "d.yaml")


def test_bad_rows_stop_or_are_listed(tmp_path):
    path = write(tmp_path, {"json_path": "a.json"}, rows=[TEXT, {}, TEXT, 3])
    with pytest.raises(BadRowError, match=r"a\.json: row 1: conv.*and 1 more bad rows") as caught:
        load_sources(path)
    assert [bad.index for bad in caught.value.bad] == [1, 3]
    found = load_sources(path, on_bad="skip")
    assert [row.index for row in found.rows] == [0, 2] and found.bad == list(caught.value.bad)
    with pytest.raises(
        ValueError, match=r"expected something to train on, got 1 bad rows \(.*row 0"
    ):
        load_sources(write(tmp_path, {"json_path": "a.json"}, rows=[{}]), on_bad="skip")
    with pytest.raises(ValueError, match="on_bad"):
        load_sources(path, on_bad="ignore")


def test_a_root_below_which_nothing_is(tmp_path):
    """As published, one of the first three is enough; the others come out when they are read."""
    rows = [{"image": f"{i}.png", "conversations": said("<image>")} for i in range(4)]
    path = write(tmp_path, {"json_path": "a.json", "data_root": str(tmp_path)}, rows=rows)
    with pytest.raises(BadRowError, match=r"row 0: no such file: .*0\.png \(see data_root\)"):
        load_sources(path)
    assert len(load_sources(path, on_bad="skip").rows) == 4
    (tmp_path / "2.png").touch()
    assert len(load_sources(path).rows) == 4
