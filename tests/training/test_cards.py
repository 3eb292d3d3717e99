"""Cards: the same wherever and with whatever they are painted, legible, and never telling more."""

import numpy as np
import pytest
import torch
from card_helpers import plain_styles, planned, read_line, some_cards

from hico.model.training.worlds import painting
from hico.model.training.worlds.cards import (
    COLOURS,
    FONTS,
    LAYOUTS,
    NUMBERS,
    PAPERS,
    SHAPES,
    WORDS,
    Card,
    Style,
    random_style,
    render_cards,
)
from hico.model.training.worlds.hashing import Draws
from hico.model.training.worlds.placing import CONTRAST, named_colour
from hico.model.training.worlds.preview import sheet, tile, write_png
from hico.model.training.worlds.shapes import shape_atlas

CARD, STYLE = Card("star", "red", "47", "lemon"), Style("plain", "stack", "lined", 1)


def test_vocabularies_are_large_and_parts_have_nothing_in_common():
    assert len(SHAPES) >= 12 and len(COLOURS) >= 8 and len(NUMBERS) == 90
    assert len(WORDS) == len(set(WORDS)) >= 64 and all(4 <= len(word) <= 6 for word in WORDS)
    assert len(FONTS["train"]) >= 12 and len(FONTS["test"]) >= 6
    assert len(LAYOUTS["train"]) >= 8 and len(LAYOUTS["test"]) >= 4
    for part in (FONTS, LAYOUTS):
        assert not set(part["train"]) & set(part["test"])


@pytest.mark.parametrize("split", ["train", "test"])
def test_styles_are_of_their_part_and_reach_all_of_it(split):
    _, styles = some_cards(400, split=split)
    assert {style.font for style in styles} == set(FONTS[split])
    assert {style.layout for style in styles} == set(LAYOUTS[split])
    assert {style.paper for style in styles} == set(PAPERS)
    assert len({style.seed for style in styles}) == 400


def test_pixels_do_not_depend_on_the_batch_or_its_order(monkeypatch):
    cards, styles = some_cards(6)
    together = render_cards(cards, styles, size=40, frames=3)
    backwards = render_cards(cards[::-1], styles[::-1], size=40, frames=3).flip(0)
    monkeypatch.setattr(painting, "CPU_PIXELS", 1)
    alone = torch.cat(
        [render_cards([c], [s], size=40, frames=3) for c, s in zip(cards, styles, strict=True)]
    )
    assert together.equal(backwards) and together.equal(alone)
    assert len({clip.numpy().tobytes() for clip in together}) == 6


def test_all_is_painted_on_the_device():
    cards, styles = some_cards(3)
    for behind in (None, torch.zeros(3, 4, 32, 32, 3, dtype=torch.uint8)):
        frames = render_cards(cards, styles, 32, device="meta", background=behind)
        assert frames.device.type == "meta" and frames.shape == (3, 4, 32, 32, 3)


@pytest.mark.gpu
def test_devices_agree_to_two_grey_levels():
    cards, styles = some_cards(64)
    here = render_cards(cards, styles, frames=2)
    there = render_cards(cards, styles, frames=2, device="cuda").cpu()
    apart = (here.int() - there.int()).abs()
    assert apart.float().mean() < 0.01 and (apart > 2).float().mean() < 1e-4


def test_motion_moves_the_card_and_stillness_does_not():
    still = render_cards([CARD], [STYLE], size=64, motion=False)[0].float()
    moving = render_cards([CARD], [STYLE], size=64)[0].float()
    assert (still[0] - still[3]).abs().mean() < 0.5 * (moving[0] - moving[3]).abs().mean()


def test_numbers_and_words_can_be_read_in_every_font_and_layout():
    cards, styles = some_cards(40, seed=3)[0], plain_styles(40, seed=4)
    numbers = planned(cards, styles)
    frames = render_cards(cards, styles, frames=1, motion=False)[:, 0]
    right = letters = words = 0
    for i, card in enumerate(cards):
        right += read_line(frames[i], numbers, i, 0, "0123456789") == card.number
        small, large = "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
        read = [read_line(frames[i], numbers, i, 1, kind) for kind in (small, large)]
        best = max(sum(a == b for a, b in zip(r.lower(), card.word, strict=True)) for r in read)
        letters, words = letters + best, words + len(card.word)
    assert right >= 39
    assert letters >= 0.9 * words


@pytest.mark.parametrize("paper", PAPERS)
def test_ink_and_shape_stand_out_from_the_paper(paper):
    cards, styles = some_cards(300, seed=5)
    styles = [Style(s.font, s.layout, paper, s.seed) for s in styles]
    numbers = planned(cards, styles)
    ink = np.linalg.norm(numbers["ink"] - numbers["paper"], axis=1)
    fill = np.linalg.norm(numbers["fill"] - numbers["paper"], axis=1)
    assert ink.min() > 0.5 and fill.min() >= CONTRAST
    patterns = np.abs(numbers["ruled"]) + np.abs(numbers["band"]) + numbers["rough"]
    assert patterns.max() * 3**0.5 < 0.75 * ink.min()


