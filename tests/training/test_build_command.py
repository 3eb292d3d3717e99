"""hico build, from its command line to the files that it leaves or does not leave."""

import hashlib
import json
import random
import shutil

import pytest
import yaml
from build_helpers import check_row

from hico import cli
from hico.model.demo import SHIPPED
from hico.model.training.build import command
from hico.model.training.build.building import TASKS

VERBS = "finds drops cuts lifts eats buys".split()
THINGS = "apple box car dog egg fish gate hat ink jar kite lamp".split()


def annotated(videos=12, seed=0):
    """Rows of events, 14 a video, some of them repeated."""
    rng, rows = random.Random(seed), []
    for number in range(videos):
        at = 0.0
        for _ in range(14):
            at += rng.choice([0.5, 2, 8, 20])
            end = round(at + rng.choice([0.8, 3, 11.2]), 1)
            caption = f"a man {rng.choice(VERBS)} the {rng.choice(THINGS)}"
            rows.append({"video": f"v{number}.mp4", "start": at, "end": end, "caption": caption})
            at = end
    return rows


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hico(*words):
    return cli.main(["build", *map(str, words)])


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.jsonl")
    }


def test_every_written_row_is_right_and_counted(tmp_path, capsys):
    rows, out = annotated(40), tmp_path / "new" / "out"
    assert hico(write(tmp_path / "e.jsonl", rows), "-o", out, "--split", "0.2") == 0
    names = ["data.yaml", "statistics.json", "train.jsonl", "val.jsonl"]
    assert sorted(path.name for path in out.iterdir()) == names
    train, val = lines(out / "train.jsonl"), lines(out / "val.jsonl")
    assert not {row["video"] for row in train} & {row["video"] for row in val}
    assert len({row["id"] for row in train + val}) == len(train + val)
    for row in train + val:
        mine = [each for each in rows if each["video"] == row["video"]]
        events = [(round(e["start"] * 10), round(e["end"] * 10), e["caption"]) for e in mine]
        check_row(row, events)
    said = json.loads((out / "statistics.json").read_text())
    assert said["seed"] == 0 and set(said["rows"]) == set(TASKS)
    for task, counts in said["rows"].items():
        of_task = [row for row in train if row["id"].startswith(f"{task}/")]
        assert counts["train"] == len(of_task) > 0
        answers = [row["conversations"][1]["value"][:2] for row in train + val if task in row["id"]]
        assert counts["letters"] == {x: answers.count(f"({x}") for x in "ABCD"}
    assert said["events"]["read"] == 560 and said["events"]["a video"]["max"] <= 14
    printed = capsys.readouterr().out
    assert all(task in printed for task in TASKS) and "not asked" in printed
    assert yaml.safe_load((out / "data.yaml").read_text())["datasets"] == [
        {
            "json_path": str(out / "train.jsonl"),
            "data_root": "",
            "media_type": "video",
            "sampling_strategy": "all",
        }
    ]


def test_bytes_depend_on_the_seed_and_not_on_the_order_of_rows(tmp_path):
    rows = annotated(9)
    forward = write(tmp_path / "a.jsonl", rows)
    other = write(tmp_path / "b.jsonl", random.Random(1).sample(rows, len(rows)))
    for name, words in {"a": [forward], "b": [other], "c": [forward, "--seed", 1]}.items():
        assert hico(*words, "-o", tmp_path / name, "--split", "0.5") == 0
    a, b, c = (digests(tmp_path / name) for name in "abc")
    assert a == b and a != c and "train.jsonl" in a


def test_an_earlier_run_is_replaced_whole(tmp_path):
    events, out = write(tmp_path / "e.jsonl", annotated(9)), tmp_path / "out"
    assert hico(events, "-o", out, "--split", "0.5") == 0 and (out / "val.jsonl").exists()
    assert hico(events, "-o", out, "--split", "0", "--per-video", "1", "--tasks", "dense") == 0
    assert not (out / "val.jsonl").exists()
    rows = lines(out / "train.jsonl")
    assert rows and all(row["id"].startswith("dense/") for row in rows)


