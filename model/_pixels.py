"""From uint8 pixels to what the encoder was trained on."""

from typing import Any

import torch
from torch import Tensor

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def normalize(frames: Tensor, device: Any = None) -> Tensor:
    """(x / 255 - mean) / std of each colour: uint8 [..., H, W, 3] -> float32 [..., 3, H, W].

    The bytes travel to the device, not the floats.

    Raises:
        ValueError: another shape or dtype.

    Source: the published VideoChat-Flash (arXiv 2501.00574); the figures are ImageNet's.

    >>> import torch
    >>> from hico.model._pixels import normalize
    >>> normalize(torch.full((1, 1, 3), 255, dtype=torch.uint8)).flatten()
    tensor([2.2489, 2.4286, 2.6400])
    """
    if frames.ndim < 3 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            f"frames: expected uint8 [..., H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )
    if frames.device.type == "cpu" and torch.device(device or "cpu").type == "cuda":
        frames = frames.pin_memory()
    frames = frames.to(device, non_blocking=frames.is_pinned() if device else False)
    return standardize(frames, *statistics(frames.device))


def statistics(device: Any) -> tuple[Tensor, Tensor]:
    """Means and deviations of the three colours, float32 [3] each."""
    return torch.tensor(MEAN, device=device), torch.tensor(STD, device=device)


def standardize(frames: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """What `normalize` makes of frames that are where they should be; a CUDA graph may hold it."""
    return ((frames.float() / 255 - mean) / std).movedim(-1, -3)
