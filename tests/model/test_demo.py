"""The demo from file to picture, and the picture of any token map."""

import argparse
import re
import sys

import numpy as np
import pytest
import torch

from hico import TokenMap
from hico.model import demo, demo_needle
from hico.model.load import random_model
from hico.model.picture import group_colours, merge_picture, save_picture
from hico.model.training.worlds.spec import WorldSpec
from hico.model.video import VideoReader

pytest.importorskip("av")
pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


def run(*words):
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return demo.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def picture_only(monkeypatch, plain_on_cpu):
    """Without the question, which takes seconds."""
    monkeypatch.setattr(demo, "_answer", lambda *_: None)


@pytest.fixture
def small_model(monkeypatch, plain_on_cpu):
    """Random weights in place of those that ship, dropping as they do."""
    model, processor = random_model(device="cpu")
    model.config.mm_llm_compress = True
    model.config.llm_compress_layer_list = [2, 4]
    model.config.llm_image_token_ratio_list = [1.0, 0.75, 0.25]
    model.config.llm_compress_type = "uniform0_attention"
    monkeypatch.setattr(demo_needle, "load_model", lambda: (model, processor))


@pytest.mark.usefixtures("plain_on_cpu")
def test_the_shipped_video_becomes_a_picture_and_an_answer(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "WATCHED", 16)
    path = tmp_path / "out.png"
    assert run(demo.SHIPPED, "-o", path, "--image-size", 112) == 0
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG" and picture.width > 1800
        assert picture.getpixel((2, 2))[:3] == (255, 255, 255)
        assert len(set(picture.convert("RGB").reduce(8).get_flattened_data())) > 500
    assert path.stat().st_size < 1_500_000
    said = capsys.readouterr().out
    assert "read 16 of the 200 frames, spread over 8.0 s" in said
    assert "784 -> 256 tokens, 3.1 times fewer" in said and str(path) in said
    assert list(tmp_path.iterdir()) == [path]
    assert "hico-tiny" in said and "means nothing" in said
    assert re.search(r"^question: What .*\nanswer: \S", said, re.M)
    assert "16 frames\n" in said and "3,136 patches -> 256 merged\n" in said
    assert re.search("256 -> 192 from layer [0-9]+ -> 64 from layer [0-9]+\n", said)


@pytest.mark.usefixtures("small_model")
def test_a_needle_is_asked_for_in_a_video_that_is_drawn(tmp_path, capsys):
    path = tmp_path / "out.png"
    assert run("-o", path, "--frames", 32, "--seed", 3) == 0
    said = capsys.readouterr().out
    world = WorldSpec("needle", 3, 32, split="test").make(0)
    question, right = world.questions[0].turn("free")
    assert re.search(
        rf"^question: {re.escape(question)}\nanswer: .*\nright answer: {right}$", said, re.M
    )
    assert "32 frames, 4 cards" in said and "6,272 patches -> 512 merged" in said
    assert "512 -> 384 from layer 2 -> 128 from layer 4" in said
    assert f"picture: {path}" in said and re.search(r"^[0-9.]+ s from ", said, re.M)
    with Image.open(path) as picture:
        picture.load()
        assert picture.width > 1000
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("small_model")
def test_a_question_of_ones_own_has_no_right_answer(tmp_path, capsys):
    run("-o", tmp_path / "out.png", "--frames", 96, "--question", "Costs it $5?")
    said = capsys.readouterr().out
    assert "question: Costs it $5?\n" in said and "right answer: not known" in said


@pytest.mark.usefixtures("picture_only")
def test_the_picture_is_the_same_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        run(demo.SHIPPED, "-o", tmp_path / name, "--clips", 1, "--image-size", 64, "--tokens", 9)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.usefixtures("picture_only")
def test_an_older_picture_is_replaced(tmp_path):
    path = tmp_path / "out.png"
    path.write_text("old")
    run(demo.SHIPPED, "-o", path, "--clips", 1, "--image-size", 64, "--tokens", 1)
    with Image.open(path) as picture:
        picture.verify()


def test_the_shipped_video():
    with VideoReader(demo.SHIPPED) as video:
        assert (video.frames, video.size) == (200, (336, 448))
        assert video.duration == pytest.approx(8)
    assert demo.SHIPPED.stat().st_size < 400 * 1024


