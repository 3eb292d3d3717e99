"""The published implementation's own outputs, and other shapes against the float64 loop."""

import json
from pathlib import Path

import pytest
import torch
from brute_force import assert_merged, merge, rows
from safetensors import safe_open

import hico
from hico.testing import clusters

GOLDEN = Path(__file__).parent / "golden" / "merge.safetensors"
with safe_open(GOLDEN, "pt") as file:
    CASES = json.loads(file.metadata()["cases"])

# reference.md, section 11: sum, sum of magnitudes, first channels of some tokens
SINES = {
    196: (-45.0613, 25274.3612, {
        0: (0.62223, -0.99975, 0.58657), 15: (0.29214, 0.4911, -0.24547),
        63: (0.37153, -0.60042, 0.7879),
    }),
    784: (12.9363, 12581.7073, {
        0: (-0.46502, -0.52697, -0.5658), 14: (0.18708, -0.18131, 0.16147),
        15: (0.31714, 0.22451, 0.09417), 63: (0.08712, 0.12115, 0.04811),
    }),
    3136: (0.6442, 6824.9095, {
        0: (-0.19439, 0.18754, -0.02264), 15: (-0.00234, -0.51402, -0.20356),
        63: (0.2353, 0.02387, -0.23865),
    }),
}  # fmt: skip


def slow(kernels, device):
    """The interpreter takes four seconds for 784 tokens, a quarter of a minute for 3136."""
    return kernels and device == "cpu"


def by_anchor(result):
    """A result in reference order, sorted by anchor."""
    anchor, order = result.map.anchor.sort(dim=1)
    tokens = result.tokens.gather(1, order[..., None].expand_as(result.tokens))
    assign = order.argsort(1).gather(1, result.map.assign)
    return tokens, result.size.gather(1, order), assign, anchor


@pytest.mark.parametrize("case", CASES, ids=lambda c: "N{tokens}-M{target}-{mode}".format(**c))
def test_golden(case, device, kernels):
    with safe_open(GOLDEN, "pt") as file:
        x, y = (file.get_tensor(f"case{case['case']}.{name}").to(device) for name in "xy")
    target, heads = case["target"], case["heads"]
    result = hico.merge_tokens(x, target, num_heads=heads, order="reference")
    assert result.tokens.shape == y.shape
    assert (result.tokens - y).abs().max() <= 1e-5
    if case["tokens"] * len(x) > 1000 and slow(kernels, device):
        return
    other = hico.merge_tokens(x, target, num_heads=heads)
    want = by_anchor(result)
    for ours, same in zip((*other[:2], other.map.assign, other.map.anchor), want, strict=True):
        assert torch.equal(ours, same)
    assert bool((other.map.anchor.diff(dim=1) > 0).all())


@pytest.mark.parametrize("n", SINES)
def test_sines(n, device, kernels):
    if n > 3000 and slow(kernels, device):
        pytest.skip("the golden file has a case of 3136 tokens")
    i, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(1024, dtype=torch.float64)
    x = torch.sin((i + 1) * (j + 1) * 0.37 + 0.01 * i * i).float()[None].to(device)
    tokens = hico.merge_tokens(x, 64, num_heads=16, order="reference").tokens.double()
    total, magnitude, some = SINES[n]
    assert abs(tokens.sum() - total) < 1e-3 and abs(tokens.abs().sum() - magnitude) < 1e-2
    for m, values in some.items():
        for c, value in enumerate(values):
            assert abs(tokens[0, m, c] - value) < 2e-5, (m, c)


@pytest.mark.parametrize("order", ["position", "reference"])
@pytest.mark.parametrize(
    "n, m, c, heads, seed",
    [
        (199, 64, 48, 3, 11),
        (65, 64, 32, 4, 12),
        (784, 48, 32, 2, 13),
        (257, 64, 30, 1, 14),
        (100, 3, 24, 8, 15),
        (128, 64, 16, 16, 16),
    ],
)
def test_other_shapes(n, m, c, heads, seed, order, device):
    # 128 tokens and 16 heads of 1 channel: on a line, where every cosine is 1 or -1
    x = clusters(1, n, c, seed=seed).to(device)
    result = hico.merge_tokens(x, m, num_heads=heads, order=order)
    want = merge(rows(x[0]), m, heads=heads, order=order)
    assert_merged(result, [want], x, sure=heads < c)


@pytest.mark.parametrize("n, m", [(199, 64), (65, 64)])
def test_other_shapes_at_random(n, m, device):
    x = torch.randn(2, n, 64, generator=torch.Generator().manual_seed(5)).to(device)
    for order in ("position", "reference"):
        result = hico.merge_tokens(x, m, num_heads=4, order=order)
        want = [merge(rows(row), m, heads=4, order=order) for row in x]
        assert_merged(result, want, x)
