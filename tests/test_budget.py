"""Every rule that turns a target into counts."""

import pytest

from hico.budget import merge_schedule, round_merges


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
