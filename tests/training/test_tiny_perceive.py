"""Stage 0a: what is painted, what is asked of it, and what is not."""

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_helpers import small_model

from hico.model.training.tiny.easel import Drafts, Easel, Pool, Seen, draft, drafted
from hico.model.training.tiny.perceive import Reader
from hico.model.training.tiny.reading import (
    CELLS,
    HEADS,
    NO,
    SPELT,
    TELLS,
    Heads,
    accuracy,
    cells_loss,
    random_lesson,
    random_sides,
    targets,
    told_loss,
)
from hico.model.training.tiny.typefaces import random_family
from hico.model.training.worlds.cards import Card, Style, random_style, render_cards
from hico.model.training.worlds.cards import on_device as numbers_of
from hico.model.training.worlds.fonts import TEST, TRAIN, draw_fonts, stroke_fonts
from hico.model.training.worlds.labels import CHARACTERS, CLASSES, FIRST, stands_where
from hico.model.training.worlds.layouts import PARTS
from hico.model.training.worlds.placing import plan
from hico.model.training.worlds.shapes import SHAPES
from hico.model.training.worlds.splits import held_out

NAMES = list(HEADS)
CPU = torch.device("cpu")


def lessons(split, count=400):
    rng = random.Random(0)
    return [random_lesson(rng, split) for _ in range(count)]


def stands(cards, style, cells, side="both"):
    """int64 [n, 3, cells, cells] of single frames."""
    sides = np.full((len(cards), 1), ("both", "front", "back").index(side))
    planned = plan(cards, [style] * len(cards), sides, False, stroke_fonts())
    return torch.stack(stands_where(numbers_of(planned, slice(None), CPU), cells), 1)


def test_what_heads_are_told():
    given = lessons("train", 60)
    told = targets([*given, None], [("both",)] * 61)
    assert told.shape == (61, len(HEADS)) and told[-1, 0] == 0 and (told[-1, 1:] == NO).all()
    for row, (card, odd, spelt, *_) in zip(told, given, strict=False):
        found = dict(zip(NAMES, row.tolist(), strict=True))
        letters = [found[f"letter{i}"] for i in range(6)]
        if spelt:
            assert "".join(chr(ord("a") + n - 1) for n in letters if n) == card.word
        else:
            assert {found[name] for name in SPELT} == {NO}
        assert (found["shape"] == NO) == (not card.shape)
        assert (found["colour"] == NO) == (odd or not card.shape)
        assert bool(card.goto) != bool(card.number)
        if card.number:
            assert card.number == f"{found['tens']}{found['ones']}"
            assert (found["next_shape"], found["next_colour"]) == (16, 12)
        assert all(NO <= n < HEADS[name] for name, n in found.items())


@pytest.mark.parametrize(("side", "seen"), [("front", "shape"), ("back", "next_shape")])
def test_of_one_side_the_other_is_not_asked(side, seen):
    given = lessons("test", 20)
    alone, both = (targets(given, [sides] * 20) for sides in ((side,), ("front", "back")))
    hidden = {"front": "tens", "back": "word"}[side]
    assert (alone[:, NAMES.index(hidden)] == NO).all()
    assert (both[:, NAMES.index(hidden)] != NO).all()
    assert np.array_equal(alone[:, NAMES.index(seen)], both[:, NAMES.index(seen)])


def test_cards_come_late_or_leave_early():
    rng = random.Random(0)
    drawn = [random_sides(rng, 4) for _ in range(400)]
    part = [sides for sides in drawn if "" in sides]
    assert 70 < len(part) < 130
    for sides in part:
        there = [i for i, side in enumerate(sides) if side]
        assert there and there == list(range(there[0], there[-1] + 1))
        assert there[0] == 0 or there[-1] == 3
    told = targets(
        lessons("test", 3), [("front", "", "", ""), ("", "", "back", "back"), ("", "both")]
    )
    assert (told[0, [NAMES.index("tens"), NAMES.index("word")]] == NO).tolist() == [True, False]
    assert (told[1, [NAMES.index("tens"), NAMES.index("word")]] == NO).tolist() == [False, True]
    assert told[2, NAMES.index("tens")] != NO and told[2, NAMES.index("word")] != NO


def test_no_lesson_tells_which_words_are_for_tests():
    """Where shape and colour are known, of training's combinations, the word is not asked."""
    given = lessons("train")
    whole = [one for one in given if one.card.shape and not one.odd]
    assert 60 < len(whole) < 180 and not any(one.spelt for one in whole)
    assert not any(held_out(c.shape, c.colour, c.word) for c, *_ in whole)
    assert all(one.spelt for one in given if one not in whole)
    tested = lessons("test", 50)
    assert all(held_out(c.shape, c.colour, c.word) and s and not o for c, o, s, *_ in tested)


