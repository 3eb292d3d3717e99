"""Which frames of a video to look at."""

import numpy as np
import torch

MODES = ("dynamic_fps1", "each_second", "middle")


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
    places = _middles(frames, chosen)
    # the middle of a frame's share of the time is safe from the rounding of time stamps
    moments = (places + 0.5) * (duration / frames)
    found = np.searchsorted(np.asarray(seconds, np.float64), moments, side="right") - 1
    out = np.append(found, np.full(count - chosen, frames - 1))
    return torch.from_numpy(out.clip(0, frames - 1).astype(np.int64))


def frame_indices(
    frames: int,
    fps: float,
    min_frames: int = 64,
    max_frames: int = 512,
    local: int = 8,
    mode: str = "dynamic_fps1",
) -> torch.Tensor:
    """floor((e_i + e_{i+1} - 1) / 2) for n + 1 edges e = trunc(linspace(0, frames, n + 1)).

    "dynamic_fps1" is the published rule, about one frame a second in whole clips of `local`:
    n = min(local * max(1, floor(frames / fps / local)), max_frames), but never below min_frames,
    where that is in turn at most floor(frames / local) * local. "middle" takes n = max_frames.
    Where there are fewer than n frames, the last one is repeated. "each_second" takes
    floor((i + 1/2) fps) for every whole second i, so that clips do not drift against the video, and
    the last again until the last clip is whole; of fewer seconds than min_frames, or of more than
    max_frames, what "dynamic_fps1" takes.

    Args:
        frames: of the video, or of the clip of it.
        fps: frames a second.
        min_frames, max_frames: as above; the minimum wins. max_frames <= 0 is no limit.
        local: frames of a clip: 8 in the released models' inference, 4 in training.
        mode: "dynamic_fps1", "each_second" or "middle".

    Returns:
        int64 [n], ascending.

    Raises:
        ValueError: no frames, fps or `local` not positive, "middle" without a maximum, or an
            unknown mode.

    Source: the released models' sampling; their tests' values are golden here.

    >>> frame_indices(3000, 30.0)[:4], len(frame_indices(3000, 30.0))
    (tensor([ 15,  46,  77, 108]), 96)
    >>> frame_indices(5, 30.0)
    tensor([0, 1, 2, 3, 4, 4, 4, 4])
    >>> frame_indices(170, 30.0, min_frames=4, local=4, mode="each_second")
    tensor([ 15,  45,  75, 105, 135, 135, 135, 135])
    >>> frame_indices(100, 30.0, max_frames=4, mode="middle")
    tensor([12, 37, 62, 87])
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    if not 0 < fps < float("inf"):
        raise ValueError(f"fps: expected a positive number, got {fps}")
    if local < 1:
        raise ValueError(f"local: expected at least 1, got {local}")
    seconds = max(1, int(frames / fps))
    whole = -(-seconds // local) * local
    if mode == "each_second" and min_frames <= seconds and not 0 < max_frames < whole:
        found = np.floor((np.arange(seconds) + 0.5) * fps).astype(np.int64).clip(0, frames - 1)
        return torch.from_numpy(np.append(found, np.full(whole - seconds, found[-1])))
    if mode in ("dynamic_fps1", "each_second"):
        count = frame_count(frames, fps, min_frames, max_frames, local)
    elif mode == "middle":
        if max_frames < 1:
            raise ValueError(f"max_frames: expected at least 1, got {max_frames}")
        count = max_frames
    else:
        raise ValueError(f"mode: expected one of {', '.join(MODES)}, got {mode!r}")
    places = _middles(frames, min(count, frames))
    return torch.from_numpy(np.append(places, np.full(count - len(places), places[-1])))


def frame_count(frames: int, fps: float, min_frames: int, max_frames: int, local: int) -> int:
    """How many frames "dynamic_fps1" takes: see `frame_indices`."""
    if min_frames > frames:
        min_frames = frames // local * local
    clips = int(frames / fps / local)
    count = local * max(1, clips)
    if max_frames > 0:
        count = min(count, max_frames)
    return max(min_frames, count)


def _middles(frames: int, count: int) -> np.ndarray:
    """The middle frame of each of `count` equal parts: int64 [count]."""
    edges = np.linspace(0, frames, count + 1).astype(np.int64)
    return (edges[:-1] + edges[1:] - 1) // 2
