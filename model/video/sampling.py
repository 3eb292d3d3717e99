"""Which frames of a video to look at."""

import numpy as np
import torch


def sample_indices(seconds: torch.Tensor, duration: float, count: int) -> torch.Tensor:
    """Choose `count` frames spread evenly over the duration, near the middle of equal parts.

    With a constant frame rate these are the published indices: floor((e_i + e_{i+1} - 1) / 2) for
    the edges e = trunc(linspace(0, frames, count + 1)). With a variable one the same moments are
    looked up in `seconds`, so that the choice is even in time and not in frame numbers: a frame
    that stays on screen for long may be chosen several times.

    Args:
        seconds: float [frames], when each frame appears, ascending from 0.
        duration: seconds until the last frame disappears.
        count: how many; where there are fewer frames, the last one is repeated at the end.

    Returns:
        int64 [count], ascending.

    Raises:
        ValueError: no frames, or `count` below 1.

    >>> sample_indices(torch.arange(8) / 25, 8 / 25, 4)
    tensor([0, 2, 4, 6])
    >>> sample_indices(torch.tensor([0.0, 0.1, 0.2, 3.0]), 4.0, 4)
    tensor([2, 2, 2, 3])
    """
    frames = len(seconds)
    if frames < 1:
        raise ValueError("seconds: expected at least one frame, got none")
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    chosen = min(count, frames)
    edges = np.linspace(0, frames, chosen + 1).astype(np.int64)
    places = (edges[:-1] + edges[1:] - 1) // 2
    # the middle of a frame's share of the time is safe from the rounding of time stamps
    moments = (places + 0.5) * (duration / frames)
    found = np.searchsorted(np.asarray(seconds, np.float64), moments, side="right") - 1
    out = np.append(found, np.full(count - chosen, frames - 1))
    return torch.from_numpy(out.clip(0, frames - 1).astype(np.int64))
