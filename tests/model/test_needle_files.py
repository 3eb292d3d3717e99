"""`hico needle`: published question files, worlds, what it writes, and what it refuses."""

import json
import shutil
import struct
import zlib
from dataclasses import replace

import pytest
import torch
from needle_helpers import small_model

from hico.cli import main
from hico.model import DropoutSettings
from hico.model.demo import SHIPPED
from hico.model.needle import command
from hico.model.needle.answering import Answerer
from hico.model.needle.features import Store
from hico.model.needle.haystacks import open_haystack
from hico.model.needle.published import PublishedTask, places
from hico.model.needle.timing import Clock
from hico.model.needle.worlds import WorldTask
from hico.model.training.worlds import world as drawn_worlds
from hico.model.video import open_video
from hico.model.vision import square_image

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
END = "\nOptions: (A) red\n(B) blue\n(C) green\n(D) grey\nOnly give the best option. Best option: ("
NAMES = ["one.png", "deep/two.png", "three.png"]


def write_image(path, level):
    """A grey PNG of 6 x 4 pixels."""

    def chunk(kind, data):
        told = struct.pack(">I", len(data)) + kind + data
        return told + struct.pack(">I", zlib.crc32(kind + data))

    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">IIBBBBB", 6, 4, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes([level] * 18)) * 4
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)


@pytest.fixture
def images(tmp_path):
    for i, name in enumerate(NAMES):
        write_image(tmp_path / "images" / name, 80 * i)
    return tmp_path / "images"


def single():
    return [
        {"question": f"Find it. what color{END}", "answer": "AB"[i], "image": name, "id": i}
        for i, name in enumerate(NAMES[:2])
    ]


def multi():
    row = {"images": NAMES, "question1": f"Describe.{END}", "answer1": "C"}
    return [row | {"question2": f"What?{END}", "answer2": "D"}]


def write_rows(path, rows):
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def needle(monkeypatch, tmp_path):
    """needle(words...) runs the command on a small model; what it printed stays in capsys."""

    def model_of(args):
        dropout = None if args.dropout is None else DropoutSettings.parse(args.dropout)
        return *small_model(), dropout

    monkeypatch.setattr(command, "model_of", model_of)
    cache = tmp_path / "cache"
    return lambda *words: main(["needle", "--cache", str(cache), *map(str, words)])


@pytest.mark.parametrize("rows, depth", [(single(), 0.5), (multi(), None)])
def test_needles_of_a_question_file(rows, depth, images, tmp_path):
    path = write_rows(tmp_path / "rows.json", rows)
    task = PublishedTask.open(path, images, [0.5], None)
    model, processor = small_model()
    store = Store(tmp_path / "cache", model, Clock("cpu"))
    hay = open_haystack("natural", 0, "test", store)
    clips = hay.clips(2).flatten(0, 1)
    ((cell,),) = task.groups([8])
    films = list(task.films([cell], hay, store))
    assert cell == (8, depth) and len(films) == len(rows)
    for film, row in zip(films, rows, strict=True):
        names = row.get("images") or [row["image"]]
        visual, at = film.features(), places(8, len(names), depth)
        first = film.asks[0].needles
        assert len(visual) == 16 * 8 + 64 * len(names)
        left = torch.ones(len(visual), dtype=torch.bool)
        shown = film.pixels(range(film.frames))
        for name, place, start, j in zip(names, at, first, range(9), strict=False):
            left[start : start + 64] = False
            assert start == 16 * place + 64 * j
            still = shown[place + 4 * j : place + 4 * j + 4]
            assert int(still[0, 16, 16, 0]) == 80 * NAMES.index(name)
            seen = model.encode_video(still)
            torch.testing.assert_close(visual[start : start + 64], seen, atol=1e-5, rtol=1e-5)
        assert torch.equal(visual[left], clips)
        session = Answerer(model, processor, None, "published").open(film)
        text = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        assert session._span[0] == len(processor.ids(text)[0])
    if depth is None:
        assert [(ask.kind, ask.letter) for ask in films[0].asks] == [("caption", "C"), ("qa", "D")]


def test_one_video_as_a_haystack(tmp_path, capsys):
    pytest.importorskip("av")
    hay = open_haystack(str(SHIPPED), 0, "test", Store(tmp_path, small_model()[0], Clock("cpu")))
    with open_video(SHIPPED) as video:
        step = round(video.fps)
        shots = [square_image(shot, 32) for shot in video.read(range(0, video.frames, step))]
    wanted = [1, 0, len(shots) + 1]
    assert torch.equal(hay.pixels(torch.tensor(wanted)), torch.stack(shots)[[1, 0, 1]])
    assert f"{len(shots)} frames, one a second, then again" in capsys.readouterr().err


def test_a_published_grid_end_to_end(needle, images, tmp_path, capsys):
    data, out = write_rows(tmp_path / "rows.json", single()), tmp_path / "out.json"
    words = ("--data", data, "--images", images, "--depths", "1", "--json", out, "--free", 1)
    words += ("--dropout", "2:0.5,4:0.25", "--time", "--baselines")
    assert needle(*words, "--frames", "8") == 0
    first = json.loads(out.read_text())
    assert needle(*words, "--frames", "8:12:4", "--resume", "--png", tmp_path / "out.png") == 0
    said = capsys.readouterr()
    assert "depth 1" in said.out and "watching" in said.err
    found = json.loads(out.read_text())
    assert found["cells"][:1] == first["cells"]
    assert [(c["frames"], c["depth"]) for c in found["cells"]] == [(8, 1), (12, 1)]
    assert [list(row) for row in found["all_accuracies"]] == [
        ["Num. Frame", "Frame Depth", "Score"]
    ] * 2
    for cell in found["cells"]:
        shares = cell["needle"]
        assert set(shares) == {"letter", "free", "blind", "single_frame", "uniform_64"}
        assert shares["letter"]["count"] == 2 and shares["free"]["count"] == 1
        assert [stage["layer"] for stage in cell["survival"]] == [2, 4]
        assert 0.4 < cell["survival"][0]["hops"][0] < 0.6  # half of them, evenly spaced
    assert len(found["runs"]) == 2 and "commit" in found["runs"][0]
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert needle(*words[:-1], "--frames", "8", "--resume") == 2
    assert "got others in baselines" in capsys.readouterr().err


