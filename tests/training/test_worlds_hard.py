"""What makes worlds hard: distractors, splits, and nothing that gives a target away."""

from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from world_helpers import KINDS, auc, differing, front, worlds

from hico.model.training.worlds import make_world, multihop
from hico.model.training.worlds.cards import COLOURS, LAYOUTS, SHAPES, WORDS
from hico.model.training.worlds.splits import held_out
from hico.model.training.worlds.world import CLIP

HARD = 33
SPLITS = ("train", "test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_at_least_32_distractors_of_the_targets_style(kind, split):
    for world in worlds(kind, 40, split):
        assert len(world.placements) >= HARD
        looks = {(p.style.font, p.style.layout, p.style.paper) for p in world.placements}
        assert len(looks) == 1
        starts = [p.start for p in world.placements]
        assert starts == sorted(set(starts))
        assert all(start % CLIP == 0 and start + CLIP <= world.frames for start in starts)


@pytest.mark.parametrize("split", SPLITS)
def test_every_wrong_number_is_on_a_card_one_attribute_from_the_target(split):
    ways = Counter()
    for world in worlds("needle", 80, split, questions=4):
        cards = [p.card for p in world.placements]
        assert len({front(card) for card in cards}) == len({c.number for c in cards}) == len(cards)
        for question in world.questions:
            own = cards[question.needles[0]]
            ways[question.asked] += 1
            for option, foil in zip(question.options, question.foils, strict=True):
                if foil < 0:
                    assert (
                        option == question.options[question.answer] == getattr(own, question.asked)
                    )
                    continue
                other = cards[foil]
                assert option == getattr(other, question.asked) != getattr(own, question.asked)
                if question.asked == "number":
                    assert differing(own, other) == 1
                else:
                    shared = zip(own.number, other.number, strict=True)
                    assert sum(a == b for a, b in shared) == 1
    assert len(ways) == 4


def test_in_a_needle_world_every_card_could_be_the_target():
    for world in worlds("needle"):
        cards = [p.card for p in world.placements]
        near = Counter(i for a, b in combinations(range(len(cards)), 2) for i in (a, b)
                       if differing(cards[a], cards[b]) == 1)  # fmt: skip
        assert min(near[i] for i in range(len(cards))) >= 3


def test_values_that_are_options_are_as_frequent_as_the_answer():
    for world in worlds("needle", 80, "train", questions=4):
        for question in world.questions:
            seen = Counter(getattr(p.card, question.asked) for p in world.placements)
            assert len({seen[option] for option in question.options}) == 1


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("hops", range(1, 7))
def test_chains(hops, split):
    forward = 0
    for world in worlds("multihop", 25, split, hops=hops, questions=2):
        cards = [p.card for p in world.placements]
        by_key = {multihop.key_text((card.shape, card.colour)): i for i, card in enumerate(cards)}
        assert len(by_key) == len(cards)
        named = {card.goto for card in cards if card.goto}
        chains = []
        for i, card in enumerate(cards):
            if multihop.key_text((card.shape, card.colour)) not in named:
                chain = [i]
                while cards[chain[-1]].goto:
                    chain.append(by_key[cards[chain[-1]].goto])
                chains.append(tuple(chain))
        # no card is outside a chain, and all chains are as long
        assert sorted(i for chain in chains for i in chain) == list(range(len(cards)))
        assert {len(chain) for chain in chains} == {hops} and len(chains) >= 4
        for question in world.questions:
            assert question.hops == hops and question.needles in chains
            forward += question.needles == tuple(sorted(question.needles))
            own = cards[question.needles[0]]
            assert question.named == (("shape", own.shape), ("colour", own.colour))
            for foil in (i for i in question.foils if i >= 0):
                other = next(cards[chain[0]] for chain in chains if chain[-1] == foil)
                assert differing(own, other, ("shape", "colour")) == 1
    if hops > 1:
        assert forward < 50 * 0.75


def test_every_goto_can_be_drawn():
    longest = max(len(f"{colour} {shape}") for colour in COLOURS for shape in SHAPES)
    assert longest <= 18


@pytest.mark.parametrize("kind", KINDS)
def test_what_tests_show_is_not_in_training(kind):
    shown = {}
    for split in SPLITS:
        placements = [p for world in worlds(kind, 40, split) for p in world.placements]
        fronts = {front(p.card) for p in placements}
        assert {held_out(*one) for one in fronts} == {split == "test"}
        looks = {(p.style.font, p.style.layout) for p in placements}
        shown[split] = fronts, {font for font, _ in looks}, {layout for _, layout in looks}
        assert shown[split][2] <= set(LAYOUTS[split])
    assert all(not a & b for a, b in zip(*shown.values(), strict=True))


def test_three_tenths_of_all_combinations_are_held_out_and_every_pair_is_in_both_splits():
    every = [(s, c, w) for s in SHAPES for c in COLOURS for w in WORDS]
    kept = [one for one in every if not held_out(*one)]
    assert 0.3 <= 1 - len(kept) / len(every) <= 0.7
    for left in range(3):
        pairs = {one[:left] + one[left + 1 :] for one in every}
        assert pairs == {one[:left] + one[left + 1 :] for one in kept}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_the_question_tells_targets_from_distractors(kind):
    cues = {name: ([], []) for name in ("start", "order", "gap", "turn", "seed", "front first")}
    for world in worlds(kind, 300, "train"):
        targets = {i for question in world.questions for i in question.needles}
        starts = np.array([p.start for p in world.placements])
        gaps = np.diff(starts, prepend=-1e3, append=world.frames + 1e3)
        for i, p in enumerate(world.placements):
            found = (p.start, i, min(gaps[i : i + 2]), hash(p.sides) % 97, p.style.seed)
            for (name, sides), value in zip(
                cues.items(), (*found, p.sides[0] == "front"), strict=True
            ):
                assert name
                sides[i not in targets].append(value)
    for name, (targets, others) in cues.items():
        area, spread = auc(targets, others[:4000])
        assert abs(area - 0.5) < 4 * spread, (name, area)


def test_no_brightness_tells_targets_from_distractors():
    bright = ([], [])
    for world in worlds("needle", 24, "train", frames=320):
        pixels = world.render([p.start for p in world.placements], 16)
        means = pixels.float().mean((1, 2, 3)).tolist()
        target = world.questions[0].needles[0]
        # ranked inside its own world
        bright[0].append(sum(m < means[target] for m in means) / (len(means) - 1))
    assert abs(np.mean(bright[0]) - 0.5) < 4 * 0.29 / np.sqrt(24)


def test_the_haystack_never_repeats():
    world = make_world("needle", 1, 6000)
    shown = world.hay[world.shown < 0]
    assert len(shown) == len(np.unique(shown)) >= 5000


def test_distinct_frames_of_a_world():
    world = make_world("needle", 1, 400)
    frames = world.all_frames(12)
    assert len(torch.unique(frames.flatten(1), dim=0)) == len(frames)
