"""bench figures: which commands there are, and how they are carried out."""

import argparse
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml

from hico.bench import figures, files, quality
from hico.bench.__main__ import main
from hico.bench.figures import Run, carry_out, chosen, planned
from hico.model.load import shipped
from hico.model.needle import command as needle
from hico.model.training.tiny import command as tiny

LISTED = yaml.safe_load(figures.LIST.read_text(encoding="utf-8"))
WRITE = "import sys, time; time.sleep({}); open(sys.argv[1], 'a').write(sys.argv[2]); sys.exit({})"


def parsed(words, module, add_arguments):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(words[words.index(module) + 1 :])


def test_every_command_of_the_list_is_one(tmp_path):
    (tmp_path / "a b").mkdir()
    plan = planned(LISTED, tmp_path / "a b", None, {})
    assert len({one.name for one in plan}) == len(plan) > 20
    groups = {one.group for one in plan}
    for one in plan:
        words = list(one.words)
        assert set(one.after) <= groups and words[0] == sys.executable
        if "hico.cli" in words:
            args = parsed(words, "needle", needle.add_arguments)
            needle._checked(args)
            assert args.resume and args.json.parent == tmp_path / "a b"
        elif "quality" in words:
            assert quality.planned(parsed(words, "quality", quality.add_arguments))
        elif "files" in words:
            assert parsed(words, "files", files.add_arguments).count == 60
        else:
            tiny._check(tiny.parser().parse_args(words[words.index("-m") + 2 :]))


def test_numbers_models_and_names_are_put_in(tmp_path):
    plan = planned(LISTED, tmp_path, tmp_path / "m", {"needles": 3})
    single = next(one for one in plan if one.group == "single")
    assert single.words[single.words.index("--needles") + 1] == "3"
    assert single.words[single.words.index("--model") + 1] == str(tmp_path / "m")
    tuned = next(one for one in planned(LISTED, tmp_path, None, {}) if one.group == "tuned")
    assert tuned.words[tuned.words.index("--from") + 1] == str(shipped())
    assert {one.group for one in chosen(plan, "paired")} == {"tuned", "paired"}
    assert [one.group for one in chosen(plan, "heat-map")][-1] == "heat-map"


@pytest.mark.parametrize(
    "words, said",
    [
        (["--at-once", "0"], "--at-once: expected 1 or more, got 0"),
        (["--set", "needles=x"], "--set: expected NAME=N"),
        (["--set", "nothing=1"], "--set: expected some of needles"),
        (["--only", "single,none"], "--only: expected some of single, chains"),
    ],
)
def test_wrong_arguments(words, said, tmp_path, capsys):
    assert main(["figures", "--out", str(tmp_path / "out"), *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_runs_nothing(tmp_path, capsys):
    assert main(["figures", "--out", str(tmp_path / "out"), "--dry-run", "--only", "files"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["files-64", "files-100"]
    assert not (tmp_path / "out").exists()


def runs(out, *those):
    """(name, group, seconds, status, after) as runs that add their names to a file."""
    return [
        Run(name, group, (sys.executable, "-c", WRITE.format(s, status), str(out), name), after)
        for name, group, s, status, after in those
    ]


def test_runs_wait_for_others_and_are_run_once(tmp_path, capsys):
    out = tmp_path / "said"
    plan = runs(
        out, ("c", "c", 0, 0, ("a",)), ("1", "a", 0.5, 0, ()), ("2", "a", 0, 0, ()),
        ("x", "x", 0, 3, ()), ("y", "y", 0, 0, ("x",)),
    )  # fmt: skip
    assert carry_out(plan, tmp_path, 3, None) == ["x", "y"]
    assert out.read_text()[-1] == "c" and sorted(out.read_text()) == ["1", "2", "c", "x"]
    assert "x: ended with 3 after" in capsys.readouterr().out
    assert carry_out(plan, tmp_path, 3, None) == ["x", "y"]
    assert len(out.read_text()) == 5  # the one that failed, again
    other = runs(out, ("2", "a", 0.01, 0, ()))  # the same name for another command
    assert carry_out(other, tmp_path, 1, None) == [] and len(out.read_text()) == 6


def test_no_more_at_once_than_said(tmp_path):
    count = "import sys, os, time; p = sys.argv[1]; os.mkdir(p); time.sleep(.1); os.rmdir(p)"
    one = (sys.executable, "-c", count, str(tmp_path / "busy"))
    assert carry_out([Run(str(i), "a", one) for i in range(3)], tmp_path, 1, None) == []


@pytest.mark.parametrize("how", ["budget", "interrupt"])
def test_what_is_going_on_is_ended_in_order(how, tmp_path):
    text = "import sys, time\ntry: time.sleep(60)\nexcept KeyboardInterrupt: open(sys.argv[1], 'w')"
    plan = [Run("long", "a", (sys.executable, "-c", text, str(tmp_path / "left")))]
    began = time.monotonic()
    if how == "budget":
        assert carry_out(plan, tmp_path, 1, 3.0) == ["long"]
    else:
        threading.Timer(3.0, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            carry_out(plan, tmp_path, 1, None)
    assert (tmp_path / "left").exists() and time.monotonic() - began < 30


def test_nothing_outlives_the_command(tmp_path):
    begun = tmp_path / "begun"
    text = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    whole = (
        "import sys; from hico.bench import __main__, figures\n"
        f"long = figures.Run('long', 'long', (sys.executable, '-c', {text!r}))\n"
        "figures.planned = lambda *_: [long]\n"
        f"sys.exit(__main__.main(['figures', '--out', {str(tmp_path / 'out')!r}]))"
    )
    command = subprocess.Popen([sys.executable, "-c", whole])
    while not begun.exists() or not begun.read_text():
        assert command.poll() is None
        time.sleep(0.1)
    command.terminate()
    assert command.wait(30) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_the_command_tells_what_is_left(tmp_path, capsys, monkeypatch):
    listed = {"numbers": {}, "runs": [{"name": "wrong", "run": "bench quality --frames 3"}]}
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump(listed))
    monkeypatch.setattr(figures, "LIST", path)
    assert main(["figures", "--out", str(tmp_path / "out")]) == 1
    assert "not done: wrong" in capsys.readouterr().out
    assert "multiples of 4" in (tmp_path / "out" / "logs" / "wrong.log").read_text()
