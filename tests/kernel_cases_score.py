"""Calls of the attention scores for tools/compile_kernels.py: both passes, every kind of tile."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from hico.kernels import score

# head dimension, query rows, and what else is given
CASES = {
    torch.float16: [(128, 1, "plain"), (128, 1, "masks"), (128, 64, "plain"), (128, 64, "masks")],
    torch.bfloat16: [
        *((128, rows, given) for rows in (1, 64) for given in ("plain", "masks", "lse")),
        *((256, 1, "plain"), (256, 1, "masks"), (256, 64, "plain")),
        *((80, 4, "plain"), (80, 4, "masks")),
    ],
    torch.float32: [(128, 1, "plain"), (128, 1, "masks"), (128, 64, "plain")],
}


def score_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """(label, call) pairs: few and many rows, with and without masks and rotary positions."""
    batch, n = 2, 5000
    for dtype, cases in CASES.items():
        for dim, rows, given in cases:
            k = torch.zeros(batch, 4, n, dim, dtype=dtype)
            q = torch.zeros(batch, 28, rows, dim, dtype=dtype)
            cos = torch.zeros(batch, n, dim, dtype=dtype)
            half, positions = cos[..., : dim // 2], torch.zeros(batch, rows, dtype=torch.int64)
            masks = (positions, positions.bool(), torch.ones(batch, n, dtype=torch.bool))
            lengths, lse = torch.tensor([n, 9]), torch.zeros(batch, 28, rows)
            args: dict[str, tuple] = {
                "plain": (*[None] * 7, 0, n, 0.1, "mean", "mean"),
                "masks": (*masks, lengths, cos, cos, None, 3, n, 0.1, "kv", "max"),
                "lse": (positions, *[None] * 3, half, half, lse, 0, n, 0.1, "max", "sum"),
            }
            label = f"score {str(dtype).removeprefix('torch.')} D={dim} M={rows} {given}"
            yield label, partial(score.attention_score, q, k, *args[given])
