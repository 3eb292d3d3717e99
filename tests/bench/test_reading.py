"""The benchmark of reading: its files, its rows, and its verdicts."""

import json
from types import SimpleNamespace

import pytest

from hico.bench import reading, reading_files
from hico.bench.__main__ import main
from hico.model.video import open_video

pytest.importorskip("av")


def test_the_long_file_is_the_short_one_six_times(tmp_path, monkeypatch):
    monkeypatch.setattr(reading_files, "_film", lambda: None)
    monkeypatch.setattr(reading_files, "WIDTH", 320)
    monkeypatch.setattr(reading_files, "HEIGHT", 160)
    short, long = reading_files.build(tmp_path, frames=20)
    with open_video(short) as once, open_video(long) as often:
        assert (once.frames, often.frames) == (20, 120) and once.fps == often.fps == 30
        assert often.snapped(range(120)).unique().tolist() == list(range(0, 120, 20))
        assert (once.read([7]) == often.read([87])).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((short.name, long.name))
    before = short.stat().st_mtime_ns
    assert reading_files.build(tmp_path, frames=20)[0].stat().st_mtime_ns == before


def test_rows_and_verdicts(tmp_path, monkeypatch):
    """With sums and seconds made up: ours takes half of decord's time, torchcodec is not there."""
    took = iter([5, 10, 4, 8])

    def read(path, reader, case, count):
        if reader == "torchcodec":
            raise ModuleNotFoundError("torchcodec is not there")
        return next(took), [1, 2]

    monkeypatch.setattr(reading, "read", read)
    path = tmp_path / "a.mp4"
    path.write_bytes(b"12")
    args = SimpleNamespace(rounds=2, frames=4, length=9, readers=["torchcodec"])
    rows = {row["provider"]: row for row in reading.measure(reading.CASES[0], path, args)}
    assert rows["hico"]["rounds"] == [5, 4] and rows["decord"]["rounds"] == [10, 8]
    assert rows["hico"]["share_of_decord"] == 0.5 and rows["hico"]["verdict"] == "met"
    assert rows["hico"]["same_frames"] and "not there" in rows["torchcodec"]["error"]
    assert json.dumps(rows) and all(reading.line(row) for row in rows.values())


def test_arguments(tmp_path, capsys):
    assert main(["reading", "--frames", "0", "--work", str(tmp_path)]) == 2
    assert "--frames: expected at least 1, got 0" in capsys.readouterr().err