def test_characters_stand_where_ink_is():
    """Nearly all that is dark on light paper lies in cells that show something, and in no other."""
    card, style = Card("", "red", "57", "lemon"), Style("plain", "stack", "plain", 4)
    pixels = render_cards([card], [style], frames=1, motion=False)[0, 0].float().mean(-1)
    what, part, order = stands([card], style, 112)[0]
    ink = F.avg_pool2d((pixels < 90).float()[None], 2)[0] > 0.5
    on_card = F.max_pool2d((part > 0).float()[None], 9, 1, 4)[0] > 0
    assert 100 < (ink & (part > 0)).sum() > 20 * (ink & on_card & (part == 0)).sum()
    assert {CHARACTERS[i - FIRST] for i in what[part > 0].tolist()} == set("57lemon")
    names = ["", *PARTS]
    assert {names[i] for i in part.unique().tolist()} == {"", "number", "word"}
    letters = [(what[(part == 3) & (order == i)].unique().tolist()) for i in range(5)]
    assert letters == [[FIRST + CHARACTERS.index(c)] for c in "lemon"]


def test_shapes_and_ways_stand_where_they_are():
    cards = [Card("moon", "red", "", "owl", "red star"), Card("bolt", "red", "10", "")]
    found = stands(cards, Style("plain", "left", "plain", 3), 56)
    for (what, part, order), card in zip(found, cards, strict=True):
        assert what[part == 1].unique().tolist() == [1 + list(SHAPES).index(card.shape)]
        assert what.max() < CLASSES and (order[part <= 1] == 0).all()
    assert set(found[0, 1].unique().tolist()) == {0, 1, 3, 4, 5}
    back = stands(cards, Style("plain", "left", "plain", 3), 56, "back")
    assert set(back[0, 1].unique().tolist()) == {0, 4, 5}


def painted(easel, count, frames, split="test", seed=3):
    """Cards, where there is none black frames."""
    size = easel.size
    hay = torch.zeros(count, frames, size, size, 3, dtype=torch.uint8)
    return easel(draft(random.Random(seed), count, frames, split, stroke_fonts()), hay)


@pytest.fixture(scope="module")
def model():
    return small_model()


