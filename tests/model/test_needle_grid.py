"""The grid, its counts, the places of needles, and when an answer is right."""

import math

import pytest
import torch

from hico.model.needle.asking import is_free, is_letter, letter_answers, steps_right
from hico.model.needle.grid import depths, frame_counts, share_of, wilson
from hico.model.needle.plot import picture
from hico.model.needle.published import places, spliced
from hico.model.needle.record import accuracy, averages, pairs_of


@pytest.mark.parametrize(
    "text, found",
    [
        ("1000:10000:1000", list(range(1000, 10001, 1000))),
        ("64", [64]),
        ("1000,64:128:32", [64, 96, 128, 1000]),
        ("8,8", [8]),
        ("8:21:8", [8, 16]),
    ],
)
def test_frames(text, found):
    assert list(frame_counts(text)) == found


@pytest.mark.parametrize(
    "text, found",
    [("0:1:0.2", [0, 0.2, 0.4, 0.6, 0.8, 1]), ("1,0", [0, 1]), ("0:1:0.3", [0, 0.3, 0.6, 0.9])],
)
def test_depths(text, found):
    assert list(depths(text)) == found


@pytest.mark.parametrize(
    "parse, text, said",
    [
        (frame_counts, "", "FIRST:LAST:STEP"),
        (frame_counts, "a", "FIRST:LAST:STEP"),
        (frame_counts, "8:16", "FIRST:LAST:STEP"),
        (frame_counts, "nan", "FIRST:LAST:STEP"),
        (frame_counts, "16:8:4", "FIRST <= LAST"),
        (frame_counts, "8:16:0", "STEP > 0"),
        (frame_counts, "0:1e9:4", "FIRST <= LAST"),
        (frame_counts, "1e30", "less than 1,073,741,824, got '1e30'"),
        (frame_counts, "4:8:1e999999", "less than 1,073,741,824"),
        (frame_counts, "-9e999999:9e999999:1", "less than 1,073,741,824"),
        (frame_counts, "0", "multiples of 4"),
        (frame_counts, "-4", "multiples of 4"),
        (frame_counts, "10", "multiples of 4"),
        (frame_counts, "8.5", "multiples of 4"),
        (depths, "1.2", "0 to 1"),
        (depths, "-0.1:1:0.1", "0 to 1"),
    ],
)
def test_grids_that_are_none(parse, text, said):
    with pytest.raises(ValueError, match=said):
        parse(text)


@pytest.mark.parametrize("right, count", [(0, 20), (20, 20), (3, 7), (199, 200), (1, 1)])
def test_wilson_solves_its_equation(right, count):
    """The ends are the shares whose own standard error reaches just to what was seen."""
    share = right / count
    for end in wilson(right, count):
        reach = 1.959964 * math.sqrt(end * (1 - end) / count)
        assert abs(abs(share - end) - reach) < 1e-6
    assert wilson(0, 0) == (0.0, 1.0)


def by_loop(frames, names, depth):
    """The published loops, token by token: 16 a frame of the haystack, 64 a needle."""
    hay = [("hay", i) for i in range(16 * frames)]
    needles = [[(name, i) for i in range(64)] for name in names]
    if depth is not None:
        at = int(depth * frames)
        return hay[: 16 * at] + needles[0] + hay[16 * at : 16 * frames]
    interval, out = frames / (len(names) - 1), list(needles[0])
    for j in range(1, len(names)):
        out += hay[16 * int((j - 1) * interval) : 16 * int(j * interval)] + needles[j]
    return out


@pytest.mark.parametrize("frames", [12, 1000])
@pytest.mark.parametrize(
    "count, depth", [(1, 0.0), (1, 0.2), (1, 0.77), (1, 1.0), (3, None), (5, None)]
)
def test_needles_stand_where_the_published_loops_put_them(frames, count, depth):
    tokens = by_loop(frames, "abcdefg"[:count], depth)
    hay = torch.arange(16 * frames)
    needles = [torch.full((64,), -1 - j) for j in range(count)]
    at = [16 * place for place in places(frames, count, depth)]
    line = spliced(hay, needles, at).tolist()
    wanted = [i if name == "hay" else -1 - "abcdefg".index(name) for name, i in tokens]
    assert line == wanted and len(line) == 16 * frames + 64 * count


def test_answers():
    assert is_letter("A", "A") and is_letter("(a)", "A") and not is_letter("AB", "A")
    assert is_free(" A Red  star.", ["a red star"]) and not is_free("a red stars", ["a red star"])
    text = "Which?\nOptions: (A) red\n(B) a blue one\nOnly give the best option. Best option: ("
    said = ["b", "B)", "(B) a blue one", "a blue one.", "B) A blue one"]
    assert all(is_free(one, letter_answers(text, "B")) for one in said)
    assert not any(is_free(one, letter_answers(text, "B")) for one in ("A", "red", "B) red", ""))
    assert is_free("a blue one", letter_answers(text, "b"))
    chain = "a red star, then a blue ring, then 47"
    assert steps_right(chain, "47", chain) == (True, True)
    assert steps_right("a blue ring, then 47", "47", chain) == (True, False)
    assert steps_right("a red star, then a blue ring, then 4", "47", chain) == (False, False)


def test_counts_of_pairs_and_averages():
    caption, qa = [True, True, False, False], [True, False, True, False]
    pairs = pairs_of(caption, qa)
    assert pairs == {
        "score": 0.5, "total": 4, "both": 1, "only_caption": 1, "only_qa": 1, "neither": 1
    }  # fmt: skip
    cell = {"frames": 64, "caption": {"letter": share_of(caption)}, "pairs": pairs}
    cell["qa"] = {"letter": share_of(qa[:3])}
    published = accuracy(cell)
    assert published["Caption Score"] == 0.5 and published["Total question pair"] == 4
    assert published["QA Score"] == 2 / 3 and published["Both wrong"] == 1
    needle = [share_of([True, True]), share_of([True, False, False, False])]
    found = averages([{"frames": 8, "depth": 0, "needle": {"letter": one}} for one in needle])
    average = found["needle"]["letter"]
    assert average["score"] == 0.625 and average["lowest"] == 0.25
    assert average["pooled"] == 0.5 and average["right"] == 3 and average["count"] == 6
    assert accuracy({"frames": 8, "depth": 0.25, "needle": {"letter": needle[0]}}) == {
        "Num. Frame": 8, "Frame Depth": 20.0, "Score": 1.0
    }  # fmt: skip


def test_chains_of_one_length_are_drawn():
    """Its scores are points, as no line leads to them."""
    pytest.importorskip("matplotlib")
    share, pairs = share_of([True, False]), {"both": 1, "total": 2}
    cell = {"frames": 64, "caption": {"letter": share}, "qa": {"letter": share}, "pairs": pairs}
    (axes,) = picture([cell]).axes
    lines = [drawn[0] for drawn in axes.containers if not hasattr(drawn, "patches")]
    assert len(lines) == 2 and {line.get_marker() for line in lines} == {"."}
