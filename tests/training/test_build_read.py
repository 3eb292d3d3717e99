"""What hico build writes is what the trainer's reader takes: rows, videos, turns."""

import json

import pytest

from hico import cli
from hico.model.training.sources import load_sources

CAPTIONS = [f'a man {verb} the "red" {thing}' for verb in ("finds", "cuts") for thing in "abcdefgh"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_the_reader_takes_every_row(tmp_path, part):
    root, out = tmp_path / "videos", tmp_path / "out"
    root.mkdir()
    (root / "ä b.mp4").write_bytes(b"")
    events = [
        {"start": 9 * i, "end": 9 * i + 3, "caption": caption} for i, caption in enumerate(CAPTIONS)
    ]
    rows = [{"video": name, "events": events} for name in ("ä b.mp4", "c.mp4", "d.mp4", "e.mp4")]
    (tmp_path / "e.jsonl").write_text("\n".join(map(json.dumps, rows)))
    words = ["--split", "0.5", "--per-video", "3"]
    assert cli.main(["build", str(tmp_path / "e.jsonl"), "-o", str(out), *words]) == 0
    text = (out / "data.yaml").read_text().replace("data_root: ''", f"data_root: {root}")
    (out / "mine.yaml").write_text(text.replace("train.jsonl", f"{part}.jsonl"))
    sources = load_sources(out / "mine.yaml", on_bad="skip")
    lines = (out / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
    assert not sources.bad and not sources.worlds and len(sources.rows) == len(lines) > 5
    for row, line in zip(sources.rows, map(json.loads, lines), strict=True):
        human, gpt = (turn["value"] for turn in line["conversations"])
        assert row.turns == (("human", human), ("gpt", gpt)) and row.id == line["id"]
        assert row.video == str(root / line["video"]) and not row.images
        assert row.start is row.end is row.reader is None
