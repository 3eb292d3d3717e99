"""One call of every launcher in every dtype: what tools/compile_kernels.py builds without a GPU."""

from collections.abc import Callable, Iterator
from functools import partial

import torch
from kernel_cases_project import project_cases
from kernel_cases_retain import compact_cases, select_cases
from kernel_cases_score import score_cases

from hico.kernels import attention, match, merge, norm, segment

DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def kernel_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """(label, call) pairs; the arguments are CPU tensors of the benchmark's widths."""
    double = torch.zeros(2, 300, 88, dtype=torch.float64)
    yield "merge float64", partial(merge.merge_rounds, double, 64, 1, None, None, 0, True)
    for dtype in DTYPES:
        name = str(dtype).removeprefix("torch.")
        x = torch.zeros(2, 784, 1024, dtype=dtype)
        size = torch.ones(2, 784)
        lengths = torch.tensor([784, 600])
        assign = torch.zeros(2, 784, dtype=torch.int64)
        total = torch.ones(2, 64)
        y = x[:, :64].contiguous()
        weight = torch.ones(1024)
        index = torch.zeros(2, 100, dtype=torch.int64)
        for protected, by_position in ((0, True), (1, False)):
            yield (
                f"merge {name} protected={protected}",
                partial(merge.merge_rounds, x, 64, 16, size, lengths, protected, by_position),
            )
        many = torch.zeros(300, 100, 64, dtype=dtype)
        yield f"merge many {name}", partial(merge.merge_rounds, many, 64, 1, None, None, 0, True)
        short = torch.zeros(2, 197, 64, dtype=dtype)
        yield (
            f"merge short {name}",
            partial(merge.merge_rounds, short, 181, 1, size[:, :197], None, 1, False),
        )
        wide = torch.zeros(2, 300, 1408, dtype=dtype)
        yield f"merge 88 {name}", partial(merge.merge_rounds, wide, 64, 16, None, None, 0, True)
        yield f"merge wide {name}", partial(merge.merge_rounds, wide, 64, 1, None, None, 0, True)
        unit, nrm = torch.zeros(2, 784, 2, 64, dtype=torch.float16), torch.ones(2, 784)
        for lag in (None, 0, 1):
            yield (
                f"match {lag} {name}",
                partial(match.match, unit, nrm, index, index, lag, 196, lengths),
            )
        yield f"segment mean {name}", partial(segment.segment_reduce, x, assign, 64, None, True)
        yield f"segment sum {name}", partial(segment.segment_reduce, x, assign, 64, size, False)
        long = torch.zeros(1, 5000, 64, dtype=dtype)
        slots = torch.zeros(1, 5000, dtype=torch.int64)
        yield f"segment sorted {name}", partial(segment.segment_reduce, long, slots, 64, None, True)
        yield f"gather {name}", partial(segment.slot_gather, y, assign)
        yield f"gather scaled {name}", partial(segment.slot_gather, y, assign, size, total)
        yield f"weight grad {name}", partial(segment.weight_grad, x, y, assign, y, total)
        yield f"norm {name}", partial(norm.layer_norm_metric, x, weight, weight, 1e-5, 16, None)
        half, of_rows = torch.ones(1024, dtype=dtype), (1e-6, 1024)
        yield f"norm shift {name}", partial(norm.layer_norm_metric, x, half, half, *of_rows, weight)
    for dtype in DTYPES[:2]:
        qkv = torch.zeros(2, 784, 3072, dtype=dtype)
        label = f"attention {str(dtype).removeprefix('torch.')}"
        yield label, partial(attention.attention, qkv, 16)
    yield from select_cases()
    yield from compact_cases()
    yield from project_cases()
    yield from score_cases()
