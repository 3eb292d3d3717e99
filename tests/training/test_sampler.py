"""Length groups against the published rule, written anew."""

import random
from itertools import pairwise

import pytest

from hico.model.training.sampler import LengthGroupedSampler


def case(count, visual, seed=0):
    """Lengths and modalities."""
    rng = random.Random(seed)
    kinds = ["visual" if rng.random() < visual else "text" for _ in range(count)]
    return [
        rng.randrange(1, 9) * 128 if k == "visual" else rng.randrange(5, 90) for k in kinds
    ], kinds


def dealt_by_hand(piece, lengths, chunks):
    """Longest first, each to the batch with the least so far that has room."""
    room, batches = len(piece) // chunks, [[] for _ in range(chunks)]
    for i in sorted(piece, key=lambda i: (-lengths[i], i)):
        sums = [
            (sum(lengths[j] for j in batch), place)
            for place, batch in enumerate(batches)
            if len(batch) < room
        ]
        batches[min(sums)[1]].append(i)
    return [i for batch in batches for i in batch]


@pytest.mark.parametrize("visual", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("batch, world, accumulation", [(1, 1, 1), (2, 2, 2), (1, 4, 3), (5, 2, 1)])
def test_pieces(batch, world, accumulation, visual):
    lengths, kinds = case(203, visual)
    sampler = LengthGroupedSampler(lengths, kinds, batch, world, accumulation, seed=3)
    order, size = list(sampler), batch * world * accumulation
    assert sorted(order) == list(range(203)) and len(sampler) == 203
    whole = sum(kinds.count(kind) // size for kind in ("text", "visual")) * size
    for start in range(0, whole, size):
        piece = order[start : start + size]
        assert len({kinds[i] for i in piece}) == 1
        assert piece == dealt_by_hand(piece, lengths, world * accumulation)
    rest = order[whole:]
    for kind in ("text", "visual"):
        assert sum(kinds[i] == kind for i in rest) == kinds.count(kind) % size
    if batch == 1:
        assert all(lengths[a] >= lengths[b] for a, b in pairwise(rest))


def test_batches_of_a_step_are_alike():
    """In each step the processes get samples of almost one length; published: of any."""
    lengths, kinds = case(4096, 1.0)
    order = list(LengthGroupedSampler(lengths, kinds, batch=1, world=4, accumulation=8))
    spread = [
        max(s) - min(s) for s in ([lengths[i] for i in order[k : k + 4]] for k in range(0, 4096, 4))
    ]
    assert sum(spread) / len(spread) < 100  # at random 612


def test_orders():
    lengths, kinds = case(300, 0.5)

    def order(epoch=0, **options):
        sampler = LengthGroupedSampler(lengths, kinds, batch=4, **options)
        sampler.set_epoch(epoch)
        return list(sampler)

    assert order() == order() and order(seed=1, epoch=2) == order(seed=1, epoch=2)
    assert len({tuple(order(e, seed=s)) for e in range(3) for s in range(3)}) == 9
    # the kinds come in no order of their own
    starts = [kinds[i] for i in order()[::4]]
    assert 20 < sum(a != b for a, b in pairwise(starts)) < 60


@pytest.mark.parametrize(
    "lengths, kinds, options, message",
    [
        ([], [], {}, "at least one"),
        ([1, 2], ["text"], {}, "got 1 for 2"),
        ([1], ["video"], {}, "modalities: expected one of 'text', 'visual'"),
        ([1], ["text"], {"batch": 0}, "batch: expected"),
        ([1], ["text"], {"world": 0}, "world: expected"),
        ([1], ["text"], {"accumulation": 1.5}, "accumulation: expected"),
    ],
)
def test_refused(lengths, kinds, options, message):
    with pytest.raises(ValueError, match=message):
        LengthGroupedSampler(lengths, kinds, **{"batch": 1} | options)
