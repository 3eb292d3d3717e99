"""Rows picked from the token dimension of any tensor, written out with gather."""

import torch
from torch import Tensor

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def take_rows(x: Tensor, index: Tensor, batch_dim: int, token_dim: int) -> Tensor:
    """x with its N tokens replaced by the k that index [B, k] names; zeros where it names none.

    batch_dim comes before token_dim; an index outside 0..N-1 names no token.
    """
    n, k = x.shape[token_dim], index.shape[1]
    shape = [1] * x.ndim
    shape[batch_dim], shape[token_dim] = index.shape
    full = [*x.shape[:token_dim], k, *x.shape[token_dim + 1 :]]
    if n == 0:
        return x.new_zeros(full)
    there = (index >= 0) & (index < n)
    place = torch.where(there, index, 0).to(torch.int64).view(shape).expand(full)
    # as integers: floats may lose a NaN's payload on the way
    out = x.view(INTEGERS[x.element_size()]).gather(token_dim, place)
    return out.masked_fill(~there.view(shape), 0).view(x.dtype)


def inverse(index: Tensor, n: int) -> Tensor:
    """[B, N] int64: the place in index [B, k] that names each token, -1 where none does."""
    batch, k = index.shape
    place = torch.arange(k, device=index.device).expand(batch, k)
    # a spare token takes what names none
    token = torch.where((index < 0) | (index >= n), n, index).to(torch.int64)
    out = torch.full((batch, n + 1), -1, dtype=torch.int64, device=index.device)
    return out.scatter(1, token, place)[:, :n].contiguous()
