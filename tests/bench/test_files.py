"""bench files: from a folder of videos to a share that is right, the way of hico ask."""

import json

import pytest

from hico import cli
from hico.bench import files
from hico.bench.__main__ import main
from hico.model.load import random_model
from hico.model.training.worlds.spec import WorldSpec
from hico.model.training.worlds.write import write_worlds

pytest.importorskip("av")
pytestmark = pytest.mark.usefixtures("plain_on_cpu")
RANDOM = ["--model", "random:demo", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small videos with a question each."""
    path = tmp_path_factory.mktemp("worlds") / "two"
    spec = WorldSpec("needle", seed=5, frames=32, count=2, split="test")
    return path, write_worlds(spec, path, size=32)


def test_what_is_said_is_what_hico_ask_says(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(files, "ANSWER", 4)
    path, rows = folder
    out = tmp_path / "out.jsonl"
    assert main(["files", str(path), *RANDOM, "--read", "8", "--out", str(out)]) == 0
    assert "free: 0 of 2 right" in capsys.readouterr().out
    (row,) = [json.loads(line) for line in out.read_text().splitlines()]
    assert row["files"] == 2 and row["right"]["options"]["count"] == 2 and row["commit"]
    assert row["settings"] == {"folder": "two", "read": 8}
    named = {(one["file"], one["form"]): one for one in row["wrong"]}
    for asked in rows:
        words = [str(path / "videos" / asked["video"]), asked["free_question"], *RANDOM]
        assert cli.main(["ask", *words, "--frames", "8", "--max-new-tokens", "4"]) == 0
        one = named[asked["video"], "free"]
        assert capsys.readouterr().out.strip() == one["said"]
        assert one["right"] == asked["free_answer"]


def test_worlds_are_drawn_from_a_seed_that_is_named(tmp_path, capsys, monkeypatch):
    def perfect(folder, *_):
        (row,) = files.record.load(folder / "questions.jsonl")
        yield {"file": row["video"], "form": "free", "asked": "x", "ok": drawn.append(row) is None}

    drawn, out = [], tmp_path / "out.jsonl"
    monkeypatch.setattr(files, "asked", perfect)
    words = ["files", *RANDOM, "--count", "1", "--frames", "32", "--size", "16", "--out", str(out)]
    assert main([*words, "--least", "1"]) == 0
    seeds = [json.loads(line)["settings"]["seed"] for line in out.read_text().splitlines()]
    assert main([*words, "--seed", str(seeds[0])]) == 0
    assert drawn[0] == drawn[1] and drawn[0]["split"] == "test"
    assert f'"seed": {seeds[0]}' in capsys.readouterr().out


def test_less_than_asked_for_fails(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "ANSWER", 2)
    words = ["files", str(folder[0]), *RANDOM, "--read", "4", "--out", str(tmp_path / "out.jsonl")]
    assert main([*words, "--least", "0.95"]) == 1


def test_the_forms_of_a_row(folder):
    row = folder[1][0]
    (_, free, right), (_, text, letters) = files.forms(row)
    assert (free, right) == (row["free_question"], (row["free_answer"],))
    assert "<image>" not in text and text.endswith("Best option: (")
    letter = row["answer"]
    option = row["options"]["ABCD".index(letter)]
    assert set(letters) == {letter, option, f"{letter}) {option}"}
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A star."}]
    assert list(files.forms({"conversations": turns})) == [("free", "What?", ("A star.",))]


@pytest.mark.parametrize("row", [{}, {"conversations": []}, {"free_question": "What?"}])
def test_rows_without_an_answer(row):
    with pytest.raises(ValueError, match="expected a question and its answer"):
        list(files.forms({"id": "x"} | row))


@pytest.mark.parametrize("words", [["--count", "0"], ["--frames", "30"], ["gone"], ["--hops", "9"]])
def test_bad_arguments(words, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    assert main(["files", *words, *RANDOM, "--out", str(out)]) == 2
    assert "expected" in capsys.readouterr().err and not out.exists()


def test_a_folder_without_questions(folder, tmp_path):
    (tmp_path / "questions.jsonl").write_text("")
    with pytest.raises(ValueError, match="expected questions, found none"):
        list(files.asked(tmp_path, (*random_model(device="cpu"), None), "random:demo"))
