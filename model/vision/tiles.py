"""Images as published: tiles of one in any resolution, or several padded to squares."""

import torch
from torch import Tensor

from hico.model.video.resize import resize_frames
from hico.ops import _check

MAX_SIDE = 6
# the mean of ImageNet in whole values: what is padded is about zero once normalised
BACKGROUND = (123, 116, 103)


def tile_grid(height: int, width: int, tile: int, max_side: int = MAX_SIDE) -> tuple[int, int]:
    """(rows, columns) of the grid of square tiles that shows most of an image's pixels.

    Of all grids of up to max_side tiles a side: the one in which the image, scaled to fit and never
    counted above its own size, covers most pixels; of equals the one with least left over, then the
    narrowest, then the lowest.

    Raises:
        ValueError: sizes that are no positive integers.

    Source: the published VideoChat-Flash (arXiv 2501.00574), image_aspect_ratio "anyres_nopad".

    >>> from hico.model.vision import tile_grid
    >>> tile_grid(448, 896, tile=448), tile_grid(100, 100, tile=448)
    ((1, 2), (1, 1))
    """
    sizes = {"height": height, "width": width, "tile": tile, "max_side": max_side}
    for name, value in sizes.items():
        _check.integer(name, value, 1, 1 << 31)
    best, grid = (-1, 0), (1, 1)
    for columns in range(1, max_side + 1):
        for rows in range(1, max_side + 1):
            # divisions in floating point, cut to integers: what the published rule rounds
            scale = min(columns * tile / width, rows * tile / height)
            shown = min(int(width * scale) * int(height * scale), width * height)
            rank = (shown, shown - columns * rows * tile**2)
            if rank > best:
                best, grid = rank, (rows, columns)
    return grid


def image_tiles(image: Tensor, tile: int, max_side: int = MAX_SIDE) -> Tensor:
    """The image in one tile, then cut row by row from the image stretched over tile_grid.

    A small image gives two equal tiles, as published. Resizing keeps no aspect ratio.

    Args:
        image: uint8 [H, W, 3].
        tile: pixels of a side, the encoder's image_size.
        max_side: most tiles a side.

    Returns:
        uint8 [1 + rows * columns, tile, tile, 3].

    Raises:
        ValueError: another shape or dtype, or sizes as in tile_grid.

    >>> import torch
    >>> from hico.model.vision import image_tiles
    >>> image_tiles(torch.zeros(448, 896, 3, dtype=torch.uint8), tile=448).shape
    torch.Size([3, 448, 448, 3])
    """
    height, width = _size(image)
    rows, columns = tile_grid(height, width, tile, max_side)
    stretched = resize_frames(image, (rows * tile, columns * tile))
    tiles = stretched.view(rows, tile, columns, tile, 3).transpose(1, 2).flatten(0, 1)
    return torch.cat((resize_frames(image, (tile, tile))[None], tiles))


def square_image(image: Tensor, size: int) -> Tensor:
    """The image in the middle of a square of (123, 116, 103), resized: several images of a sample.

    Args:
        image: uint8 [H, W, 3].
        size: pixels of a side, the encoder's image_size.

    Returns:
        uint8 [size, size, 3].

    Raises:
        ValueError: another shape or dtype, or a size that is no positive integer.

    Source: the published VideoChat-Flash (arXiv 2501.00574), several images in one sample.

    >>> import torch
    >>> from hico.model.vision import square_image
    >>> square_image(torch.zeros(1, 3, 3, dtype=torch.uint8), 3)[:, 0].tolist()
    [[123, 116, 103], [0, 0, 0], [123, 116, 103]]
    """
    height, width = _size(image)
    _check.integer("size", size, 1, 1 << 31)
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = image.new_tensor(BACKGROUND).expand(side, side, 3).clone()
    square[top : top + height, left : left + width] = image
    return resize_frames(square, (size, size))


def _size(image: Tensor) -> tuple[int, int]:
    if not isinstance(image, Tensor) or image.ndim != 3 or image.dtype != torch.uint8:
        got = f"{image.dtype} {list(image.shape)}" if isinstance(image, Tensor) else type(image)
        raise ValueError(f"image: expected uint8 [H, W, 3], got {got}")
    height, width = image.shape[:2]
    _check.integer("height", height, 1, 1 << 31)
    _check.integer("width", width, 1, 1 << 31)
    _check.shape("image", image, height, width, 3)
    return height, width
