"""The page of `hico view`: one HTML file that holds its frames, and needs no network."""

from __future__ import annotations

import base64
import html
import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .picture import group_colours
from .video.table import import_av

if TYPE_CHECKING:
    from .view import Seen

TEMPLATE = Path(__file__).parent / "data" / "view.html"
NO_SLOT = 65535


def html_page(seen: Seen) -> str:
    """The page as text; names and questions are data in it, never markup or code.

    Raises:
        ModuleNotFoundError: PyAV, which writes the frames as JPEG, is not installed.
    """
    batch = len(seen.frames)
    data = {
        "title": seen.title,
        "question": seen.question,
        "note": seen.note,
        "grid": seen.grid,
        "tokens": seen.map.num_slots,
        "total": seen.total,
        "patches": seen.total * seen.map.num_inputs,
        "stages": [
            {"layer": layer, "count": int(kept.sum()), "kept": _bits(kept)}
            for layer, kept in zip(seen.layers, seen.kept, strict=True)
        ],
        "clips": [_clip(seen, i) for i in range(batch)],
    }
    # no "<" reaches the HTML parser, so that no name can end the script element
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    page = TEMPLATE.read_text(encoding="utf-8")
    before, after = page.split("@DATA@")
    return before.replace("@TITLE@", html.escape(seen.title)) + text + after


def jpeg(frame: torch.Tensor, quality: int = 4) -> bytes:
    """A uint8 [H, W, 3] frame as a JPEG file; quality from 2 (best) to 31."""
    av = import_av()
    # 4:2:0 wants even sides
    height, width = (side - side % 2 or 2 for side in frame.shape[:2])
    pixels = np.ascontiguousarray(frame[:height, :width].cpu().numpy())
    if pixels.shape[:2] != (height, width):
        pixels = np.pad(pixels, ((0, height - len(pixels)), (0, width - pixels.shape[1]), (0, 0)))
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
    encoder.time_base = Fraction(1, 25)
    encoder.options = {"qmin": str(quality), "qmax": str(quality)}
    image = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p")
    packets = [*encoder.encode(image), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)


def _clip(seen: Seen, i: int) -> dict[str, Any]:
    assign = seen.map.assign[i].cpu().numpy()
    groups = assign.reshape(seen.frames.shape[1], *seen.grid)
    shades = group_colours(seen.frames[i].cpu().numpy(), groups, seen.map.num_slots)
    return {
        "index": seen.clips[i],
        "seconds": [round(float(s), 3) for s in seen.seconds[i]],
        "frames": [_text(jpeg(frame)) for frame in seen.frames[i]],
        "slots": _text(np.where(assign < 0, NO_SLOT, assign).astype("<u2").tobytes()),
        "colours": (shades.reshape(-1) * 255).round().astype(int).tolist(),
    }


def _bits(kept: torch.Tensor) -> str:
    """A bit for each token of each clip, the lowest bit of a byte first."""
    bits = np.packbits(kept.reshape(-1).cpu().numpy(), bitorder="little")
    return _text(bits.tobytes())


def _text(raw: bytes) -> str:
    return base64.b64encode(raw).decode("ascii")
