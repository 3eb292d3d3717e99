"""Any-resolution tiles against the published rule, written out, and Pillow's pixels."""

import doctest

import numpy as np
import pytest
import torch

from hico.model.vision import image_tiles, square_image, tile_grid, tiles


def published_grid(height, width, size):
    """reference.md 1.6, word by word: (rows, columns)."""
    best, most, least = None, 0, float("inf")
    for w, h in [(i * size, j * size) for i in range(1, 7) for j in range(1, 7)]:
        scale = min(w / width, h / height)
        shown = min(int(width * scale) * int(height * scale), width * height)
        waste = w * h - shown
        if shown > most or (shown == most and waste < least):
            best, most, least = (h // size, w // size), shown, waste
    return best


@pytest.mark.parametrize("size", [224, 448])
def test_grid(size):
    sides = torch.randint(1, 3000, (300, 2)).tolist()
    sides += [[1, 1], [size, size], [size + 1, size], [1, 9000], [9000, 1], [9000, 9000]]
    for height, width in sides:
        assert tile_grid(height, width, size) == published_grid(height, width, size)


def test_known_grids():
    assert tile_grid(100, 100, 448) == (1, 1)
    assert tile_grid(448, 896, 448) == (1, 2)
    assert tile_grid(1344, 448, 448) == (3, 1)
    assert tile_grid(9000, 9000, 448) == (6, 6)
    assert tile_grid(9000, 9000, 448, max_side=2) == (2, 2)


def test_tiles_in_place():
    """An image of the grid's own size is cut, not resized; the whole comes first."""
    image = torch.randint(0, 256, (16, 24, 3), dtype=torch.uint8)
    out = image_tiles(image, 8)
    assert out.shape == (7, 8, 8, 3)
    for i in range(6):
        row, column = i // 3 * 8, i % 3 * 8
        assert torch.equal(out[1 + i], image[row : row + 8, column : column + 8])


def test_small_image_comes_twice():
    out = image_tiles(torch.randint(0, 256, (5, 6, 3), dtype=torch.uint8), 8)
    assert out.shape == (2, 8, 8, 3) and torch.equal(out[0], out[1])


def test_pixels_of_pillow():
    """Bicubic in fixed point: at most one step away, and seldom."""
    pillow = pytest.importorskip("PIL.Image")
    image = torch.randint(0, 256, (90, 150, 3), dtype=torch.uint8)
    rows, columns = tile_grid(90, 150, 32)
    picture = pillow.fromarray(image.numpy())
    whole = np.asarray(picture.resize((32, 32)))
    stretched = np.asarray(picture.resize((columns * 32, rows * 32)))
    grid = stretched.reshape(rows, 32, columns, 32, 3).transpose(0, 2, 1, 3, 4)
    expected = np.concatenate((whole[None], grid.reshape(-1, 32, 32, 3)))
    off = np.abs(image_tiles(image, 32).numpy().astype(int) - expected)
    assert off.max() <= 1 and off.mean() < 0.01


@pytest.mark.parametrize("height, width", [(5, 9), (9, 4), (7, 7), (1, 8)])
def test_square_in_place(height, width):
    """The image in the middle, a row more below or right of it than before if one is over."""
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    side = max(height, width)
    expected = torch.tensor([123, 116, 103], dtype=torch.uint8).repeat(side, side, 1)
    for y in range(height):
        for x in range(width):
            expected[y + (side - height) // 2, x + (side - width) // 2] = image[y, x]
    before = image.clone()
    assert torch.equal(square_image(image, side), expected) and torch.equal(image, before)


def test_square_pixels_of_pillow():
    pillow = pytest.importorskip("PIL.Image")
    image = torch.randint(0, 256, (60, 91, 3), dtype=torch.uint8)
    square = pillow.new("RGB", (91, 91), (123, 116, 103))
    square.paste(pillow.fromarray(image.numpy()), (0, 15))
    expected = np.asarray(square.resize((32, 32)))
    off = np.abs(square_image(image, 32).numpy().astype(int) - expected)
    assert off.max() <= 1 and off.mean() < 0.01


@pytest.mark.parametrize(
    "image",
    [None, torch.ones(4, 4, 3), torch.ones(4, 4, 4, dtype=torch.uint8), torch.ones(4, 3).byte()],
    ids=["none", "float", "four-channels", "gray"],
)
def test_wrong_image(image):
    for make in (image_tiles, square_image):
        with pytest.raises(ValueError, match="image: expected"):
            make(image, 8)


def test_wrong_square():
    image = torch.zeros(4, 4, 3, dtype=torch.uint8)
    for wrong, size in ((image, 0), (image, 8.0), (image[:0], 8)):
        with pytest.raises(ValueError, match="expected"):
            square_image(wrong, size)


@pytest.mark.parametrize("sizes", [(0, 5, 8), (5, 5, 0), (5, 5, 8, 0), (5.0, 5, 8)])
def test_wrong_sizes(sizes):
    with pytest.raises(ValueError, match="expected"):
        tile_grid(*sizes)


def test_docstrings():
    result = doctest.testmod(tiles)
    assert result.attempted and not result.failed
