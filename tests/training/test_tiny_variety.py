"""Cards as others might draw them: each change does what it says, and no more."""

from dataclasses import replace
from itertools import combinations
from random import Random

import numpy as np
import pytest
import torch

from hico.model.training.tiny import variety
from hico.model.training.tiny.reading import LEADS, Lesson, random_lesson
from hico.model.training.tiny.variety import TONES, UNLIKE, odd_colour, vary
from hico.model.training.worlds.cards import COLOURS, Card, Style, on_device
from hico.model.training.worlds.fonts import glyph_ids, stroke_fonts
from hico.model.training.worlds.labels import stands_where
from hico.model.training.worlds.placing import CONTRAST, plan
from hico.model.training.worlds.writing import LONGEST

SHARES = ("SMALL", "SQUASHED", "BARE", "TURNED", "HOLLOW", "TONED", "PAPERED")
LESSON = Lesson(Card("arrow", "red", "47", "lemon"))


def planned(lessons, frames=1):
    styles = [Style("plain", "stack", "plain", seed) for seed in range(len(lessons))]
    sides = np.zeros((len(lessons), frames), int)
    cards = [one.painted for one in lessons]
    return dict(plan(cards, styles, sides, False, stroke_fonts()))


def with_only(monkeypatch, *names):
    for name in SHARES:
        monkeypatch.setattr(variety, name, 1.0 if name in names else 0.0)


def stands(numbers, cells=112):
    numbers = {k: one for k, one in numbers.items() if k not in ("behind", "time")}
    return stands_where(on_device(numbers, slice(None), torch.device("cpu")), cells)


def middle_and_size(part, number):
    """[n, 2] each, of the cells of a part, in parts of the frame."""
    found = []
    for one in part:
        at = (one == number).nonzero().float() / len(one)
        low, high = at.amin(0), at.amax(0)
        found.append(((low + high) / 2, high - low))
    return [torch.stack(list(every)) for every in zip(*found, strict=True)]


def test_with_no_share_nothing_changes(monkeypatch):
    with_only(monkeypatch)
    before = planned([LESSON] * 4, 2)
    after = vary(before, [LESSON] * 4, np.random.default_rng(0))
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_plans_stay_as_they_were(monkeypatch):
    with_only(monkeypatch, *SHARES)
    before = planned([LESSON] * 4)
    copies = {name: np.array(one) for name, one in before.items()}
    vary(before, [LESSON] * 4, np.random.default_rng(0))
    assert all(np.array_equal(before[name], copies[name]) for name in before)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_small_parts_stay_where_they_are(monkeypatch, number):
    """A shape, a number and a word: smaller by half at most, around the same middle."""
    with_only(monkeypatch, "SMALL")
    before = planned([LESSON] * 12)
    after = vary(before, [LESSON] * 12, np.random.default_rng(0))
    place, size = middle_and_size(stands(before)[1], number)
    now, smaller = middle_and_size(stands(after)[1], number)
    assert (place - now).abs().max() < 0.03
    ratio = (smaller / size).mean(1)
    assert ratio.max() < 1.03 and ratio.min() > variety.LEAST - 0.08 and ratio.std() > 0.08


def test_cards_are_squashed_across(monkeypatch):
    with_only(monkeypatch, "SQUASHED")
    before = planned([LESSON] * 12)
    after = vary(before, [LESSON] * 12, np.random.default_rng(0))
    _, size = middle_and_size(stands(before)[1], 3)
    _, now = middle_and_size(stands(after)[1], 3)
    ratio = now / size
    assert 0.5 < ratio[:, 1].min() < 0.75 and (ratio[:, 0] > ratio[:, 1] - 0.1).all()


def test_paper_and_its_shadow_fade_together(monkeypatch):
    with_only(monkeypatch, "BARE")
    before = planned([LESSON] * 20)
    after = vary(before, [LESSON] * 20, np.random.default_rng(0))
    sheet = after["sheet"][:, 0]
    assert (before["sheet"] == 1).all() and sheet.min() < 0.3 and sheet.max() <= 1
    np.testing.assert_allclose(after["shade"][..., 2], before["shade"][..., 2] * sheet[:, None])


def test_paper_of_any_colour_leaves_ink_and_shape_to_be_seen(monkeypatch):
    with_only(monkeypatch, "PAPERED")
    before = planned([LESSON] * 40)
    after = vary(before, [LESSON] * 40, np.random.default_rng(0))
    paper = after["paper"][:, 0]
    for name in ("ink", "fill"):
        assert np.linalg.norm(paper - after[name][:, 0], axis=-1).min() > CONTRAST
    assert (np.abs(paper - 0.5).max(-1) < 0.35).any() and len(np.unique(paper, axis=0)) > 20


