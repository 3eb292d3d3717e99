"""Answers of all kinds of worlds against what is on their cards; and how many questions."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
from world_helpers import KINDS, front, worlds

from hico.bench import worlds as bench
from hico.bench import worlds_blind
from hico.bench.worlds_readers import case_of, right, sights, weights
from hico.model.training.worlds import make_world
from hico.model.training.worlds import questions as wordings
from hico.model.training.worlds.spec import WorldSpec

SMALLEST = {"needle": 32, "multihop": 96, "ordering": 72, "counting": 192, "grounding": 128}


@pytest.mark.parametrize("kind", KINDS)
def test_equal_arguments_give_equal_worlds(kind):
    first = make_world(kind, 7, 1000, questions=3)
    assert first == make_world(kind, 7, 1000, questions=3)
    fewer = make_world(kind, 7, 1000, questions=1)
    assert fewer.placements == first.placements and fewer.questions == first.questions[:1]
    for other in (make_world(kind, 8, 1000), make_world(kind, 7, 1000, "test")):
        assert first.placements != other.placements and first.questions != other.questions


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_world_of_a_kind_and_one_smaller(kind):
    world = make_world(kind, 1, SMALLEST[kind])
    assert len(world.placements) * 8 <= SMALLEST[kind] and world.questions
    assert make_world(kind, 1, SMALLEST[kind] // 2, density=1.0).questions
    with pytest.raises(ValueError, match="frames: expected room for"):
        make_world(kind, 1, SMALLEST[kind] - 1)


@pytest.mark.parametrize("frames", [64, 100, 256, 333, 510, 999])
@pytest.mark.parametrize("kind", KINDS)
def test_smaller_videos_hold_what_fits(kind, frames):
    if frames >= SMALLEST[kind]:
        for seed in range(5):
            world = make_world(kind, seed, frames)
            assert len(world.placements) * 4 <= frames / 2 and world.questions
            assert max(p.start for p in world.placements) + 4 <= frames


@pytest.mark.parametrize(
    "change, told",
    [
        ({"kind": "haystack"}, "kind: expected"),
        ({"split": "dev"}, "split: expected"),
        ({"card": "both"}, "card: expected"),
        ({"seed": -1}, "seed: expected"),
        ({"frames": 0}, "frames: expected"),
        ({"questions": 0}, "questions: expected"),
        ({"density": 0.0}, "density: expected"),
        ({"density": 1.5}, "density: expected"),
        ({"density": "0.5"}, "density: expected a number .* got '0.5'"),
        ({"fps": 0.0}, "fps: expected"),
        ({"fps": float("inf")}, "fps: expected .* got inf"),
        ({"fps": float("nan")}, "fps: expected .* got nan"),
        ({"fps": "1"}, "fps: expected a number .* got '1'"),
        ({"fps": True}, "fps: expected a number"),
        ({"depth": "0.5"}, "depth: expected a number"),
        ({"depth": 1.1}, "depth: expected"),
        ({"kind": "grounding", "depth": 0.5}, "depth: expected none"),
        ({"cards": 13}, "cards: expected"),
        ({"cards": "8"}, "cards: expected an integer"),
        ({"hops": "3"}, "hops: expected an integer"),
        ({"hops": [1, 2, 3]}, r"hops: expected a count or \[fewest, most\], got \[1, 2, 3\]"),
        ({"kind": "ordering", "cards": 17}, "cards: expected"),
        ({"kind": "counting", "cards": 25}, "cards: expected"),
        ({"kind": "multihop", "cards": 8}, "cards: expected"),
        ({"kind": "multihop", "hops": 7}, "hops: expected"),
        ({"kind": "multihop", "hops": (3, 2)}, "hops: expected"),
        ({"cards": 80, "frames": 400}, "room for 80"),
    ],
)
def test_bad_arguments(change, told):
    with pytest.raises(ValueError, match=told):
        make_world(**{"kind": "needle", "seed": 1, "frames": 1000} | change)


@pytest.mark.parametrize("depth", [0, 0.2, 0.5, 1])
def test_depth_places_the_first_needle(depth):
    for seed in range(5):
        world = make_world("needle", seed, 1000, depth=depth)
        assert world.placements[world.questions[0].needles[0]].start == round(depth * 249) * 4


@pytest.mark.parametrize("cards", [1, 2, 3, 4])
def test_an_easy_start(cards):
    for seed in range(8):
        world = make_world("needle", seed, 4 * cards, cards=cards, density=1.0)
        question = world.questions[0]
        assert len(world.placements) == cards and len(set(question.options)) == 4
        assert sum(i >= 0 for i in question.foils) == min(cards - 1, 3)


def test_turned_and_static_cards():
    for world in worlds("needle", 20):
        assert all(sorted(p.sides) == ["back"] * 2 + ["front"] * 2 for p in world.placements)
    assert {p.sides for p in make_world("needle", 1, 1000, card="static").placements} == {
        ("both",) * 4
    }
    kinds = Counter(make_world("needle", seed, 64, card="mixed").card for seed in range(200))
    assert 120 < kinds["turned"] < 180 and kinds["static"] == 200 - kinds["turned"]


def matching(world, question):
    """Placements that are what the question names."""
    return [
        i
        for i, p in enumerate(world.placements)
        if all(getattr(p.card, name) == value for name, value in question.named)
    ]


@pytest.mark.parametrize("split", ["train", "test"])
def test_counts(split):
    for world in worlds("counting", 60, split):
        (question,) = world.questions
        found = matching(world, question)
        assert question.options[question.answer] == str(len(found))
        assert question.needles == tuple(found)
        cards = [p.card for p in world.placements]
        # neither side alone says anything
        assert len(set(Counter(map(front, cards)).values())) == 1
        assert len(set(Counter(card.number for card in cards).values())) == 1


def test_orders():
    for world in worlds("ordering", 60, questions=2):
        used = [i for question in world.questions for i in question.needles]
        assert len(world.questions) == 2 and len(set(used)) == 6
        for question in world.questions:
            prompt = question.text.split("\nOptions")[0]
            order = [int(n) for n in question.options[question.answer].split(", ")]
            places = [prompt.index(f"{n}. ") for n in (1, 2, 3)] + [len(prompt)]
            for n, i in zip(order, question.needles, strict=True):
                card, said = world.placements[i].card, prompt[places[n - 1] : places[n]]
                assert all(text in said for text in (*front(card), card.number))
            assert list(question.needles) == sorted(question.needles)
            assert len(set(question.options)) == 4


def test_times():
    for world in worlds("grounding", 60, questions=3):
        assert len(world.questions) == 3
        for question in world.questions:
            (only,) = matching(world, question)
            assert question.needles == (only,)
            for place, option in enumerate(question.options):
                low, high = (float(option.split()[i]) for i in (1, 3))
                inside = [p for p in world.placements if low <= p.start < high]
                assert (world.placements[only] in inside) == (place == question.answer)
                # every stretch shows every front and every number as often
                cards = [p.card for p in inside]
                assert len({front(c) for c in cards}) == len({c.number for c in cards}) == 6


@pytest.mark.parametrize(
    "frames, fps, last", [(10_000, 1, "10000"), (1_000_000, 30, "33333.33"), (400, 1000, "0.4")]
)
def test_times_are_written_out(frames, fps, last):
    options = [
        option
        for seed in range(12)
        for option in make_world("grounding", seed, frames, fps=fps).questions[0].options
    ]
    assert not any("e" in option.split()[i] for option in options for i in (1, 3))
    assert any(option.endswith(f"to {last} seconds") for option in options)


@pytest.mark.parametrize("kind", KINDS)
def test_prompts_are_as_published(kind):
    for question in worlds(kind, 40)[7].questions:
        listed = "".join(
            f"({letter}) {text}\n" for letter, text in zip("ABCD", question.options, strict=True)
        )
        assert question.text.startswith("Find the frame")
        assert question.text.endswith(f"\nOptions: {listed}{wordings.END}")
        ask, letter = question.turn()
        assert ask == question.text and question.options["ABCD".index(letter)] in ask
        ask, answer = question.turn("free")
        assert "Options" not in ask and answer == question.options[question.answer]
        ask, answer = question.turn("steps")
        assert answer.endswith(question.options[question.answer])
        with pytest.raises(ValueError, match="form: expected"):
            question.turn("rhyme")


def test_steps_name_the_chain():
    question = make_world("multihop", 3, 1000, hops=4).questions[0]
    said = question.turn("steps")[1].split(", then ")
    assert len(said) == 5 and said[-1] == question.free_answer


def test_wordings_of_tests_are_other_but_their_words_are_known():
    tables = [wordings.CAPTIONS, wordings.SHORT, wordings.NUMBERED, *wordings.WHAT.values(),
              wordings.ORDER, wordings.WHEN, wordings.COUNT]  # fmt: skip
    known = {word for table in tables for text in table["train"] for word in text.split()}
    for table in tables:
        assert not set(table["train"]) & set(table["test"])
        assert {word for text in table["test"] for word in text.split()} <= known


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_seen_none_or_64_of_1000_frames_guesses(kind):
    count = 400
    drawn = worlds(kind, 2 * count)
    assert abs(accuracy(drawn) - 0.25) < 4 * np.sqrt(0.25 * 0.75 / count)
    known, asked = (
        [world.questions[0] for world in half] for half in (drawn[:count], drawn[count:])
    )
    for name, hits in worlds_blind.guesses(known, asked).items():
        low, high = bench.wilson(sum(hits), count)
        assert low - 0.02 < 0.25 < high + 0.02, name
    letters = Counter(question.letter for question in known + asked)
    assert all(abs(letters[letter] / (2 * count) - 0.25) < 0.06 for letter in "ABCD")


def accuracy(drawn):
    """Of who sees 64 frames of the second half, having learned from the first."""
    cases = []
    for world in drawn:
        seen = sights(world, bench.uniform(world, np.random.default_rng(world.seed)))
        cases.append(case_of(world, world.questions[0], seen))
    count = len(cases) // 2
    weight = weights(cases[:count])
    return np.mean([right(case, weight) for case in cases[count:]])


def test_64_frames_of_static_cards_are_better_than_none():
    assert 0.4 < accuracy(worlds("needle", 500, card="static")) < 0.6
    assert accuracy(worlds("needle", 40, frames=64, card="static")) == 1.0


def test_earlier_answers_of_a_conversation_do_not_help():
    """Each question's cards, and in grounding its answer, are out of the later ones."""
    for world in worlds("needle", 40, questions=6) + worlds("multihop", 40, questions=6):
        used = [i for q in world.questions for i in (*q.needles, *q.foils) if i >= 0]
        assert len(used) == len(set(used))
    for world in worlds("grounding", 40, questions=6):
        told = []
        for question in world.questions:
            assert not set(told) & set(question.options)
            told.append(question.options[question.answer])


