"""All runs of hico-tiny's training, from one command."""

import subprocess
import sys

import pytest

from hico.model.training.tiny import command
from hico.model.training.tiny.recipe import recipe


@pytest.fixture
def done(monkeypatch):
    """The arguments that runs were given; each leaves weights but the fourth, which fails once."""
    given = []

    def one(words):
        assert words[:3] == [sys.executable, "-m", "hico.model.training.tiny"]
        args = command.parser().parse_args(words[3:])
        given.append(args)
        if len(given) == 4:
            return subprocess.CompletedProcess(words, 2)
        args.out.mkdir()
        (args.out / "model.safetensors").touch()
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", one)
    return given


def test_each_run_begins_where_the_last_one_ended(done, tmp_path):
    words = ["all", "--out", str(tmp_path), "--workers", "3"]
    assert command.main(words) == 2 and len(done) == 4
    assert not command.main(words)
    runs = recipe()
    del done[3]  # of which nothing was left
    assert [(one.stage, one.seconds) for one in done] == [(r["stage"], r["seconds"]) for r in runs]
    assert done[0].source is None and done[0].out == tmp_path / f"1-{runs[0]['name']}"
    assert [one.source for one in done[1:]] == [one.out for one in done[:-1]]
    assert all(one.workers == 3 and one.device is None for one in done)
    before = len(done)
    assert not command.main(words) and len(done) == before


def test_it_fits_in_an_hour_and_takes_no_other_options(tmp_path):
    start = 90  # seconds of a run at most: measured, see hico-tiny's card
    assert sum(run["seconds"] + start for run in recipe()) < 3600
    for words in (["--seconds", "5"], ["--from", "a"], ["--peak", "1"], ["--set", '{"a": 1}']):
        with pytest.raises(ValueError, match=f"{words[0]}: expected it of one stage, not of all"):
            command.main(["all", "--out", str(tmp_path), *words])
    assert not list(tmp_path.iterdir())
