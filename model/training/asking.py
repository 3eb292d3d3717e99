"""Which rows rank the visual tokens when dropout is trained: those of inference."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hico.adapters._dropout_rows import answer_rows, pack


def last_rows(header: Sequence[int]) -> Callable[[Tensor, Tensor | None], Any]:
    """The last row of each prompt of a conversation: the one from which its answer begins.

    Args:
        header: ids of what a prompt ends with, `<|im_start|>assistant\\n`; its labels are
            supervised and those of other roles are not. A row without any, such as a plain
            caption, asks from the row before its first label.

    >>> import torch
    >>> from hico.model.training.asking import last_rows
    >>> labels = torch.tensor([[-100, -100, 7, 8, 5, 6]])
    >>> last_rows([7, 8])(labels, None)
    (tensor([[3]]), [1])
    """
    wanted = torch.tensor(list(header))

    def find(labels: Tensor, mask: Tensor | None) -> tuple[Tensor, list[int]]:
        asks = torch.zeros_like(labels, dtype=torch.bool)
        if labels.shape[1] >= len(wanted):
            windows = labels.unfold(1, len(wanted), 1)
            asks[:, len(wanted) - 1 :] = (windows == wanted.to(labels.device)).all(-1)
        if mask is not None:
            asks &= mask
        sizes = asks.sum(1).tolist()
        if all(sizes):
            return pack(asks, sizes, left=False), sizes
        others, counts = answer_rows(labels, mask)
        for b, size in enumerate(sizes):
            if not size and counts[b]:
                asks[b, others[b, 0]], sizes[b] = True, 1
        return pack(asks, sizes, left=False), sizes

    return find
