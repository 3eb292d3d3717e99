"""bench quality: what a run writes and says, how it goes on, and what it refuses."""

import json
import time

import pytest
from needle_helpers import small_model

from hico.bench import quality_measure, quality_table
from hico.bench.__main__ import main
from hico.bench.quality_tally import newest

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
QUICK = ["--frames", "32", "--lengths", "32,64", "--fixed", "32", "--depths", "0,1"]
QUICK += ["--adaptive", "32,40", "--questions", "4", "--hops", "1", "--ratios", "1,0.25"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model, processor = small_model()
    path = tmp_path_factory.mktemp("small")
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def test_a_run_writes_each_row_once(folder, tmp_path, capsys):
    out, png = tmp_path / "rows.jsonl", tmp_path / "plot.png"
    words = ["quality", "--model", f"a={folder}", "--out", str(out), "--cache", str(tmp_path)]
    words += [*QUICK, "--device", "cpu", "--case", "needle"]
    assert main([*words, "--budget", "0"]) == 1 and not out.exists()
    began = time.perf_counter()
    assert main(words) == 0
    first, seconds = out.read_text(), time.perf_counter() - began
    rows = [json.loads(line) for line in first.splitlines()]
    assert len({json.dumps(row["settings"]) for row in rows}) == len(rows) == 4 + 4 + 2 * 2 + 3
    for row in rows:
        assert row["suite"] == "quality" and row["complete"] and row["commit"] and not row["error"]
        assert len(row["outcomes"]["needle"]) == row["questions"] == 4
        assert row["low"] <= row["accuracy"] <= row["high"]
        timed = row["levels"] != ["baselines"]
        assert (row["seconds"] is not None) == timed == bool(row["survival"])
    tokens = {row["provider"]: row["tokens"] for row in rows if row["frames"] == 32}
    assert tokens["similarity merge"] == tokens["mean pool"] == tokens["frame drop"] == 512
    assert tokens["no merge"] == 2048 and tokens["blind"] == 0 and tokens["one frame"] == 64
    began = time.perf_counter()
    pytest.importorskip("matplotlib")
    assert main([*words, "--png", str(png)]) == 0 and out.read_text() == first
    assert time.perf_counter() - began < seconds and png.read_bytes()[:4] == b"\x89PNG"
    capsys.readouterr()
    assert main(["quality", "--show", "--out", str(out)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 1 + len(rows) + 2 and out.read_text() == first
    one = ["--seed", "1", "--levels", "baselines,video", "--only", "blind,random 0.25"]
    assert main([*words, *one]) == 0
    assert len(out.read_text().splitlines()) == len(rows) + 2
    for _ in range(2):
        assert main([*words, "--frames", "1024", "--levels", "clip", "--only", "no merge"]) == 0
    last = out.read_text().splitlines()[len(rows) + 2 :]
    assert [json.loads(line)["error"].split(":")[0] for line in last] == ["not run"]


def test_what_was_asked_is_there_if_a_run_is_ended(folder, tmp_path, capsys, monkeypatch):
    """After Ctrl-C the films so far are in the file; the same command goes on behind them."""
    out, real, asked = tmp_path / "rows.jsonl", quality_measure._ask_all, []
    words = ["quality", "--model", f"a={folder}", "--out", str(out), "--cache", str(tmp_path)]
    words += [*QUICK, "--device", "cpu", "--case", "needle", "--levels", "clip,baselines"]
    words += ["--only", "mean pool,blind"]

    def ended(subject, film, method, number, store, tally):
        asked.append(number)
        if len(asked) == 2:
            tally.outcomes["needle"] += "1"  # it was not done with this film
            raise KeyboardInterrupt
        real(subject, film, method, number, store, tally)

    monkeypatch.setattr(quality_measure, "_ask_all", ended)
    assert main(words) == 130
    (row,) = (json.loads(line) for line in out.read_text().splitlines())
    assert row["films"] == 1 and len(row["outcomes"]["needle"]) == 1 and not row["complete"]
    assert main(words) == 0 and asked == [0, 1, *range(1, 4), *range(4)]
    capsys.readouterr()
    *_, going_on, blind = (json.loads(line) for line in out.read_text().splitlines())
    assert going_on["complete"] and blind["complete"] and going_on["questions"] == 4
    assert going_on["outcomes"]["needle"][:1] == row["outcomes"]["needle"]
    assert main(["quality", "--show", "--out", str(out)]) == 0
    assert "so far" not in capsys.readouterr().out


def test_rows_of_a_file(tmp_path, capsys):
    """The latest one of equal settings stands last; what is no row of these is refused."""
    path = tmp_path / "rows.jsonl"

    def write(*rows):
        path.write_text("".join(json.dumps({"suite": "quality"} | row) + "\n" for row in rows))

    def row(weights, **said):
        known = {"case": "needle", "provider": "blind", "levels": [], "model": "a", "frames": 8}
        about = {"settings": {"weights": weights}, "complete": False, "error": "none"}
        return known | about | said

    write(row("old"), row("new"), {"suite": "merge"}, row("old", complete=True))
    assert [one["settings"]["weights"] for one in newest(path).values()] == ["new", "old"]
    assert quality_table.newest_models(list(newest(path).values())) == [
        {"suite": "quality"} | row("old", complete=True)
    ]
    for wrong, said in [
        ({}, "got one without case, provider"),
        (row("a", settings="x"), "got one without settings by name"),
        (row("a", error=None), "got one without questions, films"),
    ]:
        write(wrong)
        assert main(["quality", "--show", "--out", str(path)]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--levels", "sound"],
        ["--levels", "clip", "--only", "blind"],
        ["--case", "ordering"],
        ["--ratios", "0"],
        ["--ratios", "1.5"],
        ["--frames", "30"],
        ["--adaptive", "64"],
        ["--adaptive", "512,64"],
        ["--adaptive", "64.5,512"],
        ["--questions", "0"],
        ["--model", "folder"],
        ["--model", "a=x", "--model", "a=y"],
        ["--png", "plot.jpg"],
        ["--png", "nowhere/plot.png"],
        ["--show", "--png", "nowhere/plot.png"],
        ["--out", "tests"],
        ["--out", f"{__file__}/rows.jsonl"],
        ["--cache", __file__],
        ["--model", "a=/nowhere"],
        ["--seed", str(1 << 40)],
        ["--frames", "8"],
    ],
)
def test_bad_arguments(words, capsys, tmp_path):
    assert main(["quality", "--out", str(tmp_path / "rows.jsonl"), *words]) == 2
    told = capsys.readouterr().err
    assert "expected" in told or "nowhere does not exist" in told
    assert words[0][2:] in told or words[-1] in told
