"""compact: the kept rows of many tensors, each read once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hico.ops import _check
from hico.ops._register import register
from hico.reference import compact as reference

Dim = int | tuple[int, int]


def compact(index: Tensor, *tensors: Tensor, dims: Dim | Sequence[Dim]) -> tuple[Tensor, ...]:
    """out[..., b, ..., j, ...] = x[..., b, ..., index[b, j], ...] of every x; zeros at index -1.

    The copies are bit for bit, whatever the dtype. A tensor is read through its strides, so a view
    of a cache is not copied first, unless its innermost dimensions are not contiguous. One kernel a
    tensor. Differentiable in the floating tensors: gradients go back to the kept rows, 0 elsewhere.

    Args:
        index: [B, k] int64 or int32, as from select; -1 (or anything outside 0..N-1) gives a row of
            zeros. A row may not name a token twice if a gradient is wanted.
        tensors: any shapes, any dtypes but complex, with N tokens and B rows, or one row for all.
        dims: where the tokens are: one int for all tensors, or for each an int (dimension 0 is the
            batch) or a pair (batch, tokens), the batch before the tokens. So 1 for hidden [B, N, C]
            and positions [B, N], 2 for K and V [B, H, N, D], (1, 2) for mRoPE [3, B, N].

    Returns:
        A tuple, a contiguous tensor for each: N replaced by k, one row by B.

    Raises:
        ValueError: a wrong shape or dtype of the index, a dim that a tensor has not, a tensor whose
            batch is neither B nor 1, or not one dim for each tensor.

    Source: the index_select of every tensor in VideoChat-Flash (arXiv 2501.00574), progressive
        visual dropout.

    >>> import torch, hico
    >>> hidden, positions = torch.arange(8.0).view(1, 4, 2), torch.arange(4).view(1, 4)
    >>> hico.compact(torch.tensor([[1, 3, -1]]), hidden, positions, dims=1)
    (tensor([[[2., 3.],
             [6., 7.],
             [0., 0.]]]), tensor([[1, 3, 0]]))
    """
    if not isinstance(index, Tensor) or index.ndim != 2:
        got = list(index.shape) if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"index: expected [B, k], got {got}")
    _check.indices("index", index, *index.shape)
    pairs = _dims(dims, len(tensors))
    where = [_place(i, x, *pairs[i], len(index)) for i, x in enumerate(tensors)]
    index = index.detach().to(torch.int64)
    return tuple(
        _take_rows(_all_rows(x, b, len(index)), index, b, t)
        for x, (b, t) in zip(tensors, where, strict=True)
    )


def inverse(index: Tensor, n: int) -> Tensor:
    """[B, N] int64: where in index [B, k] each of n tokens stands, -1 where it does not."""
    return reference.inverse(index, n)


def _dims(dims: Dim | Sequence[Dim], count: int) -> list[tuple[int, int]]:
    """A (batch, tokens) pair for each tensor."""
    listed = [dims] * count if isinstance(dims, int) else dims
    if not isinstance(listed, (list, tuple)) or len(listed) != count:
        raise ValueError(
            f"dims: expected an int, or a list of {count}, one entry a tensor, got {dims!r}"
        )
    pairs = [(0, d) if isinstance(d, int) else d for d in listed]
    for pair in pairs:
        if not (isinstance(pair, tuple) and [type(d) for d in pair] == [int, int]):
            raise ValueError(f"dims: expected ints or (batch, tokens) pairs, got {pair!r}")
    return pairs


def _place(i: int, x: Tensor, batch_dim: int, token_dim: int, batch: int) -> tuple[int, int]:
    """The two dims counted from the front, after a look at the tensor."""
    if not isinstance(x, Tensor) or x.is_complex():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"tensor {i}: expected a tensor that is not complex, got {got}")
    b, t = (d + x.ndim if d < 0 else d for d in (batch_dim, token_dim))
    if not 0 <= b < t < x.ndim:
        raise ValueError(
            f"dims: expected batch < tokens < {x.ndim} dimensions of tensor {i}, "
            f"got batch {batch_dim} and tokens {token_dim}"
        )
    if x.shape[b] not in (1, batch):
        raise ValueError(
            f"tensor {i}: expected {batch} rows (or 1) in dimension {b}, got {list(x.shape)}"
        )
    return b, t


def _all_rows(x: Tensor, batch_dim: int, batch: int) -> Tensor:
    """x with one row repeated (not copied) for the whole batch."""
    if x.shape[batch_dim] == batch:
        return x
    return x.expand(*x.shape[:batch_dim], batch, *x.shape[batch_dim + 1 :])


def _launch(x: Tensor, index: Tensor, batch_dim: int, token_dim: int) -> Tensor:
    from hico.kernels import compact as kernels

    return kernels.take_rows(x, index.contiguous(), batch_dim, token_dim)


_take_rows = register("take_rows", _launch, reference.take_rows)


@_take_rows.register_fake
def _(x, index, batch_dim, token_dim):
    return x.new_empty(*x.shape[:token_dim], index.shape[1], *x.shape[token_dim + 1 :])


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, index, *ctx.dims = inputs
    ctx.tokens = x.shape[ctx.dims[1]]
    ctx.save_for_backward(index)


def _backward(ctx: Any, dout: Tensor) -> tuple:
    # the rows go back by the inverse index: a gather again, and no memory is zeroed first
    (index,) = ctx.saved_tensors
    return _take_rows(dout, inverse(index, ctx.tokens), *ctx.dims), None, None, None


_take_rows.register_autograd(_backward, setup_context=_save)
