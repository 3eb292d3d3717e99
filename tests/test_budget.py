"""Every rule that turns a target into counts."""

import math

import pytest
import torch

from hico.budget import keep_count, keep_counts, merge_schedule, round_merges


@pytest.mark.parametrize(
    "tokens, target, rounds",
    [
        # the published schedules, from reference.md 3.2
        (3136, 64, [1568, 784, 392, 196, 98, 34]),
        (784, 64, [392, 196, 98, 34]),
        (196, 64, [98, 34]),
        (1024, 64, [512, 256, 128, 64]),
        (256, 64, [128, 64]),
        (101, 50, [50, 1]),
        (64, 64, []),
        (1, 1, []),
        (0, 0, []),
        (3, 1, [1, 1]),
        (10, 20, []),  # a short row of a ragged batch
    ],
)
def test_merge_schedule(tokens, target, rounds):
    assert merge_schedule(tokens, target) == rounds


def test_merge_schedule_reaches_every_target():
    for tokens in range(1, 70):
        for protected in range(4):
            for target in range(min(protected + 1, tokens), tokens + 1):
                left = tokens
                for r in merge_schedule(tokens, target, protected):
                    sources = len([i for i in range(0, left, 2) if i >= protected])
                    destinations = len([i for i in range(1, left, 2) if i >= protected])
                    assert 0 < r <= sources and destinations > 0
                    left -= r
                assert left == target


def test_round_merges_is_tomes_rule():
    for tokens in range(40):
        for r in range(40):
            for protected in range(3):
                want = max(0, min(r, (tokens - protected) // 2))
                assert round_merges(tokens, tokens - r, protected) == want


@pytest.mark.parametrize(
    "tokens, ratio, kept",
    [
        # the published int(N * R), from reference.md 5.1 and 5.4
        (24, 0.75, 18),
        (24, 0.25, 6),
        (160256, 0.25, 40064),
        (100, 0.29, 28),  # 0.29 * 100 is a little less than 29
        (7, 0.5, 3),
        (5, 0, 0),
        (5, 1, 5),
        (0, 0.5, 0),
    ],
)
def test_keep_count(tokens, ratio, kept):
    assert keep_count(tokens, ratio) == kept
    assert keep_counts(torch.tensor([tokens]), ratio).tolist() == [kept]


def test_keep_counts_are_keep_count():
    tokens = torch.arange(3000, dtype=torch.int32)
    for ratio in (0.1, 0.29, 1 / 3, 0.7, 0.999):
        want = [keep_count(n, ratio) for n in range(3000)]
        assert keep_counts(tokens, ratio).tolist() == want


@pytest.mark.parametrize("ratio", [-0.1, 1.1, math.nan, True, "half", None])
def test_keep_count_refuses(ratio):
    with pytest.raises(ValueError, match="ratio: expected"):
        keep_count(10, ratio)
    with pytest.raises(ValueError, match="ratio: expected"):
        keep_counts(torch.tensor([10]), ratio)