@pytest.mark.parametrize("there", [False, True], ids=["new", "there"])
@pytest.mark.parametrize("step", ["_data", "table", "is_held_out", "_write_rows"])
def test_nothing_is_left_by_an_error(tmp_path, monkeypatch, there, step):
    events, out = write(tmp_path / "e.jsonl", annotated(5)), tmp_path / "out"
    if there:
        out.mkdir()
        (out / "train.jsonl").write_text("old")

    def full(*args):
        raise OSError("no space left")

    if step == "table":  # after the files are in place: they are whole
        monkeypatch.setattr(command, "table", full)
        assert hico(events, "-o", out) == 2 and len(list(out.iterdir())) >= 3
        return
    monkeypatch.setattr(command, step, full)
    assert hico(events, "-o", out) == 2
    if there:
        assert [path.read_text() for path in out.iterdir()] == ["old"]
    else:
        assert not out.exists()


ARGUMENTS = {
    "task": (["--tasks", "dense,x"], "tasks: expected some of ordering"),
    "none": (["--tasks", ""], "tasks: expected some of"),
    "number": (["--per-video", "0"], "per_video: expected at least 1, got 0"),
    "split": (["--split", "1"], "--split: expected 0 to less than 1, got 1.0"),
    "nan": (["--split", "nan"], "--split: expected 0 to less than 1, got nan"),
    "root": (["--check-videos", "/no/such/folder"], "/no/such/folder is not a folder"),
    "held out": (["--split", "0.9999999"], "no question to train on can be asked of 3 videos"),
}


@pytest.mark.parametrize(("words", "said"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments(tmp_path, capsys, words, said):
    events = write(tmp_path / "e.jsonl", annotated(3))
    assert hico(events, "-o", tmp_path / "out", *words) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_bad_row_stops_unless_skipped(tmp_path, capsys):
    rows = annotated(4)
    rows[5] = rows[5] | {"end": rows[5]["start"] - 1}
    events, out = write(tmp_path / "e.jsonl", rows), tmp_path / "out"
    assert hico(events, "-o", out) == 2 and not out.exists()
    assert f"{events}: row 6: end before start" in capsys.readouterr().err
    assert hico(events, "-o", out, "--on-bad", "skip", "--split", "0") == 0
    (bad,) = json.loads((out / "statistics.json").read_text())["bad rows"]
    assert bad["row"] == 6 and "bad row 6: end before start" in capsys.readouterr().out
    assert not any(
        "v0.mp4" in row["id"] for row in lines(out / "train.jsonl") if "dense" in row["id"]
    )


def test_the_events_themselves_are_never_replaced(tmp_path, capsys):
    events = write(tmp_path / "train.jsonl", annotated(3))
    before = events.read_bytes()
    assert hico(events, "-o", tmp_path) == 2 and events.read_bytes() == before
    assert "it would be replaced" in capsys.readouterr().err


def test_videos_are_opened_and_their_real_duration_counts(tmp_path, capsys):
    pytest.importorskip("av")
    root = tmp_path / "videos"
    root.mkdir()
    shutil.copy(SHIPPED, root / "demo.mp4")  # of 8 seconds
    (root / "text.mp4").write_text("no video")
    times = [(0, 1, "finds it"), (2, 3, "drops it"), (5, 6, "lifts it"), (7, 9, "eats it")]
    rows = [{"video": "demo.mp4", "start": a, "end": b, "caption": c} for a, b, c in times]
    events, out = tmp_path / "e.jsonl", tmp_path / "out"
    words = [events, "-o", out, "--check-videos", root, "--split", "0"]
    for name in "none.mp4", "text.mp4":
        write(events, [*rows, rows[0] | {"video": name}])
        assert hico(*words) == 2 and not out.exists()
        assert f"{events}: row 5: video {name}: " in capsys.readouterr().err
    assert hico(*words, "--on-bad", "skip") == 0
    said = json.loads((out / "statistics.json").read_text())
    assert said["dropped"]["events"] == {"bad video": 1, "beyond the video": 1}
    assert said["videos"]["seconds"]["max"] == 8.0 and said["bad rows"][0]["row"] == 5
    (entry,) = yaml.safe_load((out / "data.yaml").read_text())["datasets"]
    assert entry["data_root"] == str(root)


def test_help_says_how_events_are_written(capsys):
    with pytest.raises(SystemExit):
        hico("--help")
    said = capsys.readouterr().out
    assert '"caption": "a dog barks"' in said and "one JSON object a line" in said
