"""A look at cards: many on one sheet, as a PNG file."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

from .cards import Card, Style, render_cards
from .fonts import FontSet

GAP = 4  # pixels between pictures


def sheet(
    cards: Sequence[Card],
    styles: Sequence[Style],
    size: int = 224,
    columns: int = 8,
    fonts: FontSet | None = None,
) -> torch.Tensor:
    """Every card once, side by side: uint8 [height, width, 3].

    Args:
        cards, styles, size, fonts: see `render_cards`.
        columns: pictures in a row.

    Raises:
        ValueError: no card, columns below 1, or as `render_cards`.

    Example:
        >>> card, style = Card("star", "red", "47", "lemon"), Style("plain", "stack", "lined", 1)
        >>> sheet([card] * 3, [style] * 3, size=32, columns=2).shape
        torch.Size([68, 68, 3])
    """
    return tile(render_cards(cards, styles, size, 1, motion=False, fonts=fonts)[:, 0], columns)


def tile(frames: torch.Tensor, columns: int = 8) -> torch.Tensor:
    """Frames side by side with gaps: uint8 [height, width, 3] of uint8 [n, S, S, 3].

    Raises:
        ValueError: no frame, or columns below 1.
    """
    count, high, wide = frames.shape[:3]
    if count < 1 or columns < 1:
        raise ValueError(f"sheet: expected at least 1 picture and column, got {count}, {columns}")
    columns = min(columns, count)
    rows = -(-count // columns)
    room = torch.full((rows * columns, high + GAP, wide + GAP, 3), 128, dtype=torch.uint8)
    room[:count, :high, :wide] = frames.cpu()
    page = room.reshape(rows, columns, high + GAP, wide + GAP, 3).transpose(1, 2)
    return page.reshape(rows * (high + GAP), columns * (wide + GAP), 3)[:-GAP, :-GAP].contiguous()


def write_png(image: torch.Tensor, path: str | os.PathLike[str]) -> None:
    """Write a picture as PNG, whole or not at all.

    Args:
        image: uint8 [height, width, 3].
        path: replaced if it exists.

    Raises:
        ValueError: another shape or type.
        OSError: it cannot be written.
    """
    if image.dtype != torch.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    height, width = image.shape[:2]
    rows = torch.zeros(height, 1 + 3 * width, dtype=torch.uint8)
    rows[:, 1:] = image.cpu().reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(rows.numpy().tobytes(), 6)
    target = Path(path)
    part = target.with_name(f".{target.name}.part")
    chunks = [_chunk(b"IHDR", header), _chunk(b"IDAT", data), _chunk(b"IEND", b"")]
    try:
        part.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check