def test_shapes_are_turned_as_far_as_they_stay_what_they_are(monkeypatch):
    """An arrow in four ways, a moon in two, a house upright; none larger or smaller by much."""
    with_only(monkeypatch, "TURNED")
    for name, ways in (("arrow", 4), ("moon", 2), ("house", 1)):
        lessons = [Lesson(Card(name, "red", "47", "lemon"))] * 60
        before = planned(lessons)
        after = vary(before, lessons, np.random.default_rng(0))
        linear = [p["put"][:, 0, 0].reshape(-1, 2, 3)[..., :2] for p in (before, after)]
        change = linear[1] @ np.linalg.inv(linear[0])
        area = np.linalg.det(change)
        assert np.allclose(np.abs(area), 1) and (area < 0).any() == (name == "moon")
        turned = np.degrees(np.arctan2(change[:, 1, 1], change[:, 1, 0]))
        assert len(set(np.round(turned / 90) * 90 % 360)) <= ways + (name == "moon")
        assert name != "house" or np.ptp(turned) < 1e-6


def test_hollow_shapes_are_lines_of_their_colour(monkeypatch):
    with_only(monkeypatch, "HOLLOW")
    before = planned([LESSON] * 6)
    after = vary(before, [LESSON] * 6, np.random.default_rng(0))
    assert np.array_equal(after["rim colour"], before["fill"]) and (after["rim"] > 0.08).all()
    assert np.array_equal(after["fill"], np.broadcast_to(before["paper"], after["fill"].shape))


def test_tones_keep_to_their_names(monkeypatch):
    with_only(monkeypatch, "TONED")
    lessons = [Lesson(Card("star", name, "47", "lemon")) for name in COLOURS for _ in range(8)]
    before = planned(lessons)
    after = vary(before, lessons, np.random.default_rng(0))
    changed = (after["fill"] != before["fill"]).any((1, 2))
    assert changed.mean() > 0.6
    for row in np.flatnonzero(changed):
        low, high = np.array(TONES[lessons[row].card.colour]) / 255
        colour = after["fill"][row, 0]
        assert ((colour >= low) & (colour <= high)).all()
        assert np.linalg.norm(colour - after["paper"][row, 0]) > CONTRAST
    assert (before["rim"][changed] == 0).any()
    bare = changed & (before["rim"][:, 0] == 0)
    assert np.array_equal(after["rim colour"][bare], after["fill"][bare])


def test_no_two_names_share_a_tone():
    assert TONES.keys() == COLOURS.keys()
    for one, other in combinations(TONES.values(), 2):
        gap = np.maximum(np.subtract(other[0], one[1]), np.subtract(one[0], other[1]))
        assert gap.max() > 15, (one, other)


def test_odd_colours_are_unlike_all_that_have_names(monkeypatch):
    low, high = (np.array([ends[i] for ends in TONES.values()]) / 255 for i in (0, 1))
    rng = np.random.default_rng(0)
    for paper in (np.zeros(3), np.ones(3), np.full(3, 0.5)):
        for _ in range(20):
            colour = odd_colour(rng, paper)
            assert np.linalg.norm(colour - colour.clip(low, high), axis=-1).min() >= UNLIKE
            assert np.linalg.norm(colour - paper) >= CONTRAST
    with_only(monkeypatch)
    odd = LESSON._replace(odd=True)
    after = vary(planned([odd, LESSON]), [odd, LESSON], rng)
    far = [np.linalg.norm(one - one.clip(low, high), axis=-1).min() for one in after["fill"][:, 0]]
    assert far[0] >= UNLIKE and far[1] == 0


def test_ways_in_one_line_are_painted_where_numbers_are():
    way = Lesson(Card("star", "red", "", "lemon", "orange triangle"), lead=LEADS[0])
    assert way.painted == Card("star", "red", "GO TO orange triangle", "lemon", None)
    assert LESSON._replace(lead=LEADS[0]).painted == LESSON.card
    wrapped = way._replace(wrapped=True)
    assert wrapped.painted == replace(way.card, goto="GO TO orange\ntriangle")
    what, part, order = stands(planned([wrapped]))
    assert part.unique().tolist() == [0, 1, 3, 4, 5] and order[part == 4].max() == 11
    longest = max(len(lead) for lead in LEADS) + len("orange triangle")
    assert longest <= LONGEST + 6 and all(glyph_ids(lead) for lead in LEADS)
    what, part, order = stands(planned([way]))
    assert part.unique().tolist() == [0, 1, 2, 3] and order.max() > 14


def test_leads_are_drawn_for_training_alone():
    rng = Random(0)
    drawn = {split: [random_lesson(rng, split) for _ in range(200)] for split in ("train", "test")}
    assert {one.lead for one in drawn["train"]} == {"", *LEADS}
    assert {one.lead for one in drawn["test"]} == {""}
