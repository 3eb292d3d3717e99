"""Upright pixels of a chosen size, the same whichever decoder produced them."""

import numpy as np
import torch
import torch.nn.functional as F

# a, b, c, d of the display matrix
Turn = tuple[int, int, int, int]


def upright(pixels: np.ndarray, turn: Turn | None) -> np.ndarray:
    """Turn [H, W, 3] pixels the way the display matrix asks; [W, H, 3] after a quarter turn.

    Of its nine numbers (a b u, c d v, x y w) four matter: the pixel in column p and row q is shown
    in column a p + c q and row b p + d q. Only its quarter turns and mirrors are applied; any other
    angle goes to the nearest of them.
    """
    if turn is None:
        return pixels
    a, b, c, d = turn
    if abs(b) + abs(c) > abs(a) + abs(d):
        pixels, flip_columns, flip_rows = pixels.swapaxes(0, 1), c < 0, b < 0
    else:
        flip_columns, flip_rows = a < 0, d < 0
    if flip_columns:
        pixels = pixels[:, ::-1]
    if flip_rows:
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def resize_frames(frames: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize by antialiased bicubic interpolation, without keeping the aspect ratio.

    Args:
        frames: uint8 [..., H, W, 3].
        size: (height, width) in pixels.

    Returns:
        uint8 [..., height, width, 3]; the frames themselves if they have that size already.
    """
    if tuple(frames.shape[-3:-1]) == tuple(size):
        return frames
    planes = frames.reshape(-1, *frames.shape[-3:]).permute(0, 3, 1, 2)
    planes = F.interpolate(planes, size=size, mode="bicubic", antialias=True)
    return planes.permute(0, 2, 3, 1).reshape(*frames.shape[:-3], *size, 3).contiguous()
