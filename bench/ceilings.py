"""What the machine reaches in this very run: the floors are counted with these rates."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hico.bench.timing import time_gpu


@dataclass(frozen=True)
class Ceilings:
    """What the machine reaches in this run: TB/s (copy: read plus written) and bf16 TFLOP/s."""

    copy: float
    read: float
    write: float
    matmul: float

    def __post_init__(self) -> None:
        if not min(self.copy, self.read, self.write, self.matmul) > 0:
            raise ValueError(f"ceilings: expected rates above 0, got {self}")

    @property
    def forward(self) -> float:
        """TB/s that a mostly reading op is held against: the better of read and copy."""
        return max(self.copy, self.read)

    @property
    def backward(self) -> float:
        """TB/s that a mostly writing op is held against: the better of write and copy."""
        return max(self.copy, self.write)


def ceilings(device: torch.device | str, *, budget_s: float = 0.5) -> Ceilings:
    """Copy, read and fill of 2 GiB, and an 8192-cubed bf16 product (small on a CPU)."""
    device = torch.device(device)
    gpu = device.type == "cuda"
    count, side = (1 << 29, 8192) if gpu else (1 << 20, 256)
    source = torch.randn(count, device=device)
    target = torch.empty_like(source)
    left, right = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))

    def fastest(*runs: Callable[[Tensor], Any]) -> float:
        return min(
            time_gpu(run, [(source,)], budget_s=budget_s, max_samples=50).median for run in runs
        )

    size = source.numel() * source.element_size()
    copy = 2 * size / fastest(target.copy_)
    # two shapes of the same reduction: which one runs faster depends on the version of torch
    read = size / fastest(torch.sum, lambda t: t.view(-1, 4096).sum(-1))
    write = size / fastest(lambda _: target.fill_(1.0))
    matmul = 2 * side**3 / fastest(lambda _: left @ right)
    return Ceilings(copy / 1e9, read / 1e9, write / 1e9, matmul / 1e9)