@pytest.mark.parametrize("side", ["front", "back"])
def test_a_side_tells_nothing_of_the_other(side):
    kept = {
        "front": ("star", "white", "47", "lemon", "34"),
        "back": ("star", "red", "47", "lemon", "34"),
    }
    other = {
        "front": ("star", "white", "12", "lemon", "85"),
        "back": ("moon", "white", "47", "wolf", "34"),
    }
    styles = some_cards(8)[1]
    pages = [render_cards([Card(*c[side])] * 8, styles, 48, 2, side=side) for c in (kept, other)]
    both = [render_cards([Card(*c[side])] * 8, styles, 48, 2) for c in (kept, other)]
    assert pages[0].equal(pages[1]) and not both[0].equal(both[1])


def test_a_card_turns_over_within_its_clip():
    turned = render_cards([CARD], [STYLE], 48, 4, side=["front", "front", "back", "both"])[0]
    for frame, side in enumerate(("front", "front", "back", "both")):
        assert turned[frame].equal(render_cards([CARD], [STYLE], 48, 4, side=side)[0, frame])
    rows = render_cards([CARD] * 2, [STYLE] * 2, 48, 2, side=[["front"] * 2, ["back"] * 2])
    assert rows[1].equal(render_cards([CARD], [STYLE], 48, 2, side="back")[0])


def test_what_is_around_a_card_can_be_given():
    style = next(s for s in some_cards(50)[1] if planned([CARD], [s])["edge"].max() < 0.9)
    black, white = (torch.full((1, 1, 64, 64, 3), v, dtype=torch.uint8) for v in (0, 255))
    seen = [
        render_cards([CARD], [style], 64, 1, background=b)[0, 0].float() for b in (black, white)
    ]
    changed = (seen[0] - seen[1]).abs().amax(2) > 60
    assert 0.05 < changed.float().mean() < 0.5 and not changed[24:40, 24:40].any()


def test_cards_fill_most_of_the_frame_and_hold_their_text():
    cards, styles = some_cards(300, seed=6)
    numbers = planned(cards, styles)
    area = np.minimum(numbers["edge"], 1).prod(1) / numbers["near"] ** 2
    assert area.min() >= 0.55 and area.max() <= 1.0 and (area == 1).mean() < 0.3
    frames = render_cards(cards[:20], styles[:20], 64, 1)
    empty = render_cards([Card("", "red", "", "")] * 20, styles[:20], 64, 1)
    assert ((frames.int() - empty.int()).abs().amax(-1) > 40).flatten(1).float().mean(
        1
    ).min() > 0.02


def test_colours_stay_what_they_are_called():
    names = list(COLOURS)
    found = named_colour(Draws(np.arange(len(names) * 50)[:, None]), names * 50)[:, 0]
    middle = np.array([np.mean(COLOURS[name], axis=0) for name in names]) / 255
    nearest = np.linalg.norm(found[:, None] - middle, axis=2).argmin(1)
    assert [names[i] for i in nearest] == names * 50


def test_shapes_are_unlike_each_other_and_within_their_cells():
    inside = shape_atlas() < 0
    assert not inside[:, [0, -1]].any() and not inside[:, :, [0, -1]].any()
    flat = inside.flatten(1).float()
    common = flat @ flat.T
    either = flat.sum(1)[:, None] + flat.sum(1) - common
    assert (common / either).fill_diagonal_(0).max() < 0.93
    assert flat.mean(1).min() > 0.1


def test_no_cards_give_no_clips():
    assert render_cards([], [], 32).shape == (0, 4, 32, 32, 3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"styles": []}, "styles: expected one a card, 1, got 0"),
        ({"size": 0}, "size: expected at least 1, got 0"),
        ({"frames": 0}, "frames: expected at least 1, got 0"),
        ({"side": "left"}, "side: expected one of both, front, back, got 'left'"),
        ({"side": ["front"]}, r"side: expected one name, 4 or 1 x 4, got \[1\]"),
        ({"background": torch.zeros(1, 4, 8, 8, 3)}, "background: expected uint8"),
        ({"cards": [Card("blob", "red", "1", "a")]}, "shape: expected one of .* got 'blob'"),
        ({"cards": [Card("star", "plaid", "1", "a")]}, "colour: expected one of .* got 'plaid'"),
        ({"cards": [Card("star", "red", "1", "na\u00efve")]}, "text: expected characters of"),
        ({"cards": [Card("star", "red", "1", "a" * 19)]}, "text: expected at most 18"),
        ({"styles": [Style("serif", "stack", "plain", 0)]}, "font: expected one of"),
        ({"styles": [Style("plain", "heap", "plain", 0)]}, "layout: expected one of"),
        ({"styles": [Style("plain", "stack", "foil", 0)]}, "paper: expected one of"),
        ({"styles": [Style("plain", "stack", "plain", 2**63)]}, "seed: expected an integer of 64"),
    ],
)
def test_bad_arguments_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        render_cards(**{"cards": [CARD], "styles": [STYLE], "size": 8, **changed})


def test_a_style_needs_a_known_part():
    with pytest.raises(ValueError, match="split: expected 'train', 'test' or 'all', got 'dev'"):
        random_style(None, "dev")


def test_sheets_become_png_files(tmp_path):
    page = sheet([CARD] * 3, [STYLE] * 3, size=16, columns=2)
    assert page.shape == (36, 36, 3)
    path = tmp_path / "sheet.png"
    write_png(page, path)
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" and [*tmp_path.iterdir()] == [path]
    image = pytest.importorskip("PIL.Image")
    assert np.array_equal(np.asarray(image.open(path)), page.numpy())
    with pytest.raises(ValueError, match="image: expected uint8"):
        write_png(page.float(), path)
    with pytest.raises(ValueError, match="sheet: expected at least 1 picture"):
        tile(page[None][:0])