@pytest.mark.parametrize(
    "words, message",
    [
        (["--tokens", 0], "--tokens: expected 1 to 784, got 0"),
        (["--tokens", 785], "--tokens: expected 1 to 784, got 785"),
        (["--clips", 0], "--clips: expected 1 to 32, got 0"),
        (["--patch", 0], "--patch: expected at least 1, got 0"),
        (["--patch", 15], r"--image-size: expected a multiple of --patch \(15\), got 224"),
        (["--image-size", 0], "got 0"),
        (["--frames", 36], "--frames: expected a multiple of 8, got 36"),
        (["--frames", 16], "frames: expected room for 4 cards"),
        (["--seed", -1], "seed: expected"),
        (["--question", " "], "--question: expected some text, got none"),
        (["-o", "out.jpg"], r"out\.jpg: expected a file name that ends in \.png"),
        (["-o", "nowhere/out.png"], "the folder nowhere does not exist"),
        (["gone.mp4"], r"gone\.mp4"),
        (["."], "expected jpg, jpeg or png files, found none"),
    ],
)
def test_wrong_arguments(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(*words)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path, monkeypatch):
    class Full:
        def savefig(self, path, **how):
            path.write_bytes(b"\x89PNG")
            raise OSError("No space left on device")

    path = tmp_path / "out.png"
    path.write_text("old")
    with pytest.raises(OSError, match="No space left"):
        save_picture(Full(), path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_without_matplotlib_the_error_comes_early(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'hico\[plot\]'"):
        run("-o", tmp_path / "out.png")
    assert capsys.readouterr().out == ""


def test_features_say_what_is_in_a_patch():
    frames = torch.full((1, 2, 32, 32, 3), 90, dtype=torch.uint8)
    frames[:, :, :16, 16:] = torch.tensor([200, 30, 30], dtype=torch.uint8)
    frames[:, :, 16:, ::2] = 160
    features = demo.patch_features(frames, 16)
    assert features.shape == (1, 8, 16) and features.isfinite().all()
    grey, red, *striped = features[0, :4, :10]
    # the last column has no neighbour to differ from
    torch.testing.assert_close(striped[0], striped[1], atol=0.1, rtol=0)
    assert (grey - red).norm() > 1 and (grey - striped[0]).norm() > 1
    # the same patches a frame later differ by their place in time only
    torch.testing.assert_close(features[0, :4, :10], features[0, 4:, :10], atol=1e-5, rtol=0)
    # a picture of one colour has nothing to standardise by
    flat = demo.patch_features(torch.full((1, 4, 32, 32, 3), 7, dtype=torch.uint8), 16)
    assert flat.isfinite().all()


def example(batch=2, count=3, grid=(4, 5), slots=6):
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (batch, count, 24, 40, 3), generator=generator)
    tokens = count * grid[0] * grid[1]
    assign = torch.randint(-1, slots, (batch, tokens), generator=generator)
    assign[:, :slots] = torch.arange(slots)
    anchor = torch.arange(slots).expand(batch, -1).contiguous()
    return frames.to(torch.uint8), TokenMap(assign, anchor), grid


def test_any_map_can_be_drawn(tmp_path):
    for batch, count in ((1, 1), (2, 3), (3, 8)):
        frames, token_map, grid = example(batch, count)
        figure = merge_picture(frames, token_map, grid, ["title"] * batch, "headline")
        # the frames, the groups, the bars of sizes and one bar for each number of frames
        assert len(figure.axes) == batch * (3 * count + 1)
        save_picture(figure, tmp_path / "a.png", dpi=40)
        bars = [a for a in figure.axes if len(a.patches) == 6]
        drawn = [sorted(int(p.get_height()) for p in a.patches) for a in bars]
        sizes = [torch.bincount(row[row >= 0]).sort().values.tolist() for row in token_map.assign]
        assert drawn == sizes


def test_stages_of_dropout_are_drawn_below_the_groups(tmp_path):
    frames, token_map, grid = example()
    kept = torch.rand(2, 6) < 0.5
    figure = merge_picture(frames, token_map, grid, stages=[("left", kept), ("later", kept)])
    assert len(figure.axes) == 2 * (3 * 5 + 1)
    lines = [text.get_text() for text in figure.texts]
    assert [line for line in lines if line.startswith("left")] == [
        f"left: {n} of 6" for n in kept.sum(1).tolist()
    ]
    veils = [a.images[1].get_array()[..., 3] > 0 for a in figure.axes if len(a.images) > 1]
    # after the groups of three frames come the veils of three
    patches = token_map.assign.view(2, 3, *grid)
    for clip in range(2):
        gone = (patches[clip] < 0) | ~kept[clip][patches[clip]]
        for frame in range(3):
            assert np.array_equal(veils[clip * 9 + 3 + frame], gone[frame].numpy())


def test_a_group_keeps_the_colours_of_its_patches():
    frames = np.zeros((2, 4, 4, 3), np.uint8)
    frames[:, :2] = (250, 10, 10)
    groups = np.array([[[0, 0], [1, -1]]] * 2)
    red, black, unused = group_colours(frames, groups, 3)
    assert red[0] > 0.8 and red[1:].max() < 0.35 and black.max() < 0.2
    assert np.isfinite(unused).all()


def test_shapes_that_do_not_fit():
    frames, token_map, grid = example()
    with pytest.raises(ValueError, match=r"frames: expected uint8 \[B, T, H, W, 3\], got torch"):
        merge_picture(frames.float(), token_map, grid)
    with pytest.raises(ValueError, match=r"expected \[2, 60\] tokens .* 3 frames of 4 x 5"):
        merge_picture(frames, TokenMap(token_map.assign[:, :59], token_map.anchor), grid)
    with pytest.raises(ValueError, match="at least one token in every clip"):
        merge_picture(frames, TokenMap(token_map.assign * 0 - 1, token_map.anchor), grid)
    with pytest.raises(ValueError, match="titles: expected 2, got 1"):
        merge_picture(frames, token_map, grid, ["one"])
    with pytest.raises(ValueError, match=r"stages: expected bool \[2, 6\] of 'a', got .*int64"):
        merge_picture(frames, token_map, grid, stages=[("a", token_map.anchor)])
