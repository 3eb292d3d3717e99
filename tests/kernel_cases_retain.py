"""The calls of select and compact for kernel_cases."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from hico.kernels import compact, select

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def select_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Rows that a program has to itself and rows that many share, in every way to say how many."""
    lengths = torch.tensor([600, 784])
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        threshold = torch.zeros(2, dtype=torch.float64 if dtype == torch.float64 else torch.float32)
        for n in (1000, 4000, 16000, 20000):
            score = torch.zeros(2, n, dtype=dtype)
            protect = torch.zeros(2, n, dtype=torch.bool)
            for kind, k, cut in (("k", lengths, None), ("threshold", None, threshold)):
                yield (
                    f"select {kind} {n} {name}",
                    partial(select.select, score, n, k, cut, protect, lengths),
                )
            yield f"select {n} {name}", partial(select.select, score, 250, None, None, None, None)


def compact_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Hidden states, keys of a cache, positions and masks, each width of a value."""
    index = torch.zeros(2, 250, dtype=torch.int64)
    for dtype in (torch.bool, torch.bfloat16, torch.float32, torch.int64):
        name = str(dtype).removeprefix("torch.")
        for kind, x, dims in (
            ("hidden", torch.zeros(2, 1000, 3584, dtype=dtype), (0, 1)),
            ("keys", torch.zeros(2, 4, 1200, 128, dtype=dtype)[:, :, :1000], (0, 2)),
            ("odd", torch.zeros(2, 1000, 77, dtype=dtype), (0, 1)),
            ("positions", torch.zeros(3, 2, 1000, dtype=dtype), (1, 2)),
        ):
            yield f"compact {kind} {name}", partial(compact.take_rows, x, index, *dims)
