"""What stage 0b asks of the bank: that every answer can be seen, once, and that ids fit."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_helpers import invented_bank

from hico.model.processing import VideoChatFlashProcessor, token_ids
from hico.model.training.tiny.asking import chains_of
from hico.model.training.tiny.bank import Bank
from hico.model.training.tiny.levels import Level
from hico.model.training.tiny.picks import cubes_of, some_cards, word_lines
from hico.model.training.tiny.samples import Drawer, Stream
from hico.model.training.tiny.tokenizer import train_tokenizer
from hico.model.training.worlds.families import apart

LEVELS = [
    Level(1, 2, rows=4, watch=1.0),
    Level(2, 4, rows=4, choose=2),
    Level(8, 16, hard=1.0, rows=4, tokens=1),
    Level(12, 32, 2, rows=4, chained=1.0, skip=5000),
    Level(40, 48, 3, rows=4, chained=0.5, drop=1.0),
]


@pytest.fixture(scope="module")
def bank():
    return invented_bank(8, 32, tokens=2, channels=8)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def shown(bank, row):
    """The cards of a video, each once; the clips of one follow each other."""
    rows = [(card, k) for deck in bank.decks for card in deck.cards for k in range(deck.parts)]
    last = {card: deck.parts - 1 for deck in bank.decks for card in deck.cards}
    there = [rows[i] if i < bank.hay else None for i in row.tolist()]
    for at, one in enumerate(there):
        if one is not None and one[1] < last[one[0]]:
            assert there[at + 1] == (one[0], one[1] + 1)
    return [one[0] for one in there if one is not None and one[1] == last[one[0]]]


@pytest.mark.parametrize("level", LEVELS)
def test_a_batch(bank, tokenizer, level):
    batch = Drawer(bank, tokenizer).batch(np.random.default_rng(0), level, 3)
    rows, clips = batch.clips.shape
    assert rows == level.rows and max(level.cards, level.clips // 2) <= clips <= level.clips
    assert batch.level == 3 and batch.drop == ("all" if level.drop else "none")
    assert batch.gaps.shape == (rows, clips + 1)
    assert batch.seen.shape == (rows, clips, level.tokens or 2)
    assert (batch.seen.diff(dim=-1) > 0).all() and batch.seen.min() >= 0 and batch.seen.max() < 2
    assert batch.gaps.min() >= 0 and batch.gaps.sum(1).max() <= level.skip
    assert (batch.gaps.sum() > 0) == (level.skip > 0)
    second = [deck.first + i for deck in bank.decks if deck.parts == 2
              for i in range(1, 2 * len(deck.cards), 2)]  # fmt: skip
    assert not batch.gaps[:, :-1][torch.isin(batch.clips, torch.tensor(second))].any()
    for row in batch.clips:
        cards = shown(bank, row)
        assert 1 <= len(cards) <= level.cards and len(set(cards)) == len(cards)


@pytest.mark.parametrize("level", LEVELS)
def test_labels_are_answers_and_nothing_else(bank, tokenizer, level):
    batch = Drawer(bank, tokenizer).batch(np.random.default_rng(1), level)
    answers = torch.zeros_like(batch.labels, dtype=torch.bool)
    for row, first, stop, form, hops in batch.spans:
        answers[row, first:stop] = True
        text = tokenizer.decode(batch.ids[row, first:stop])
        assert text.endswith("<|im_end|>") and 1 <= hops <= level.hops
        assert (len(text) == len("A<|im_end|>")) == (form == "options" or text[1] == "<")
        if form == "both":  # of the option that was just said
            asked = tokenizer.decode(batch.ids[row, :first])
            text, letter = text.split("\n")
            assert f"({letter[0]}) {text}\n" in asked[asked.rindex("Options:") :]
        # whatever is answered stands on a card of this video
        if form == "choose":  # the option that the question names
            asked = tokenizer.decode(batch.ids[row, :first]).split("Which option is ")[-1]
            assert f"({text[0]}) {asked.split('?')[0]}\n" in asked
        elif form != "options":
            told = " ".join(repr(card) for card in shown(bank, batch.clips[row]))
            words = text.removesuffix("<|im_end|>").replace(",", " ").replace(";", " ").split()
            said = [word for word in words if word not in ("a", "an", "go", "to", "then")]
            assert said and all(word in told for word in said), (text, told)
    assert torch.equal(batch.labels != -100, answers)
    assert torch.equal(batch.labels[answers], batch.ids[answers])


def test_it_is_the_prompt_that_is_asked_later(bank, tokenizer):
    """Ids in front, behind, and of two turns, as the processor makes them of a conversation."""
    level = Level(8, 16, rows=16, turns=2, forms=(0.5, 0.0, 0.5, 0.0))
    batch = Drawer(bank, tokenizer).batch(np.random.default_rng(2), level)
    found = 0
    for row in range(level.rows):
        spans = [s for s in batch.spans if s[0] == row]
        text = tokenizer.decode(batch.ids[row, : spans[-1][2]])
        if text.startswith("\nFind") and len(spans) == 2:
            first, rest = text.removeprefix("\n").split("<|im_end|>\n<|im_start|>assistant\n", 1)
            answer, rest = rest.split("<|im_end|>\n<|im_start|>user\n", 1)
            second = rest.split("<|im_end|>")[0]
            prompt = VideoChatFlashProcessor.prompt(second, [(first, answer)])
            ids = batch.ids[row, : spans[-1][1]].tolist()
            assert [*batch.head.tolist(), -200, *ids] == token_ids(tokenizer, prompt)
            found += 1
    assert found


def test_no_card_is_asked_twice(bank, tokenizer):
    drawer = Drawer(bank, tokenizer)
    level = Level(8, 16, rows=32, forms=(0.0, 0.0, 0.0, 1.0), watch=0.0)
    batch = drawer.batch(np.random.default_rng(3), level)
    for row in range(level.rows):
        said = [tuple(batch.ids[r, a:b].tolist()) for r, a, b, *_ in batch.spans if r == row]
        assert len(said) > 1 and len(set(said)) == len(said)


def test_cards_across_two_clips(bank, tokenizer):
    """Some videos have them, at every level with room for two clips; no half stands alone."""
    cut = [(deck.first, deck.parts * len(deck.cards)) for deck in bank.decks if deck.parts > 1]
    assert len(cut) == 2 and {deck.hops > 1 for deck in bank.decks if deck.parts > 1} == {
        True,
        False,
    }
    for level in LEVELS:
        batch = Drawer(bank, tokenizer).batch(np.random.default_rng(4), replace(level, rows=40))
        halves = sum(
            any(a <= i < a + n for a, n in cut) for row in batch.clips.tolist() for i in row
        )
        assert halves > 0 and halves % 2 == 0, level


def test_neighbours_come_as_cubes_faces_and_edges(bank):
    rng = np.random.default_rng(0)
    deck = next(deck for deck in bank.decks if deck.hops == 1)
    for cube in cubes_of(deck.cards):
        assert len(cube) % 8 == 0
    for most, near in ((2, 1), (4, 2), (8, 3), (16, 3)):
        some = [deck.cards[i] for i in some_cards(rng, deck.cards, most, 1.0)]
        for card in some:
            assert sum(apart(card, other) == 1 for other in some) >= near


@pytest.mark.parametrize("most", [1, 5, 8, 30])
def test_lines_of_words(bank, tokenizer, most):
    """As many cards as wanted, in lines of eight at most; no number twice, no front twice."""
    kept = Drawer(bank, tokenizer).alike
    found = [one.card for one in word_lines(np.random.default_rng(0), kept, most)]
    assert len(found) == most == len({card.number for card in found})
    assert len({(card.shape, card.colour, card.word) for card in found}) == most
    sizes = Counter((card.shape, card.colour) for card in found)
    assert max(sizes.values()) <= 8 and len(sizes) <= -(-most // 2) + 1


def test_videos_of_lines_are_of_all_decks(bank, tokenizer):
    level = Level(16, 32, rows=40, lined=1.0)
    drawer = Drawer(bank, tokenizer)
    batch = drawer.batch(np.random.default_rng(0), level)
    owner = {one.row: one.card for some in drawer.alike for one in some}
    for row in batch.clips.tolist():
        cards = [owner[i] for i in row if i < bank.hay]
        assert len(cards) == 16 and len({card.number for card in cards}) == 16
    decks = [{i for i in range(deck.first, deck.first + len(deck.cards))} for deck in bank.decks]
    assert any(sum(bool(deck & set(row)) for deck in decks) > 1 for row in batch.clips.tolist())


def test_near_levels_come_again_more_often(bank, tokenizer):
    levels = [*LEVELS[:4], replace(LEVELS[0], again=1.0)]
    stream = iter(Stream(Drawer(bank, tokenizer), levels, torch.tensor([4])))
    seen = Counter(next(stream).level for _ in range(60))
    assert set(seen) == {2, 3} and seen[3] > 20


def test_chains_lead_to_their_ends(bank):
    for deck in bank.decks:
        if deck.hops > 1:
            chains = chains_of(deck)
            assert {len(chain) for chain in chains} == {deck.hops}
            assert sum(map(len, chains)) == len(deck.cards)
            assert all(chain[-1].number and not chain[-1].goto for chain in chains)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_level_changes_for_a_stream_under_way(bank, tokenizer, workers):
    now = torch.tensor([0]).share_memory_()
    stream = iter(Stream(Drawer(bank, tokenizer), LEVELS, now).loader(workers))
    assert next(stream).level == 0
    now += 2
    # what a worker has drawn ahead is still of the old level
    assert 2 in [next(stream).level for _ in range(1 + 8 * workers)]


def test_a_bank_that_does_not_fit(bank):
    with pytest.raises(ValueError, match="features: expected"):
        replace(bank, features=bank.features[: bank.hay])
    with pytest.raises(ValueError, match="features: expected"):
        Bank(bank.features, bank.decks, bank.hay - 1)
