"""Where each token went: the one value that every compression returns."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from hico.ops import segment


@dataclass(frozen=True, repr=False, eq=False)
class TokenMap:
    """Token n of row b is in slot assign[b, n] (-1: dropped); slot m stands at token anchor[b, m].

    Many tokens may share a slot (merging) or none may come along (retention). The map is two int64
    tensors and nothing else, so it can be saved, compared, moved, compiled, exported and composed.

    Attributes:
        assign: [B, N] int64, the slot of every input token, -1 if it was dropped.
        anchor: [B, M] int64, the input token that stands for every slot, a member of the slot.
            Short rows of a ragged batch end in empty slots: anchor -1, no members.

    The constructor checks shapes and dtypes only; `check()` looks at the values.

    >>> import torch
    >>> m = TokenMap(torch.tensor([[0, 0, 1, -1]]), torch.tensor([[1, 2]]))
    >>> m
    TokenMap(4 -> 2 tokens, batch 1, cpu)
    >>> m.apply(torch.tensor([[[1.0], [3.0], [5.0], [7.0]]]))
    tensor([[[2.],
             [5.]]])
    """

    assign: Tensor
    anchor: Tensor

    def __post_init__(self) -> None:
        for name, t in (("assign", self.assign), ("anchor", self.anchor)):
            if not isinstance(t, Tensor):
                continue  # torch's tree functions put placeholders into the fields
            if t.ndim != 2 or t.dtype != torch.int64:
                raise ValueError(
                    f"{name}: expected [B, tokens] int64, got {list(t.shape)} {t.dtype}"
                )
        if isinstance(self.assign, Tensor) and isinstance(self.anchor, Tensor):
            if self.assign.shape[0] != self.anchor.shape[0]:
                raise ValueError(
                    "assign and anchor: expected the same number of rows, "
                    f"got {self.assign.shape[0]} and {self.anchor.shape[0]}"
                )

    @property
    def num_inputs(self) -> int:
        """N, the tokens before."""
        return self.assign.shape[1]

    @property
    def num_slots(self) -> int:
        """M, the tokens after (empty slots included)."""
        return self.anchor.shape[1]

    @property
    def size(self) -> Tensor:
        """Members of every slot, [B, M] int32; 0 for an empty slot."""
        batch, slots = self.anchor.shape
        kept = self.assign >= 0
        out = torch.zeros(batch, slots, dtype=torch.int32, device=self.assign.device)
        return out.scatter_add(1, self.assign.clamp(min=0), kept.to(torch.int32)) if slots else out

    def apply(
        self,
        x: Tensor,
        *,
        size: Tensor | None = None,
        weights: Tensor | None = None,
        reduce: str = "mean",
    ) -> Tensor:
        """out[b, m] = sum_n w[b, n] x[b, n] / sum_n w[b, n] over the members n of slot m.

        Args:
            x: [B, N, C] floating.
            size: [B, N] tokens that each input token already stands for: the weights of a mean of
                means.
            weights: [B, N] any weights, differentiable; give one of the two or none (w = 1).
            reduce: "mean", or "sum" for the sum without the divisor.

        Returns:
            [B, M, C] in x's dtype, accumulated in fp32 (float64 for float64), deterministic; empty
            slots are 0.

        Raises:
            ValueError: shapes that do not fit the map, both `size` and `weights`, another `reduce`.
        """
        if size is not None and weights is not None:
            raise ValueError("apply: expected `size` or `weights`, got both")
        if reduce not in ("mean", "sum"):
            raise ValueError(f"reduce: expected 'mean' or 'sum', got {reduce!r}")
        weights = size if weights is None else weights
        return segment.segment_reduce(x, self, weights, mean=reduce == "mean")[0]

    def unmerge(self, y: Tensor) -> Tensor:
        """out[b, n] = y[b, assign[b, n]], zeros where dropped: [B, M, C] -> [B, N, C]."""
        return segment.unmerge(y, self)

    def compose(self, then: TokenMap) -> TokenMap:
        """The map of this compression followed by `then`: two gathers.

        Raises:
            ValueError: `then` does not start from this map's slots.
        """
        if then.num_inputs != self.num_slots or then.assign.shape[0] != self.assign.shape[0]:
            raise ValueError(
                f"compose: expected a map from [{self.assign.shape[0]}, {self.num_slots}] tokens, "
                f"got one from {list(then.assign.shape)}"
            )
        return TokenMap(_follow(then.assign, self.assign), _follow(self.anchor, then.anchor))

    def positions(self, pos: Tensor) -> Tensor:
        """out[..., b, m] = pos[..., b, anchor[b, m]]: the anchors' positions; 0 for empty slots.

        Args:
            pos: [B, N], or [3, B, N] for mRoPE, or [N] shared by all rows; any dtype.

        Returns:
            [B, M] (or [3, B, M]); ascending where pos is ascending and the map's order is
            "position".
        """
        batch, n = self.assign.shape
        if pos.ndim < 1 or pos.shape[-1] != n or pos.shape[-2:-1] not in ((), (1,), (batch,)):
            raise ValueError(f"pos: expected [..., {batch}, {n}] or [{n}], got {list(pos.shape)}")
        shape = (*pos.shape[:-2], *self.anchor.shape)
        out = pos.expand(*pos.shape[:-2], *self.assign.shape)
        out = out.gather(-1, self.anchor.clamp(min=0).expand(shape)) if shape[-1] else out[..., :0]
        return out.masked_fill(self.anchor < 0, 0)

    def to(self, device: torch.device | str) -> TokenMap:
        """The same map on another device."""
        return TokenMap(self.assign.to(device), self.anchor.to(device))

    def check(self) -> TokenMap:
        """Checks every value and returns the map; waits for the device.

        Raises:
            ValueError: an index out of range, an anchor outside its slot, members in an empty slot,
                or
                an empty slot before a full one.
        """
        n, m = self.num_inputs, self.num_slots
        _expect(self.assign, -1, m, "assign")
        _expect(self.anchor, -1, n, "anchor")
        empty = self.anchor < 0
        slots = torch.arange(m, device=self.anchor.device)
        home = self.assign.gather(1, self.anchor.clamp(min=0)) if n else self.anchor
        if bool(((home != slots) & ~empty).any()):
            raise ValueError("anchor: expected every anchor to be a member of its slot")
        if bool(((self.size > 0) & empty).any()):
            raise ValueError("assign: expected no members in a slot whose anchor is -1")
        if bool((empty[:, :-1] & ~empty[:, 1:]).any()):
            raise ValueError("anchor: expected empty slots (-1) only after the full ones")
        return self

    def __repr__(self) -> str:
        if not (isinstance(self.assign, Tensor) and isinstance(self.anchor, Tensor)):
            return f"TokenMap({self.assign!r}, {self.anchor!r})"
        batch, n = self.assign.shape
        return f"TokenMap({n} -> {self.num_slots} tokens, batch {batch}, {self.assign.device})"


def _follow(table: Tensor, index: Tensor) -> Tensor:
    """table[b, index[b, i]], -1 where the index is -1."""
    if table.shape[1] == 0:
        return torch.full_like(index, -1)
    return torch.where(index < 0, -1, table.gather(1, index.clamp(min=0)))


def _expect(t: Tensor, low: int, high: int, name: str) -> None:
    if t.numel() and not (low <= int(t.min()) and int(t.max()) < high):
        raise ValueError(
            f"{name}: expected {low} <= index < {high}, got {int(t.min())}..{int(t.max())}"
        )


pytree.register_dataclass(TokenMap, serialized_type_name="hico.TokenMap")
