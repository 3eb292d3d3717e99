"""keep_tokens: the best tokens of every row, gathered, and where each token went."""

from typing import NamedTuple

from torch import Tensor

from hico.ops import _check
from hico.ops.compact import compact, inverse
from hico.ops.select import choose
from hico.token_map import TokenMap


class KeepResult(NamedTuple):
    """What keep_tokens returns: tokens [B, k, C], index [B, k] and the TokenMap."""

    tokens: Tensor
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody wants here
    map: TokenMap


def keep_tokens(
    x: Tensor,
    score: Tensor,
    k: int | Tensor | None = None,
    *,
    ratio: float | None = None,
    threshold: float | Tensor | None = None,
    protect: Tensor | None = None,
    lengths: Tensor | None = None,
    order: str = "position",
) -> KeepResult:
    """tokens[b, j] = x[b, index[b, j]], index = select(score, k): the k best tokens, in order.

    select and compact in one call, with select's exactness and compact's copies. Differentiable in
    x, not through the choice.

    Args:
        x: [B, N, C] float16, bfloat16, float32 or float64.
        score: [B, N].
        k, ratio, threshold, protect, lengths, order: as in select.

    Returns:
        KeepResult(tokens, index, map). Dropped tokens have assign -1; the anchors are the index,
        and slots that a row leaves empty are zeros at its end, anchor -1. A k of each row and a
        threshold give N slots.

    Raises:
        ValueError: a wrong shape or dtype, or what select raises.

    Source: the retention of FastV (arXiv 2403.06764, section 4), as select then gather.

    >>> import torch, hico
    >>> x, score = torch.tensor([[[1.0], [2.0], [3.0]]]), torch.tensor([[0.3, 0.1, 0.2]])
    >>> kept = hico.keep_tokens(x, score, 2)
    >>> kept.index, kept.map.assign
    (tensor([[0, 2]]), tensor([[ 0, -1,  1]]))
    """
    _check.tokens("x", x)
    _check.scores("score", score)
    _check.shape("score", score, *x.shape[:2])
    index, _ = choose(score, k, ratio, threshold, protect, lengths, order)
    (tokens,) = compact(index, x, dims=1)
    return KeepResult(tokens, index, TokenMap(inverse(index, x.shape[1]), index))