def test_specs():
    spec = WorldSpec.of({"world": "needle", "frames": [64, 128], "hops": [2, 3], "questions": 2})
    assert {spec.length(i) for i in range(300)} == set(range(64, 129, 4))
    assert all(spec.make(i).frames == spec.length(i) for i in range(20))
    assert spec.make(3) == spec.make(3) != spec.make(4)
    other = dataclasses.replace(spec, seed=1)
    assert other.make(3).placements != spec.make(3).placements
    mixed = dataclasses.replace(spec, form="mixed", questions=1)
    forms = Counter(mixed.forms(i, 1)[0] for i in range(300))
    assert forms["options"] > forms["free"] > forms["steps"] > 0


@pytest.mark.parametrize(
    "entry, told",
    [
        ({"frames": 64}, "no world"),
        ({"world": "needle", "colour": 1}, "'colour'"),
        ({"world": "maze"}, "world: expected"),
        ({"world": "needle", "frames": [128, 64]}, "frames: expected"),
        ({"world": "needle", "frames": [64, 128, 256]}, "frames: expected a count or"),
        ({"world": "needle", "frames": "64"}, "frames: expected an integer"),
        ({"world": "needle", "frames": 65}, "frames: expected multiples of 4, got 65"),
        ({"world": "needle", "frames": [64, 129]}, "frames: expected multiples of 4"),
        ({"world": "needle", "frames": [65, 128]}, "frames: expected multiples of 4"),
        ({"world": "needle", "hops": [1, 2, 3]}, "hops: expected a count or"),
        ({"world": "needle", "density": "0.5"}, "density: expected"),
        ({"world": "needle", "haystack": "/no/such"}, "haystack: expected .* got '/no/such'"),
        ({"world": "needle", "haystack": 3}, "haystack: expected .* got 3"),
        ({"world": "needle", "device": "nope"}, "device: expected cpu or cuda, got 'nope'"),
        ({"world": "needle", "device": "meta"}, "device: expected cpu or cuda, got 'meta'"),
        ({"world": "needle", "device": "cuda:99"}, "device: expected one of . cuda devices"),
        ({"world": "needle", "frames": 16}, "room for 4"),
        ({"world": "needle", "form": "rhyme"}, "form: expected"),
        ({"world": "needle", "count": 0}, "count: expected"),
        ({"world": "needle", "seed": 1 << 30}, "seed: expected"),
    ],
)
def test_bad_specs(entry, told):
    with pytest.raises(ValueError, match=told):
        WorldSpec.of(entry)
