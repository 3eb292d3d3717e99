"""hico view: what the page and the picture say was merged and kept is what was."""

import argparse
import base64
import functools
import io
import json
import re

import numpy as np
import pytest
import torch

from hico import TokenMap, cli
from hico.model import view
from hico.model.demo import SHIPPED
from hico.model.load import random_model
from hico.model.settings import DropoutSettings
from hico.model.video import read_clip
from hico.model.view_html import html_page, jpeg

pytest.importorskip("av")
Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.usefixtures("plain_on_cpu")

WORDS = ["--frames", "16", "--device", "cpu", "--model", "random:demo"]


def hico(*words):
    return cli.main([str(word) for word in words])


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


@pytest.fixture
def seen(plain_on_cpu):
    return looked()


@functools.cache
def looked():
    """The shipped video in the demo model; made once, inside of the first test that asks."""
    parser = argparse.ArgumentParser()
    view.add_arguments(parser)
    args = parser.parse_args([str(SHIPPED), *WORDS])
    model, processor = random_model(device="cpu")
    dropout = DropoutSettings.parse("2:0.75,4:0.25")
    return view.look(model, processor, dropout, args, shown=3)


def test_what_is_shown_is_what_the_model_does(seen):
    model, processor = random_model(device="cpu")
    clip = read_clip(SHIPPED, 16, 16)
    visual, whole = view.encode(model, clip.frames, 16)
    torch.testing.assert_close(visual, model.encode_video(clip.frames))
    assert seen.total == 4 and seen.clips == [0, 2, 3] and seen.grid == (14, 14)
    assert torch.equal(seen.map.assign, whole.assign[seen.clips])
    assert torch.equal(seen.seconds, clip.seconds.view(4, 4)[seen.clips])
    assert seen.frames.shape == (3, 4, 336, 448, 3)
    assert [int(k.sum()) for k in seen.kept] == [192, 64] and seen.layers == [2, 4]
    # what a later stage keeps, an earlier one kept
    assert not (seen.kept[1] & ~seen.kept[0]).any()
    prompt = processor.prompt(view.QUESTION, message=processor.time_message(8, clip.seconds))
    ids = processor.ids(prompt)
    with DropoutSettings.parse("2:0.75,4:0.25").use(model) as run:
        model(input_ids=ids, visual_features=[visual])
    start = int((ids[0] == -200).nonzero()[0])
    first = run.kept[0][0]
    rows = first[(first >= start) & (first < start + 256)] - start
    assert torch.equal(rows, seen.kept[0].flatten().nonzero()[:, 0])


def test_the_page_holds_the_same(seen):
    data = data_of(html_page(seen))
    assert (data["total"], data["tokens"], data["patches"]) == (4, 64, 3136)
    for stage, kept, layer in zip(data["stages"], seen.kept, seen.layers, strict=True):
        raw = np.frombuffer(base64.b64decode(stage["kept"]), np.uint8)
        bits = np.unpackbits(raw, bitorder="little")[: kept.numel()]
        assert np.array_equal(bits.astype(bool), kept.flatten().numpy())
        assert stage["layer"] == layer and stage["count"] == kept.sum()
    for i, clip in enumerate(data["clips"]):
        slots = np.frombuffer(base64.b64decode(clip["slots"]), "<u2")
        assert np.array_equal(slots, seen.map.assign[i].numpy())
        assert len(clip["colours"]) == 3 * 64 and len(clip["frames"]) == 4
        with Image.open(io.BytesIO(base64.b64decode(clip["frames"][1]))) as picture:
            pixels = np.asarray(picture.convert("RGB"), np.float32)
        assert np.abs(pixels - seen.frames[i, 1].numpy()).mean() < 4


def test_names_are_never_markup(seen):
    nasty = "</script><script>alert(1)</script><!--<b>&\u2028'\""
    page = html_page(view.Seen(**vars(seen) | {"title": nasty, "question": nasty}))
    plain = html_page(seen)
    for text in ("<script", "</script", "<b>", "<!--"):
        assert page.count(text) == plain.count(text)
    data = data_of(page)
    assert data["title"] == nasty and data["question"] == nasty


def test_the_page_needs_nothing_else(seen):
    page = html_page(seen)
    assert not re.search(r"https?:|//\w+\.|@import|url\(", page)
    assert "default-src 'none'" in page and "@DATA@" not in page and "@TITLE@" not in page


@pytest.mark.parametrize("height, width", [(1, 1), (3, 6), (47, 65)])
def test_odd_sizes_as_jpeg(height, width):
    raw = jpeg(torch.full((height, width, 3), 200, dtype=torch.uint8))
    with Image.open(io.BytesIO(raw)) as picture:
        assert picture.size == tuple(max(2, side - side % 2) for side in (width, height))


def test_the_command_writes_a_page_and_a_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    page = tmp_path / "a<b>.html"
    assert hico("view", SHIPPED, "-o", page, *WORDS, "--clips", 2) == 0
    said = capsys.readouterr()
    assert "3,136 patches -> 256 tokens -> 192 from layer 1 -> 64 from layer 4" in said.out
    assert f"page: {page}" in said.out and "weights are random" in said.err
    data = data_of(page.read_text(encoding="utf-8"))
    assert len(data["clips"]) == 2 and "random" in data["note"]
    picture = tmp_path / "out.png"
    words = ["--clips", 1, "--dropout", "3:0.5", "--question", "Costs $5 or $6?"]
    assert hico("view", SHIPPED, "-o", picture, *WORDS, *words) == 0
    with Image.open(picture) as image:
        assert image.format == "PNG" and image.width > 1800
    assert sorted(tmp_path.iterdir()) == [page, picture]


@pytest.mark.parametrize(
    "words, message",
    [
        (["-o", "out.jpg"], "expected a file name that ends in .png or .html"),
        (["-o", "nowhere/out.html"], "the folder nowhere does not exist"),
        (["--clips", "0"], "--clips: expected 1 to 256 in .html, got 0"),
        (["-o", "out.png", "--clips", "33"], "--clips: expected 1 to 32 in .png, got 33"),
        (["--frames", "3"], "--frames: expected a multiple of 4, got 3"),
    ],
)
def test_wrong_words_are_one_line(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert hico("view", SHIPPED, *words) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_finished_leaves_the_old_one(tmp_path, monkeypatch, seen):
    path = tmp_path / "out.html"
    path.write_text("old")

    def full(self, text, encoding):
        with open(self, "w") as file:
            file.write(text[:9])
        raise OSError("No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space"):
        view.save(seen, path)
    assert list(tmp_path.iterdir()) == [path] and path.read_text() == "old"


def test_clips_are_spread_from_the_first_to_the_last():
    assert view._spread(5, 8) == [0, 1, 2, 3, 4] and view._spread(9, 1) == [0]
    assert view._spread(100, 4) == [0, 33, 66, 99]


def test_a_video_without_dropout_has_no_stages():
    frames = torch.zeros(1, 2, 8, 8, 3, dtype=torch.uint8)
    assign = torch.tensor([[0, 0, 1, -1]])
    token_map = TokenMap(assign, torch.tensor([[0, 2]]))
    seconds = torch.zeros(1, 2)
    bare = view.Seen("a", "", "", frames, seconds, [0], 1, (1, 2), token_map, [], [])
    data = data_of(html_page(bare))
    slots = np.frombuffer(base64.b64decode(data["clips"][0]["slots"]), "<u2")
    assert data["stages"] == [] and slots.tolist() == [0, 0, 1, 65535]
