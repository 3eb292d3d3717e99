"""Pictures of noise to look values up in, the same on every machine."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from .hashing import mix

TILE = 256
KINDS = "rough", "smooth", "cloudy", "grain", "cells", "soft"


def noise_bank(device: str = "cpu", size: int = TILE) -> torch.Tensor:
    """One tile a kind of `KINDS`: float32 [6, side, side], between -1 and 1, without seams.

    Args:
        device: where it is to lie.
        size: pixels of the pictures that it is for: a side is 256, or 64 for small ones.
    """
    return _bank(device, 4 if size < TILE // 2 else 1)


@cache
def _bank(device: str, smaller: int) -> torch.Tensor:
    if smaller > 1:
        return F.avg_pool2d(_bank("cpu", 1), smaller).to(device)
    if device != "cpu":
        return _bank("cpu", 1).to(device)
    tiles = [_filtered(1, 0.8), _filtered(2, 1.35), _filtered(3, 1.9), _filtered(4, 0.9, 6.0)]
    tiles += [_cells(), _filtered(5, 2.6)]
    # steps of 1/127 hide what Fourier transforms of two libraries differ by
    whole = np.stack([np.round(tile.clip(-1, 1) * 127) for tile in tiles])
    return torch.from_numpy((whole / 127).astype(np.float32))


@cache
def white_tile(device: str = "cpu") -> torch.Tensor:
    """Noise without any order, bell-shaped, deviation 1: float32 [256, 256]."""
    bits = mix(np.arange(TILE * TILE)[:, None], np.arange(6)) >> np.uint64(40)
    bell = (bits.astype(np.float64) / 2**24 - 0.5).sum(1) * 2**0.5
    return torch.from_numpy(bell.reshape(TILE, TILE).astype(np.float32)).to(device)


def look_up(tiles: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Values of tiles at places, mirrored outside: float32 [B, C, H, W].

    Args:
        tiles: float32 [B, C, h, w].
        x, y: float32 [B, H, W], -1 and 1 at the tile's edges.
    """
    places = torch.stack(torch.broadcast_tensors(x, y), -1)
    return F.grid_sample(tiles, places, "bilinear", "reflection", align_corners=False)


def _filtered(seed: int, power: float, stretch: float = 1.0) -> np.ndarray:
    """Noise whose amplitude falls with frequency to the power, streaked if stretched."""
    bits = mix(seed, np.arange(TILE * TILE)) >> np.uint64(11)
    white = (bits.astype(np.float64) * 2.0**-53 - 0.5).reshape(TILE, TILE)
    frequency = np.fft.fftfreq(TILE, 1 / TILE)
    far = np.hypot(frequency[:, None], frequency[None] * stretch)
    far[0, 0] = np.inf
    tile = np.fft.ifft2(np.fft.fft2(white) / far**power).real
    return (tile - tile.mean()) / tile.std() / 2.5


def _cells(count: int = 220) -> np.ndarray:
    """Pebbles: how much nearer the nearest of many points is than the second."""
    points = (mix(6, np.arange(count)[:, None], np.arange(2)) % np.uint64(TILE)).astype(np.float64)
    grid = np.arange(TILE, dtype=np.float64)
    nearest, second = np.full((2, TILE, TILE), np.inf)
    for x, y in points:
        dx, dy = (np.minimum(np.abs(grid - at), TILE - np.abs(grid - at)) for at in (x, y))
        far = np.hypot(dy[:, None], dx[None])
        second = np.minimum(second, np.maximum(far, nearest))
        nearest = np.minimum(nearest, far)
    return (second - nearest) / 8 - 1
