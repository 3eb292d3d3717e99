"""bench worlds: its rows, its readers, and that they can be right."""

import json
from random import Random

import numpy as np
import pytest
import torch

from hico.bench import worlds
from hico.bench.__main__ import main
from hico.bench.worlds_pixels import Searcher, histograms
from hico.bench.worlds_readers import case_of, sights
from hico.model.training.worlds import KINDS, make_world


def test_a_run_writes_a_row_for_every_baseline(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    words = ["worlds", "--kind", "needle,ordering", "--frames", "200", "--count", "40"]
    words += ["--videos", "1", "--questions", "2", "--size", "16", "--out", str(out)]
    assert main([*words, "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    names = ["blind", "one random frame", "64 uniform frames", "colour histogram"]
    assert [(r["case"], r["provider"]) for r in rows] == [
        (kind, name) for kind in ("needle", "ordering") for name in names
    ]
    for row in rows:
        assert row["suite"] == "worlds" and row["chance"] == 0.25 and row["commit"]
        assert 0 <= row["low"] <= row["accuracy"] <= row["high"] <= 1
    assert capsys.readouterr().out.count("chance 25%") == 8


@pytest.mark.parametrize(
    "words", [["--kind", "maze"], ["--count", "0"], ["--videos", "-1"], ["--size", "0"]]
)
def test_bad_arguments(words, capsys):
    assert main(["worlds", *words]) == 2
    assert "expected" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_who_sees_all_frames_of_static_cards_knows(kind):
    for seed in range(20):
        world = make_world(kind, seed, 400, card="static")
        seen = sights(world, np.arange(0, 400, 4))
        case = case_of(world, world.questions[0], seen)
        assert not case.out[case.answer]
        if kind != "counting":
            assert case.out.sum() == 3


def test_a_card_is_found_by_its_colours():
    """In the looks that it has in the video, so that the search itself is shown to work."""
    world = make_world("needle", 3, 64)
    search = Searcher.of(world, 32, torch.device("cpu"))
    assert search.clips.shape[0] == 16
    placed = world.placements[2]
    clip = world.render(slice(placed.start, placed.start + 4), 32)
    found = torch.cdist(histograms(clip), search.clips, p=1)[0]
    assert int(found.argmin()) == placed.start // 4 and found.min() < 1e-6
    assert search.answer(world.questions[0], Random(1)) in range(4)


def test_wilson():
    assert worlds.wilson(0, 10)[0] == pytest.approx(0)
    low, high = worlds.wilson(50, 100)
    assert (low, high) == pytest.approx((0.4038, 0.5962), abs=1e-3)
