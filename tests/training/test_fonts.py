"""Fonts: whole, unlike each other, and split by family."""

import shutil
from pathlib import Path

import pytest
import torch
from card_helpers import some_cards

from hico.model.training.worlds.cards import render_cards
from hico.model.training.worlds.fonts import (
    CELL,
    GLYPHS,
    TEST,
    TRAIN,
    FontSet,
    glyph_ids,
    stroke_fonts,
)
from hico.model.training.worlds.strokes import skeletons
from hico.model.training.worlds.truetype import font_files, truetype_fonts


def cells(fonts):
    """[fonts, glyphs, 52, 60]"""
    shape = len(fonts.names), CELL[0], len(GLYPHS), CELL[1]
    return fonts.atlas.reshape(shape).transpose(1, 2)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Some of the fonts that matplotlib brings, and one without plain letters."""
    pytest.importorskip("PIL")
    matplotlib = pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("fonts")
    for name in ("DejaVuSans", "DejaVuSerif-Bold", "cmr10", "STIXGeneral", "STIXSizOneSymReg"):
        shutil.copy(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", folder)
    return truetype_fonts(folder)


def test_fonts_of_matplotlib_are_found():
    matplotlib = pytest.importorskip("matplotlib")
    found = {path.name for path in font_files(None)}
    assert "DejaVuSans.ttf" in found and "cmsy10.ttf" not in found
    assert all(Path(matplotlib.get_data_path()) in path.parents for path in font_files(None))


def test_every_character_has_a_skeleton_of_its_own():
    found = skeletons()
    assert set(found) == set(GLYPHS) - {" "}
    drawn = {
        repr([stroke.round(3).tolist() for stroke in strokes]) for _, strokes in found.values()
    }
    assert len(drawn) == len(found)


def test_glyphs_lie_within_their_advances():
    fonts = stroke_fonts()
    assert fonts.part("train") == tuple(TRAIN) and fonts.part("test") == tuple(TEST)
    assert fonts.part("all") == fonts.names
    ink = cells(fonts) < 0
    assert not ink[:, 0].any() and ink[:, 1:].flatten(2).any(2).all()
    x = -0.22 + (torch.arange(CELL[1]) + 0.5) / 30
    columns = ink.any(2)
    assert not (columns & (x < 0)).any()
    assert not (columns & (x > fonts.advance[..., None])).any()
    assert not ink[:, :, 0].any() and not ink[:, :, -1].any()


def test_families_differ_visibly():
    inside = (cells(stroke_fonts())[:, 1:63] < 0).flatten(1).float()
    common = inside @ inside.T
    alike = common / (inside.sum(1)[:, None] + inside.sum(1) - common)
    slant = stroke_fonts().slant
    alike[(slant[:, None] - slant).abs() > 0.1] = 0
    assert alike.fill_diagonal_(0).max() < 0.85
    weights = inside.mean(1)
    assert weights.max() > 3 * weights.min()


def test_letters_and_digits_of_a_font_differ():
    inside = (cells(stroke_fonts()) < 0).flatten(2).float()
    for kind in (GLYPHS[1:27], GLYPHS[27:53], "0123456789"):
        some = inside[:, glyph_ids(kind)]
        apart = (some[:, :, None] - some[:, None]).abs().sum(-1)
        size = some.sum(-1)
        share = apart / (size[:, :, None] + size[:, None])
        share += torch.eye(len(kind))
        assert share.min() > 0.06


def test_files_become_fonts_like_ours(files):
    train, test = files.part("train"), files.part("test")
    assert train and test and not set(train) & set(test)
    assert set(train + test) == {"DejaVu Sans", "DejaVu Serif Bold", "cmr10", "STIXGeneral"}
    both = stroke_fonts() + files
    cards, styles = some_cards(12, fonts=both, split="test")
    assert {style.font for style in styles} <= set(both.part("test"))
    frames = render_cards(cards, styles, 32, 2, fonts=both)
    assert frames.shape == (12, 2, 32, 32, 3)
    with pytest.raises(ValueError, match="fonts: expected different names, got .* twice"):
        files + files


def test_ink_of_files_is_where_ours_is(files):
    place = files.names.index("DejaVu Sans")
    inside = (cells(files)[place, 1:63] < 0).flatten(1).float()
    ours = (cells(stroke_fonts())[0, 1:63] < 0).flatten(1).float()
    common = (inside * ours).sum(1) / (inside.sum(1) + ours.sum(1)) * 2
    assert common.mean() > 0.4


def test_bad_folders_of_fonts_are_named(tmp_path, monkeypatch):
    pytest.importorskip("PIL")
    with pytest.raises(FileNotFoundError, match="fonts: expected a folder, got"):
        truetype_fonts(tmp_path / "none")
    with pytest.raises(ValueError, match="fonts: expected fonts with all of .* got 0 files"):
        truetype_fonts(tmp_path)
    Path(tmp_path / "bad.ttf").write_bytes(b"no font")
    with pytest.raises(ValueError, match="bad.ttf: not a font, or damaged"):
        truetype_fonts(tmp_path)


def test_without_pillow_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "PIL.ImageFont", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'hico\[worlds\]'"):
        truetype_fonts(tmp_path)


def test_bad_sets_and_texts_are_named():
    with pytest.raises(ValueError, match=r"atlas: expected \[52, 4260\] for 1 fonts"):
        FontSet(("a",), torch.zeros(1, 1), torch.zeros(1, 71), torch.zeros(1))
    with pytest.raises(ValueError, match="text: expected characters of .* got '~' in 'a~'"):
        glyph_ids("a~")
    with pytest.raises(ValueError, match="split: expected"):
        stroke_fonts().part("dev")
