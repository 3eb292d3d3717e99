"""Matching and merging a second time, from their published description: float64, one row, loops.

Nothing of hico's ops is used here. Every result carries its margin: the smallest difference between
two similarities that decided anything. Where it is above MARGIN, any computation that is right to
fp32 must come to the same indices, so those are compared exactly; below it fp32 may choose either.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from hico.testing import assert_tokens_close

# unit vectors in fp32 are off by 6e-8 a component, their dot products by a few times that
MARGIN = 1e-6


@dataclass
class Merged:
    """One row merged: lists of members by slot, anchors, means, weights."""

    members: list[list[int]]
    anchor: list[int]
    tokens: np.ndarray
    size: np.ndarray
    margin: float

    @property
    def assign(self) -> list[int]:
        slot = {n: m for m, members in enumerate(self.members) for n in members}
        return [slot[n] for n in range(len(slot))]


def rows(x: Tensor) -> np.ndarray:
    """A tensor as float64 numbers."""
    return x.detach().cpu().double().numpy()


def directions(metric: np.ndarray) -> np.ndarray:
    """Unit vectors; zero and non-finite vectors become 0."""
    out = np.zeros_like(metric)
    for n, v in enumerate(metric):
        if np.isfinite(v).all() and np.abs(v).max(initial=0) > 0:
            v = v / np.abs(v).max()
            out[n] = v / math.sqrt(float(np.dot(v, v)))
    return out


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Every pair's cosine, with cos(0, 0) = 1 and cos(0, v) = -1."""
    a, b = directions(a), directions(b)
    out = np.einsum("id,jd->ij", a, b)  # not BLAS: there equal vectors may differ in the last bit
    zero_a, zero_b = ~a.any(1), ~b.any(1)
    out[zero_a] = -1
    out[:, zero_b] = -1
    out[np.ix_(zero_a, zero_b)] = 1
    return out


def best(scores: np.ndarray) -> tuple[int, float]:
    """The lowest index of the maximum, and how far the next one is below it."""
    index = 0
    for j in range(len(scores)):
        if scores[j] > scores[index]:
            index = j
    others = np.delete(scores, index)
    return index, float(scores[index] - others.max()) if len(others) else math.inf


def match(metric, src, dst, allowed=lambda i, j: True) -> list[tuple[float, int, np.ndarray]]:
    """For each source (value, index, its row of cosines, -inf where not allowed)."""
    out = []
    scores = cosines(metric[src], metric[dst])
    for i, s in enumerate(src):
        for j, d in enumerate(dst):
            if not allowed(s, d):
                scores[i, j] = -math.inf
        value = max(scores[i], default=-math.inf)
        out.append((value, best(scores[i])[0] if value > -math.inf else -1, scores[i]))
    return out


def assert_partners(value: Tensor, index: Tensor, expected, tolerance: float = 1e-6) -> None:
    """One row's match: indices exactly, except between cosines that fp32 cannot tell apart."""
    assert len(expected) == len(index)
    for i, (want, j, scores) in enumerate(expected):
        got, k = float(value[i]), int(index[i])
        if j < 0:
            assert k == -1 and got == -math.inf, f"source {i}: expected no partner, got {k}, {got}"
            continue
        assert abs(got - want) < tolerance, f"source {i}: expected cosine {want}, got {got}"
        assert 0 <= k < len(scores), f"source {i}: expected a partner, got {k}"
        assert k == j or 0 < scores[j] - scores[k] < MARGIN, f"source {i}: expected {j}, got {k}"


