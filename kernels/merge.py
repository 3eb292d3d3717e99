"""The multi-round bipartite merge: unit vectors, then all rounds of a row in one program."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from hico.kernels._launch import on_hopper
from hico.kernels._rounds import run_rounds
from hico.kernels.match import match, match_tile, unit_metric

# below this many rows each has a multiprocessor nearly to itself, and all of its registers
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
    run_rounds(
        unit, norm, unit_next, norm_next, value, index, work, assign, anchor, lists, i_b,
        N, K, length, M, P,
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
    work = torch.empty(batch, 9 * n + 16, dtype=torch.int32, device=x.device)
    merge_rounds_kernel[(batch,)](
        unit, norm, unit_next, norm_next, value, index, work, lengths, assign, anchor, lists,
        n, num_tokens, protected, rest,
        by_position, d, DOUBLE=double, **rounds_tile(d, double, batch),
    )  # fmt: skip
    return assign, anchor, lists


def rounds_tile(d: int, double: bool, batch: int) -> dict[str, int]:
    """Tiles of the rounds of `batch` rows with a metric of d dimensions; never a matter of N."""
    tile = match_tile(d, double) | {"BLOCK_N": 256, "BLOCK_L": 128, "num_stages": 1}
    tile["BLOCK_SUM"] = 32 if d <= 128 and not double else 16
    if double or d > 128:
        # without a figure ptxas stops at 168 on sm_80, and spills
        return tile | {"maxnreg": 255}
    tile |= {"BLOCK_SRC": 64, "num_stages": 3 if on_hopper() and d <= 64 else 2}
    if batch < FEW_ROWS:
        return tile
    # so that four (three) programs fit on a multiprocessor: they wait for memory most of the time
    few, more = (128, 168) if on_hopper() else (136, 255)
    return tile | {"BLOCK_SUM": 16, "maxnreg": few if d <= 64 else more}
