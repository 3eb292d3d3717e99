"""The multi-round bipartite merge: unit vectors, then all rounds of a row in one program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._rounds import run_rounds
from hico.kernels.match import match, match_tile, unit_metric

# below this many rows each has a multiprocessor nearly to itself: wider tiles finish it sooner
FEW_ROWS = 264


@triton.jit(do_not_specialize=["N", "M", "P", "K"])
def merge_rounds_kernel(
    unit, norm, unit_next, norm_next, value, index, work, lengths, assign, anchor, lists,
    N, M, P, K,
    BY_POSITION: tl.constexpr, D: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_SRC: tl.constexpr, BLOCK_DST: tl.constexpr, BLOCK_SUM: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_L: tl.constexpr, DOUBLE: tl.constexpr,
):  # fmt: skip
    # one program takes one row to M tokens; K rows of unit_next hold what a later round starts from
    i_b = tl.program_id(0).to(tl.int64)
    length = N
    if lengths is not None:
        length = tl.minimum(tl.maximum(tl.load(lengths + i_b), 0), N).to(tl.int32)
    W: tl.constexpr = D if DOUBLE else 2 * D
    run_rounds(
        unit + i_b * N * W, norm + i_b * N, unit_next + i_b * K * W, norm_next + i_b * K,
        value + i_b * ((N + 1) // 2), index + i_b * ((N + 1) // 2), work + i_b * (8 * N + 16),
        assign + i_b * N, anchor + i_b * M, lists + i_b * (M + 1 + N), N, length, M, P,
        BY_POSITION, D, BLOCK_D, BLOCK_SRC, BLOCK_DST, BLOCK_SUM, BLOCK_N, BLOCK_L, DOUBLE,
    )  # fmt: skip


def merge_rounds(
    x: Tensor,
    num_tokens: int,
    num_heads: int,
    size: Tensor | None,
    lengths: Tensor | None,
    protected: int,
    by_position: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """All rounds on the head mean of x: assign [B, N], anchor [B, M], lists [B, M + 1 + N]."""
    batch, n, channels = x.shape
    d, double = channels // num_heads, x.dtype == torch.float64
    assign = torch.empty(batch, n, dtype=torch.int64, device=x.device)
    anchor = torch.empty(batch, num_tokens, dtype=torch.int64, device=x.device)
    lists = torch.empty(batch, num_tokens + 1 + n, dtype=torch.int32, device=x.device)
    if batch == 0 or n == 0:
        return assign, anchor, lists.zero_()
    unit, norm = unit_metric(x, num_heads, size)
    # the first and largest round is split over programs by a launch of its own
    value, index = match(unit, norm, None, None, lengths=lengths, protected=protected, ranking=True)
    # the most tokens that a second round can start from
    rest = min(n, (n + min(protected, n) + 1) // 2)
    unit_next, norm_next = unit.new_empty(batch, rest, *unit.shape[2:]), norm.new_empty(batch, rest)
    work = torch.empty(batch, 8 * n + 16, dtype=torch.int32, device=x.device)
    merge_rounds_kernel[(batch,)](
        unit, norm, unit_next, norm_next, value, index, work, lengths, assign, anchor, lists,
        n, num_tokens, protected, rest,
        by_position, d, DOUBLE=double, **rounds_tile(d, double, batch),
    )  # fmt: skip
    return assign, anchor, lists


def rounds_tile(d: int, double: bool, batch: int) -> dict[str, int]:
    """Tiles of the rounds of `batch` rows with a metric of d dimensions; never a matter of N."""
    tile = match_tile(d, double)
    if batch < FEW_ROWS and d <= 64 and not double:
        tile["BLOCK_DST"] = 64
    sums = {"BLOCK_SUM": 32 if d <= 128 else 16, "BLOCK_N": 1024, "BLOCK_L": 128}
    return {**tile, **sums, "num_stages": 2 if d <= 128 else 1}