def head_mean(x: np.ndarray, heads: int) -> np.ndarray:
    return x.reshape(len(x), heads, x.shape[1] // heads).mean(1)


def merge(
    x, target, *, heads=1, metric=None, size=None, protected=0, order="reference", length=None
) -> Merged:
    """One row [N, C] merged down to `target` tokens by rounds of bipartite matching."""
    x = x[:length]
    weight = np.ones(len(x)) if size is None else np.asarray(size, dtype=np.float64)[: len(x)]
    metric = head_mean(x, heads) if metric is None else metric[: len(x)]
    metric = np.where(np.isfinite(metric).all(1, keepdims=True), metric, 0)
    members, anchor, margin = [[n] for n in range(len(x))], list(range(len(x))), math.inf
    while (r := min(len(anchor) - target, (len(anchor) - protected) // 2)) > 0:
        # the mean over all members, made anew: not the way of the kernels, which add sums to sums
        now = np.stack([weight[m] @ metric[m] / weight[m].sum() for m in members])
        members, anchor, gap = one_round(now, members, anchor, r, protected)
        margin = min(margin, gap)
    if order == "position":
        by_anchor = sorted(range(len(anchor)), key=lambda m: anchor[m])
        members, anchor = [members[m] for m in by_anchor], [anchor[m] for m in by_anchor]
    members = [sorted(m) for m in members]
    tokens = [weight[m] @ x[m] / weight[m].sum() if len(m) > 1 else x[m[0]] for m in members]
    tokens = np.array(tokens).reshape(len(members), x.shape[1])
    return Merged(members, anchor, tokens, np.array([weight[m].sum() for m in members]), margin)


def one_round(metric, members, anchor, r, protected):
    """The r most similar even tokens join their best odd ones."""
    p = len(anchor)
    src = [i for i in range(0, p, 2) if i >= protected]
    dst = [i for i in range(1, p, 2) if i >= protected]
    scores = cosines(metric[src], metric[dst])
    partner = [best(row) for row in scores]
    value = [row[j] for row, (j, _) in zip(scores, partner, strict=True)]
    ranked = sorted(range(len(src)), key=lambda i: (-value[i], i))
    margin = min(partner[i][1] for i in ranked[:r])
    falling = [value[i] for i in ranked]
    # the threshold decides; the order behind it too, unless tokens are protected
    for k in range(r, len(src) if not protected else min(r + 1, len(src))):
        margin = min(margin, falling[k - 1] - falling[k])
    joined = [list(m) for m in members]
    for i in ranked[:r]:
        joined[dst[partner[i][0]]] += members[src[i]]
    stay = [src[i] for i in ranked[r:]]
    keep = [*range(protected), *(sorted(stay) if protected else stay), *dst]
    return [joined[i] for i in keep], [anchor[i] for i in keep], margin


def assert_merged(result, expected: list[Merged], x: Tensor, *, sure: bool = True) -> None:
    """A MergeResult is the brute force's: maps and counts exactly, tokens to our tolerance.

    sure=False is for inputs whose ties are exact in any precision, as of vectors along the axes.
    """
    slots = result.map.num_slots
    exact = torch.zeros(len(x), slots, x.shape[2], dtype=torch.float64)
    for b, want in enumerate(expected):
        assert want.margin > MARGIN or not sure, f"row {b}: another seed, this one has a near tie"
        n, m = len(want.assign), len(want.anchor)
        assert result.map.assign[b].tolist() == want.assign + [-1] * (x.shape[1] - n), f"row {b}"
        assert result.map.anchor[b].tolist() == want.anchor + [-1] * (slots - m), f"row {b}"
        size = np.concatenate([want.size, np.zeros(slots - m)])
        np.testing.assert_allclose(rows(result.size[b]), size, rtol=1e-6, atol=0)
        exact[b, :m] = torch.from_numpy(want.tokens)
    result.map.check()
    assert result.tokens.dtype == x.dtype
    assert_tokens_close(result.tokens, exact, plain_mean(x, result.map.assign, slots))


def plain_mean(x: Tensor, assign: Tensor, slots: int) -> Tensor:
    """The slots' means [B, M, C] by plain PyTorch in x's own dtype: the budget for our error."""
    out = []
    for row, slot in zip(x.detach().cpu(), assign.cpu(), strict=True):
        row, slot = row[slot >= 0], slot[slot >= 0]
        sums = row.new_zeros(slots, x.shape[2]).index_add_(0, slot, row)
        count = row.new_zeros(slots).index_add_(0, slot, row.new_ones(len(slot)))
        out.append(sums / count.clamp(min=1)[:, None])
    return torch.stack(out)
