"""How the tokens of a clip become fewer: by similarity, by averaging, or by looking at less."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hico.ops import _check
from hico.ops.merge import merge_tokens

MODES = ("similarity", "mean", "frames", "none")


def clip_tokens(
    tokens: Tensor, metric: Tensor, mode: str, count: int = 64, num_frames: int = 4
) -> Tensor:
    """[B, N, C] -> [B, count, C] for "similarity" and "mean", [B, N, C] for "frames" and "none".

    "similarity": hico.merge_tokens in published order. "mean": average pooling in space-time: the
    mean over a clip's frames, then adaptive average pooling of the rows and columns to a square;
    of 14 x 14 patches and 64 tokens, cell (i, j) is the mean of rows floor(14 i / 8) to
    ceil(14 (i + 1) / 8) - 1 and of the same columns, in all four frames. "frames" and "none" leave
    every token of what the encoder has seen; for "frames" the encoder sees `kept_frames` alone.

    Args:
        tokens: [B, N, C], floating, in the order time, row, column.
        metric: [B, N, D], what merge_tokens compares.
        mode: one of MODES.
        count: tokens that stay of a row; for "mean" a square number.
        num_frames: of a clip.

    Raises:
        ValueError: an unknown mode, fewer than `count` tokens, or for "mean" no square frames.

    Source: hico's own merge, and the ways that VideoChat-Flash (arXiv 2501.00574) compares it to.

    >>> import torch
    >>> from hico.model.vision.clip_modes import MODES, clip_tokens
    >>> x = torch.randn(2, 784, 32)
    >>> [clip_tokens(x, x, mode).shape[1] for mode in MODES]
    [64, 64, 784, 784]
    """
    _check.one_of("mode", mode, MODES)
    _check.tokens("tokens", tokens)
    if mode in ("frames", "none"):
        return tokens
    if tokens.shape[1] < count:
        raise ValueError(f"tokens: expected at least {count} a row, got {tokens.shape[1]}")
    if mode == "similarity":
        return merge_tokens(tokens, count, metric=metric, order="reference").tokens
    return _pooled(tokens, count, num_frames)


def tokens_left(patches: int, mode: str, count: int = 64) -> int:
    """How many tokens `clip_tokens` leaves of a clip of so many patches.

    >>> from hico.model.vision.clip_modes import tokens_left
    >>> tokens_left(784, "mean"), tokens_left(784, "none")
    (64, 784)
    """
    _check.one_of("mode", mode, MODES)
    return patches if mode in ("frames", "none") else count


def kept_frames(
    frames: int, mode: str, patches: int, count: int = 64, num_frames: int = 4
) -> Tensor:
    """int64, ascending: the frames that the encoder sees, all of them but for "frames".

    For "frames" floor(clips * count / patches) clips of them, at least one: what their unmerged
    tokens come to is the budget of the other modes, `count` a clip, or just below it. They are
    the middles of equal parts of the video; frames that were apart then share a clip.

    Args:
        frames: of the video, a multiple of num_frames.
        patches: tokens of an unmerged clip.

    Raises:
        ValueError: an unknown mode, or frames that are no whole clips.

    >>> from hico.model.vision.clip_modes import kept_frames
    >>> kept_frames(64, "frames", patches=784)
    tensor([ 8, 24, 40, 56])
    >>> len(kept_frames(1000, "frames", patches=784)) * 784 // 4, 1000 * 64 // 4
    (15680, 16000)
    """
    _check.one_of("mode", mode, MODES)
    if frames < num_frames or frames % num_frames:
        raise ValueError(f"frames: expected a multiple of {num_frames}, got {frames}")
    if mode != "frames":
        return torch.arange(frames)
    kept = num_frames * max(1, frames // num_frames * count // patches)
    return (2 * torch.arange(kept) + 1) * frames // (2 * kept)


def _pooled(tokens: Tensor, count: int, num_frames: int) -> Tensor:
    n, side = tokens.shape[1], math.isqrt(count)
    rows = math.isqrt(n // num_frames)
    if side * side != count or num_frames * rows * rows != n:
        raise ValueError(
            f"tokens: expected {num_frames} square frames, and a square number of tokens left, "
            f"to average, got {n} tokens, to {count}"
        )
    frame = tokens.unflatten(1, (num_frames, rows, rows)).mean(1).movedim(-1, 1)
    return F.adaptive_avg_pool2d(frame, side).flatten(2).transpose(1, 2)
