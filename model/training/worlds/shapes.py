"""Shapes and colours that a card may show."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import torch

SIDE = 128  # pixels of a shape's cell
REACH = 1.25  # half of what a cell covers, where a shape's own half side is 1

# the lowest and the highest red, green and blue of what people call so
COLOURS = {
    "red": ((200, 20, 25), (232, 48, 52)),
    "orange": ((240, 122, 0), (255, 146, 28)),
    "yellow": ((244, 214, 15), (255, 236, 60)),
    "green": ((20, 140, 45), (58, 172, 78)),
    "cyan": ((0, 192, 212), (45, 220, 236)),
    "blue": ((25, 60, 205), (56, 98, 240)),
    "purple": ((118, 36, 158), (146, 66, 192)),
    "pink": ((248, 126, 180), (255, 162, 206)),
    "brown": ((108, 62, 28), (130, 80, 44)),
    "gray": ((124, 124, 124), (138, 138, 138)),
    "black": ((8, 8, 8), (30, 30, 30)),
    "white": ((242, 242, 242), (255, 255, 255)),
}

Field = torch.Tensor  # distances, float64 [SIDE, SIDE]


@cache
def shape_atlas(device: str = "cpu") -> torch.Tensor:
    """Distances to every shape of `SHAPES`: float32 [shapes, 128, 128], negative inside."""
    if device != "cpu":
        return shape_atlas().to(device)
    return torch.stack([draw(_grid()) for draw in SHAPES.values()]).float()


def _grid() -> torch.Tensor:
    axis = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE * 2 * REACH - REACH
    return torch.stack(torch.meshgrid(axis, -axis, indexing="xy"), -1)


def _disc(grid: torch.Tensor, x: float, y: float, radius: float) -> Field:
    return (grid - torch.tensor([x, y], dtype=grid.dtype)).norm(dim=-1) - radius


def _polygon(*points: tuple[float, float]) -> Callable[[torch.Tensor], Field]:
    """The exact distance to a polygon of any form."""
    corners = torch.tensor(points, dtype=torch.float64)

    def draw(grid: torch.Tensor) -> Field:
        here = grid.reshape(-1, 1, 2)
        edge = corners.roll(-1, 0) - corners
        offset = here - corners
        along = ((offset * edge).sum(2) / (edge * edge).sum(1)).clamp(0, 1)
        distance = (offset - edge * along[..., None]).norm(dim=2).amin(1)
        above, next_above = offset[..., 1] >= 0, (here - corners.roll(-1, 0))[..., 1] >= 0
        side = edge[:, 0] * offset[..., 1] - edge[:, 1] * offset[..., 0] > 0
        crossed = ((above & ~next_above & ~side) | (~above & next_above & side)).sum(1) % 2
        return (distance * (1 - 2 * crossed)).reshape(grid.shape[:-1])

    return draw


def _turned(radii: Sequence[float], start: float = 90) -> Callable[[torch.Tensor], Field]:
    """A polygon whose corners lie all around the middle, at these distances."""
    angles = [math.radians(start + 360 * i / len(radii)) for i in range(len(radii))]
    pairs = zip(angles, radii, strict=True)
    return _polygon(*((math.cos(angle) * r, math.sin(angle) * r) for angle, r in pairs))


def _heart(grid: torch.Tensor) -> Field:
    turns = [2 * math.pi * i / 120 for i in range(120)]
    return _polygon(
        *(
            (
                math.sin(t) ** 3,
                (13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
                / 16
                + 0.12,
            )
            for t in turns
        )
    )(grid)


def _drop(grid: torch.Tensor) -> Field:
    turns = [2 * math.pi * i / 120 for i in range(120)]
    return _polygon(*((0.72 * math.sin(t) * math.sin(t / 2) ** 1.3, math.cos(t)) for t in turns))(
        grid
    )


def _moon(grid: torch.Tensor) -> Field:
    return _disc(grid, 0.1, 0, 0.98).maximum(-_disc(grid, 0.5, 0.12, 0.8))


def _cloud(grid: torch.Tensor) -> Field:
    puffs = ((-0.56, -0.2, 0.42), (-0.15, 0.18, 0.52), (0.38, 0.05, 0.44), (0.66, -0.27, 0.35))
    body = torch.stack([_disc(grid, *puff) for puff in puffs]).amin(0)
    base = _polygon((-0.56, -0.62), (0.66, -0.62), (0.66, -0.1), (-0.56, -0.1))(grid)
    return body.minimum(base)


def _flower(grid: torch.Tensor) -> Field:
    petals = [
        _disc(grid, 0.58 * math.cos(a), 0.58 * math.sin(a), 0.4)
        for a in (math.radians(90 + 72 * i) for i in range(5))
    ]
    whole = torch.stack([*petals, _disc(grid, 0, 0, 0.45)]).amin(0)
    return whole.maximum(-_disc(grid, 0, 0, 0.2))


SHAPES: dict[str, Callable[[torch.Tensor], Field]] = {
    "circle": lambda grid: _disc(grid, 0, 0, 0.95),
    "square": _polygon((-0.84, -0.84), (0.84, -0.84), (0.84, 0.84), (-0.84, 0.84)),
    "triangle": _polygon((-1, -0.8), (1, -0.8), (0, 0.95)),
    "star": _turned([1.08, 0.43] * 5),
    "heart": _heart,
    "diamond": _polygon((0, -1.05), (0.74, 0), (0, 1.05), (-0.74, 0)),
    "cross": _polygon(
        *((0.95, 0.3), (0.3, 0.3), (0.3, 0.95), (-0.3, 0.95), (-0.3, 0.3), (-0.95, 0.3)),
        *((-0.95, -0.3), (-0.3, -0.3), (-0.3, -0.95), (0.3, -0.95), (0.3, -0.3), (0.95, -0.3)),
    ),
    "moon": _moon,
    "ring": lambda grid: (_disc(grid, 0, 0, 0.74)).abs() - 0.21,
    "arrow": _polygon(
        *((1, 0), (0.2, 0.8), (0.2, 0.32), (-1, 0.32), (-1, -0.32), (0.2, -0.32), (0.2, -0.8))
    ),
    "hexagon": _turned([1.0] * 6, 0),
    "drop": _drop,
    "flower": _flower,
    "house": _polygon(
        *((-0.72, -0.9), (0.72, -0.9), (0.72, 0.12), (1, 0.12), (0, 1), (-1, 0.12), (-0.72, 0.12))
    ),
    "cloud": _cloud,
    "bolt": _polygon(
        *((0.25, 1.05), (-0.62, -0.12), (-0.08, -0.12), (-0.3, -1.05)),
        *((0.62, 0.22), (0.06, 0.22), (0.52, 1.05)),
    ),
}
