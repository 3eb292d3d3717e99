"""The calls of norm_project for kernel_cases."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from hico.kernels import project


def project_cases() -> Iterator[tuple[str, Callable[[], object]]]:
    """Key projections of decoders with 1 to 8 key heads, and sizes that no tile divides."""
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for channels, out in ((3584, 512), (2048, 128), (64, 32)):
            x, weight = torch.zeros(2, 200, channels, dtype=dtype), torch.zeros(out, channels)
            args = (x, x[0, 0], weight.to(dtype), weight[:, 0], 1e-6)
            yield f"project {channels} {out} {name}", partial(project.norm_project, *args)
            lengths = torch.tensor([200, 7])
            yield (
                f"project ragged {channels} {out} {name}",
                partial(project.norm_project, *args, lengths),
            )
        x, weight = torch.zeros(2, 200, 300, dtype=dtype), torch.zeros(100, 300, dtype=dtype)
        for kind, rows in (("odd", x), ("slice", x[:, :, :100])):
            args = (rows, rows[0, 0], weight[:, : rows.shape[2]].contiguous(), None, 1e-6)
            yield f"project {kind} {name}", partial(project.norm_project, *args)
