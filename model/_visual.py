"""What a batch's pixels are: clips of videos and tiles of images, checked before any work."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hico.ops import _check

MODALITIES = ("video", "image", "text")
SIDE = 8  # of the square in which the tokens of a tile are laid out


class Entry(NamedTuple):
    """One video or image.

    Attributes:
        frames: [B, T, 3, S, S], clips of a video or tiles of an image (T = 1).
        grid: (rows, columns) of an image's tiles behind its first, None for a video or one tile.
    """

    frames: Tensor
    grid: tuple[int, int] | None


def entries(
    pixels: Any,
    clip: int,
    size: int,
    modalities: Sequence[str] | None = None,
    grids: Sequence[Any] | None = None,
) -> list[Entry]:
    """The videos and images of a batch, in their order.

    Args:
        pixels: floating [T, 3, S, S] each, a list or one tensor, also [B, T, 3, S, S]; [3, S, S]
            or T = 1 is an image.
        clip: frames of a clip.
        size: S.
        modalities: "video", "image" (frames are tiles) or "text" (left out) for each.
        grids: (rows, columns) of the tiles behind the first for each, None for a video.

    Raises:
        ValueError: other shapes or counts.
    """
    if isinstance(pixels, Tensor):
        pixels = pixels.unbind(0) if pixels.ndim == 5 else [pixels]
    for name, given in (("modalities", modalities), ("image_grids", grids)):
        if given is not None and len(given) != len(pixels):
            raise ValueError(
                f"{name}: expected one for each of {len(pixels)} videos or images, got {len(given)}"
            )
    found = []
    for i, frames in enumerate(pixels):
        frames = _checked(frames, size)
        grid = grids[i] if grids is not None else None
        still = len(frames) == 1 or grid is not None
        kind = modalities[i] if modalities is not None else "image" if still else "video"
        _check.one_of("modalities", kind, MODALITIES)
        if kind == "video":
            found.append(Entry(_clips(frames, clip), None))
        elif kind == "image":
            found.append(Entry(frames[:, None], _grid(len(frames), grid)))
    return found


def image_features(tokens: Tensor, grid: tuple[int, int] | None, flat: bool = False) -> Tensor:
    """[n, 64, D] of an image's tiles -> [n * 64, D]: the first, then the others as one mosaic.

    Each tile is an 8 x 8 square, and the mosaic of rows x columns tiles is read row by row,
    as published; flat = tile by tile.
    """
    if grid is None or flat:
        return tokens.flatten(0, 1)
    mosaic = tokens[1:].unflatten(1, (SIDE, SIDE)).unflatten(0, grid)
    return torch.cat([tokens[0], mosaic.transpose(1, 2).flatten(0, 3)])


def _checked(frames: Any, size: int) -> Tensor:
    frames = frames[None] if isinstance(frames, Tensor) and frames.ndim == 3 else frames
    wanted = f"pixel_values_videos: expected floating [T, 3, {size}, {size}] each"
    if not isinstance(frames, Tensor):
        raise ValueError(f"{wanted}, got {type(frames).__name__}")
    if not frames.is_floating_point() or frames.ndim != 4 or frames.shape[1:] != (3, size, size):
        raise ValueError(f"{wanted}, got {frames.dtype} {list(frames.shape)}")
    return frames


def _clips(frames: Tensor, clip: int) -> Tensor:
    if not len(frames) or len(frames) % clip:
        raise ValueError(
            f"pixel_values_videos: expected a multiple of {clip} frames, the length of a clip, "
            f"got {len(frames)}"
        )
    return frames.unflatten(0, (-1, clip))


def _grid(count: int, given: Any) -> tuple[int, int] | None:
    if count == 1:
        return None
    grid = (1, 1) if given is None and count == 2 else given
    if grid is None or grid[0] * grid[1] + 1 != count:
        raise ValueError(
            f"image_grids: expected (rows, columns) of the {count - 1} tiles behind the first, "
            f"got {grid}"
        )
    return grid[0], grid[1]