def test_drafts_are_painted_like_cards(model):
    """From numbers in one tensor come the very pixels of render_cards."""
    fonts, rng = stroke_fonts(), random.Random(3)
    seen = painted(Easel(model.encoder, fonts), 6, 4)
    cards = [random_lesson(rng, "test").card for _ in range(6)]
    styles = [random_style(rng, "test", fonts) for _ in range(6)]
    sides = [random_sides(rng, 4) for _ in range(6)]
    size = model.encoder.image_size
    whole = render_cards(cards, styles, size, side=[[side or "both" for side in s] for s in sides])
    shown = torch.tensor([[bool(side) for side in s] for s in sides])
    assert 0 < (~shown).sum() < 12 and torch.equal(seen.clips[shown], whole[shown])
    cells = seen.cells.unflatten(1, (4, -1))
    assert not seen.clips[~shown].any() and not cells[~shown].any() and cells[shown].any()
    assert seen.cells.shape == (6, 4 * (size // model.encoder.patch_size) ** 2, 4, 3)
    assert seen.cells.dtype == torch.uint8


def test_some_looks_vary_and_the_others_stay(model):
    fonts = stroke_fonts()
    rng = random.Random(5)
    given = [random_lesson(rng, "test") for _ in range(6)], [random_style(rng) for _ in range(6)]
    varied = np.array([True, False] * 3)
    hay = torch.zeros(6, 2, *[model.encoder.image_size] * 2, 3, dtype=torch.uint8)

    def painted_with(varied):
        drawn = drafted(random.Random(1), *given, [("both", "back")] * 6, fonts, varied)
        return Easel(model.encoder, fonts)(drawn, hay).clips

    same = (painted_with(varied) == painted_with(np.zeros(6, bool))).flatten(1).all(1)
    assert same[1::2].all() and not same[::2].all()


def test_cells_lie_in_their_patches(model):
    """The four cells of a patch, rows of patches after each other, as the encoder has them."""
    fonts = stroke_fonts()
    found = painted(Easel(model.encoder, fonts), 1, 1).cells[0]
    grid = model.encoder.image_size // model.encoder.patch_size
    rng = random.Random(3)
    card, style = random_lesson(rng, "test").card, random_style(rng, "test", fonts)
    sides = np.array([[("both", "front", "back").index(random_sides(rng, 1)[0])]])
    planned = plan([card], [style], sides, True, fonts)
    whole = stands_where(numbers_of(planned, slice(None), CPU), 2 * grid)[1][0]
    for row, column in ((1, 2), (3, 1), (grid // 2, grid // 2)):
        patch = whole[2 * row : 2 * row + 2, 2 * column : 2 * column + 2].flatten()
        assert torch.equal(found[row * grid + column, :, 1].long(), patch)


def test_a_pool_forgets_the_oldest():
    def some(*numbers):
        told = torch.tensor(numbers)[:, None]
        return Seen(torch.zeros(len(numbers), 1, 2, 2, 3, dtype=torch.uint8), told, told[..., None])

    pool = Pool(4)
    pool.add(some(1, 2, 3))
    assert set(pool.some(50).told.flatten().tolist()) == {1, 2, 3}
    pool.add(some(4, 5))
    assert set(pool.some(80).told.flatten().tolist()) == {2, 3, 4, 5}


def test_losses_are_means_of_what_is_asked():
    torch.manual_seed(0)
    heads, x = Heads(8), torch.randn(2, 3, 8)
    told = torch.zeros(2, len(HEADS), dtype=torch.int64)
    told[1, 1:] = NO
    logits = heads(x)
    weights = {"card": 0.2} | {f"letter{i}": 0.5 for i in range(6)}
    wanted = sum(
        weights.get(name, 1.0) * -one[: 1 if name != "card" else 2].log_softmax(-1)[..., 0].mean()
        for name, one in logits.items()
    )
    torch.testing.assert_close(told_loss(logits, told), wanted)
    part = torch.full((2, 3), TELLS["tens"])
    numbers = [-logits[name][:1].log_softmax(-1)[..., 0].mean() for name in ("tens", "ones")]
    torch.testing.assert_close(told_loss(logits, told, part), sum(numbers))
    assert told_loss(logits, torch.full_like(told, NO)) == 0


def test_cells_that_show_something_weigh_as_much_as_all_others():
    torch.manual_seed(0)
    cells = torch.zeros(1, 2, 4, 3, dtype=torch.int64)
    cells[0, 0, 1] = torch.tensor([20, 3, 2])
    cells[0, 1] = NO
    logits = Heads(8).where(torch.randn(1, 2, 8))
    assert {name: one.shape[-1] for name, one in logits.items()} == CELLS
    there, others = 0.0, 0.0
    for i, one in enumerate(logits.values()):
        each = -one[0, 0].log_softmax(-1)
        there += each[1, cells[0, 0, 1, i]]
        others += each[[0, 2, 3], 0].sum()
    torch.testing.assert_close(cells_loss(logits, cells), there + 0.3 / 7 * others)


def test_words_that_are_not_asked_leave_no_trace(model):
    """Of a card whose word is not asked, no letter's cell has a gradient either."""
    torch.manual_seed(0)
    reader = Reader(model, Heads(model.encoder.channels))
    seen = painted(Easel(model.encoder, stroke_fonts()), 8, 1)
    told = seen.told.clone()
    told[:, [NAMES.index(name) for name in SPELT]] = NO
    spelt, silent = (reader.losses(seen.clips, one, seen.cells) for one in (seen.told, told))
    other = seen.cells.clone()
    other[..., 0] = torch.where(seen.cells[..., 1] == TELLS["word"], 20, other[..., 0])
    changed = reader.losses(seen.clips, told, other)
    assert (spelt > silent).all() and torch.equal(silent, changed)


def test_shares_of_what_is_told():
    logits = {"card": torch.tensor([[[0.0, 1.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])}
    found = accuracy(logits, torch.tensor([[1], [1]]))
    assert found == {"card": 0.75, "card_vote": 0.5}


@pytest.mark.parametrize("workers", [0, 1])
def test_drafts_come_without_end_and_each_is_another(workers):
    fonts = draw_fonts({"plain": TRAIN["plain"]})
    stream = iter(Drafts(3, 1, "train", fonts, 0).loader(workers))
    first, second = next(stream), next(stream)
    assert first.packed.shape == second.packed.shape and first.told.shape == (3, len(HEADS))
    assert not torch.equal(first.packed, second.packed)


def test_families_drawn_by_lot_are_like_none_for_tests():
    rng = random.Random(0)
    found = [random_family(rng) for _ in range(200)]
    assert not {one.effect for one in found} & {"beads", "inline"} - {""}
    assert {one.effect for one in found} == {"", "outline", "stencil"}
    assert not set(found) & set(TEST.values())