def test_no_run_goes_on_with_other_images_or_videos(needle, images, tmp_path, capsys):
    data, out = write_rows(tmp_path / "rows.json", single()), tmp_path / "out.json"
    others, hay = tmp_path / "others", tmp_path / "hay"
    shutil.copytree(images, others / "same")
    shutil.copytree(images, others / "new")
    write_image(others / "new" / NAMES[1], 200)
    hay.mkdir()
    (hay / "a.mp4").write_bytes(b"1")
    words = ("--data", data, "--depths", "1", "--frames", "8", "--free", 0, "--json", out)
    assert needle(*words, "--images", images) == 0
    assert needle(*words, "--images", others / "same", "--resume") == 0
    assert needle(*words, "--images", others / "new", "--resume") == 2
    assert "got others in images (" in capsys.readouterr().err
    task = WorldTask("needle", 1, (0.0,), haystack=str(hay), split="all")
    before = task.settings()
    shutil.copytree(hay, tmp_path / "copy")
    copied = replace(task, haystack=str(tmp_path / "copy")).settings()
    assert copied["haystack_videos"] == before["haystack_videos"]
    drawn_worlds._videos.cache_clear()
    (hay / "b.mp4").write_bytes(b"1")
    assert task.settings()["haystack_videos"] != before["haystack_videos"]
    assert "haystack_videos" not in replace(task, haystack="natural").settings()


@pytest.mark.parametrize("world, kinds", [("needle", ["needle"]), ("multihop", ["caption", "qa"])])
def test_a_grid_of_worlds_end_to_end(world, kinds, needle, tmp_path, capsys):
    out, png = tmp_path / "out.json", tmp_path / "out.png"
    words = ("--world", world, "--frames", "32", "--depths", "0.5", "--hops", 1, "--needles", 1)
    assert needle(*words, "--json", out, "--png", png, "--dropout", "none", "--free", 0) == 0
    (cell,) = json.loads(out.read_text())["cells"]
    assert all(cell[kind]["letter"]["count"] == 1 for kind in kinds)
    assert "survival" not in cell and png.read_bytes().startswith(b"\x89PNG")
    assert "frames" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, said",
    [
        (["--world", "needle", "--frames", "9:5:1"], "--frames: expected FIRST <= LAST"),
        (["--world", "needle", "--frames", "10"], "multiples of 4"),
        (["--world", "needle", "--depths", "0:2:1"], "--depths: expected 0 to 1"),
        (["--world", "needle", "--frames", "8", "--depths", "0"], "room for 4 cards"),
        (["--world", "needle", "--frames", "32", "--depths", "0:1:0.1"], "clip of its own"),
        (["--world", "needle", "--needles", "0"], "--needles: expected 1 or more, got 0"),
        (["--world", "needle", "--free", "-1"], "--free: expected 0 or more"),
        (["--world", "needle", "--seed", str(1 << 40)], "--seed: expected less than 1,073,741,824"),
        (["--world", "needle", "--images", "a"], "--images: expected it with --data alone, got a"),
        (["--world", "needle", "--cache", f"{__file__}/a"], f"{__file__} is a file"),
        (["--world", "needle", "--device", "x"], "device: expected cpu, cuda or cuda:N, got 'x'"),
        (["--world", "needle", "--resume"], "--resume: expected --json"),
        (["--world", "needle", "--haystack", "nowhere"], "found nothing at 'nowhere'"),
        (["--world", "needle", "--json", "nowhere/a.json"], "nowhere does not exist"),
        (["--world", "needle", "--json", "a.txt"], "ends in .json"),
        (["--world", "needle", "--source", "mp4", "--frames", "36"], "multiples of 8"),
        (["--world", "multihop", "--hops", "9"], "hops: expected 1 <= hops <= 6, got 9"),
        (["--data", "nowhere"], "nowhere: no such file"),
        (["--world", "needle", "--model", "/nowhere"], "/nowhere: expected a folder of a model"),
    ],
)
def test_clear_errors_before_any_work(words, said, capsys):
    assert main(["needle", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "rows, said",
    [
        ("{", "not valid JSON"),
        ({}, "expected a list of questions, got dict"),
        ([], "expected a list of questions, got an empty one"),
        ([single()[0], single()[1] | {"question": "<image>?"}], "row 1: expected no <image> in"),
        ([single()[0], 5], "row 1: expected question, answer, image"),
        ([{"question": "a"}], "row 0: expected question, answer, image, got no good answer"),
        ([single()[0] | {"answer": "AB"}], "row 0: expected a letter in answer, got 'AB'"),
        ([multi()[0] | {"images": ["one.png"]}], "two or more paths"),
        ([single()[0], single()[1] | {"image": "none.png"}], "found no none.png (row 1)"),
        ([single()[0] | {"image": "../rows.json"}], "found no ../rows.json (row 0)"),
    ],
)
def test_bad_question_files(rows, said, images, tmp_path, capsys):
    path = tmp_path / "rows.json"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    assert main(["needle", "--data", str(path), "--images", str(images)]) == 2
    assert said in capsys.readouterr().err
