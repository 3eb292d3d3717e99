"""The contact sheet: what is pale, what is marked, and that it becomes a file."""

import pytest
import torch

from hico import TokenMap
from hico.model.picture import save_picture
from hico.model.sheet import contact_sheet, veiled
from hico.model.view import Seen

pytest.importorskip("matplotlib")
Image = pytest.importorskip("PIL.Image")


def seen_of(clips=(0, 2), total=3, size=(8, 6), frames=4, kept=True):
    """Clips of 2 x 3 patches a frame, all grey; every frame has a token, and row 1 none."""
    count = len(clips)
    pixels = torch.full((count, frames, *size, 3), 100, dtype=torch.uint8)
    assign = torch.full((count, frames, 2, 3), -1)
    assign[:, :, 0] = torch.arange(frames)[:, None]
    left = torch.zeros(total, frames, dtype=torch.bool)
    left[:, 0] = True
    return Seen(
        title="a.mp4",
        question="Q: ?",
        note="",
        frames=pixels,
        seconds=torch.arange(count * frames, dtype=torch.float64).view(count, frames),
        clips=list(clips),
        total=total,
        grid=(2, 3),
        map=TokenMap(assign.flatten(1), torch.arange(frames).expand(count, frames)),
        layers=[2] if kept else [],
        kept=[left] if kept else [],
    )


@pytest.mark.parametrize("size", [(8, 6), (9, 7), (2, 3)])
def test_what_lost_its_token_is_pale(size):
    frames = veiled(seen_of(size=size), 1)
    assert frames.shape == (4, *size, 3)
    clear = (frames == 100).all(-1)
    assert clear[0, 0].all() and not clear[0, -1].any() and not clear[1:].any()
    assert (frames[1:] == 230).all()


def test_without_dropout_only_what_was_not_merged_is_pale():
    clear = (veiled(seen_of(kept=False), 0) == 100).all(-1)
    assert clear[:, 0].all() and not clear[:, -1].any()


@pytest.mark.parametrize("clips, total", [((0,), 1), ((0, 2), 3), ((0, 1, 2, 4, 5), 7)])
def test_every_clip_is_on_the_sheet(clips, total, tmp_path):
    seen = seen_of(clips, total)
    labels, marked = {0: "a card for $5", 3: "not shown"}, {clips[-1]: "the needle"}
    figure = contact_sheet(seen, "Costs $5 or $6?", "a note", labels, marked)
    (page,) = figure.axes
    texts = [text.get_text() for text in page.texts]
    assert len(page.images) == 4 * len(clips) and len(page.patches) == 1
    assert len(texts) == 2 + len(clips) and r"Costs \$5 or \$6?" in texts
    assert "4 \u2192 1 tokens   the needle" in texts[-1]
    assert not any("not shown" in text for text in texts)
    save_picture(figure, tmp_path / "out.png", dpi=50)
    with Image.open(tmp_path / "out.png") as picture:
        picture.load()
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
