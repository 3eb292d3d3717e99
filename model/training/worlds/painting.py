"""Paints what was planned: plain arithmetic on whole frames, so that every device paints alike."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F

from .fonts import CELL, GLYPHS, PITCH, FontSet
from .noise import TILE, look_up, noise_bank, white_tile
from .shapes import REACH, SHAPES, SIDE, shape_atlas

Numbers = dict[str, torch.Tensor]  # of B frames each
CPU_PIXELS, GPU_PIXELS = 2**19, 2**25  # at a time: what a CPU's caches hold, what fills a GPU


class Pictures(NamedTuple):
    """What painting looks values up in, on one device.

    Attributes:
        noise: float32 [6, side, side], of `noise_bank`; grain: [256, 256], of `white_tile`.
        shapes: float32 [shapes * 128, 128]; glyphs: [fonts * 52, glyphs * 60]: distances.
    """

    noise: torch.Tensor
    grain: torch.Tensor
    shapes: torch.Tensor
    glyphs: torch.Tensor


def pictures(size: int, device: torch.device, fonts: FontSet) -> Pictures:
    """Those for frames of a size; moved to the device once."""
    name = str(device)
    shapes = shape_atlas(name).reshape(-1, SIDE)
    return Pictures(noise_bank(name, size), white_tile(name), shapes, fonts.on(device))


def paint_cards(p: Numbers, behind: torch.Tensor, seen: Pictures) -> torch.Tensor:
    """Cards over what is behind them: float32 [B, 3, S, S] of 0 to 1, without noise and blur.

    Args:
        p: numbers of `plan`, [B, ...] on the device.
        behind: float32 [B, 3, S, S]; overwritten.
        seen: with the fonts that the plan was made with.
    """
    size = behind.shape[-1]
    u, v = places(p["view"], size)
    pixel = 2 / size * p["near"] * p["soft"]
    edge = _box(u, v, p["edge"], p["round"])
    shade = p["shade"]
    cast = _box(u - _at(shade, 0), v - _at(shade, 1), p["edge"], p["round"])
    image = behind * (1 - ((0.05 - cast) * 8).clamp(0, 1) * _at(shade, 2))[:, None]
    sheet = _cover(edge, pixel) * _wide(p["sheet"])
    image = _over(image, _paper(p, u, v, edge, pixel, seen.noise), sheet)
    image = _shape(p, image, u, v, pixel, seen.shapes)
    for line in range(p["offsets"].shape[1]):
        image = _over(image, p["ink"][..., None, None], _line(p, line, u, v, pixel, seen.glyphs))
    return image


def frames_at_once(size: int, device: torch.device) -> int:
    """How many frames to paint together."""
    return max(1, (CPU_PIXELS if device.type == "cpu" else GPU_PIXELS) // (size * size))


def finish(p: Numbers, image: torch.Tensor, grain: torch.Tensor) -> torch.Tensor:
    """Light, blur, blocks and noise as planned: uint8 [B, S, S, 3].

    Args:
        grain: of `white_tile`.
    """
    size = image.shape[-1]
    x, y = axes(size, image.device)
    slope = x * _at(p["glare"], 0) + y * _at(p["glare"], 1)
    image = image * (p["gain"][..., None, None] * (1 + slope)[:, None])
    side = p["blur"][:, None, None, None]
    image = F.pad(image, (1, 1, 1, 1), mode="replicate")
    image = image[..., 1:-1] * (1 - 2 * side) + (image[..., :-2] + image[..., 2:]) * side
    image = image[:, :, 1:-1] * (1 - 2 * side) + (image[:, :, :-2] + image[:, :, 2:]) * side
    flat = F.avg_pool2d(image, 8, ceil_mode=True, count_include_pad=False)
    flat = flat.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :size, :size]
    image = image + (flat - image) * p["blocks"][:, None, None, None]
    step = torch.arange(size, device=image.device)
    rows = (p["noise at"][:, :1] + step) % TILE
    columns = (p["noise at"][:, 1:] + step) % TILE
    noise = grain[rows[:, :, None], columns[:, None]] * p["noise"][:, None, None]
    image = image + noise[:, None]
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def axes(size: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Where pixels lie, -1 to 1: x as [1, 1, S], y as [1, S, 1]."""
    axis = (torch.arange(size, device=device) * 2 + 1) / size - 1
    return axis[None, None], axis[None, :, None]


def _at(numbers: torch.Tensor, index: int) -> torch.Tensor:
    return numbers[:, index, None, None]


def _wide(numbers: torch.Tensor) -> torch.Tensor:
    return numbers[:, None, None]


def places(view: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Every pixel's place on the card: u and v, [B, S, S]."""
    x, y = axes(size, view.device)
    x, y = x - _at(view, 6), y - _at(view, 7)
    deep = 1 + x * _at(view, 4) + y * _at(view, 5)
    u = (x * _at(view, 0) + y * _at(view, 1)) / deep
    return u, (x * _at(view, 2) + y * _at(view, 3)) / deep


def _box(
    u: torch.Tensor, v: torch.Tensor, half: torch.Tensor, radius: torch.Tensor
) -> torch.Tensor:
    """Distances to a box with round corners."""
    x = u.abs() - _at(half - radius, 0)
    y = v.abs() - _at(half - radius, 1)
    out = x.clamp(min=0), y.clamp(min=0)
    return (out[0] * out[0] + out[1] * out[1]).sqrt() + x.maximum(y).clamp(max=0) - _at(radius, 0)


def _cover(distance: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """How much of a pixel lies inside, from distances and the pixel's size in the same unit."""
    return (0.5 - distance / _wide(pixel)).clamp(0, 1)


def _over(image: torch.Tensor, colour: torch.Tensor, cover: torch.Tensor) -> torch.Tensor:
    return image + (colour - image) * cover[:, None]


def _paper(
    p: Numbers,
    u: torch.Tensor,
    v: torch.Tensor,
    edge: torch.Tensor,
    pixel: torch.Tensor,
    noise: torch.Tensor,
) -> torch.Tensor:
    """The bare card: [B, 3, S, S]."""
    tile = look_up(
        noise[p["tile"].long()][:, None],
        u * 0.45 + _at(p["tile at"], 0),
        v * 0.45 + _at(p["tile at"], 1),
    )[:, 0]
    light = tile * _wide(p["rough"]) + u * _at(p["slope"], 0) + v * _at(p["slope"], 1)
    light = light + _cover(_wide(p["band at"]) - v, pixel) * _wide(p["band"])
    light = light + _rules(p, u, v, pixel) * _wide(p["ruled"])
    paper = p["paper"][..., None, None] + light[:, None]
    frame = (edge + _wide(p["inset"])).abs() - _wide(p["line"])
    return _over(paper, p["ink"][..., None, None], _cover(frame, pixel) * _wide(p["frame"]))


def _rules(p: Numbers, u: torch.Tensor, v: torch.Tensor, pixel: torch.Tensor) -> torch.Tensor:
    """Lines, squares or dots printed on the paper."""
    number, kind = _wide(p["rules"]), _wide(p["rule"])
    across, down = u * number, v * number
    across = (across - across.floor() - 0.5).abs() / number
    down = (down - down.floor() - 0.5).abs() / number
    distance = torch.where(kind == 1, down, across.minimum(down))
    distance = torch.where(kind == 3, across.maximum(down) - 0.01, distance)
    return _cover(distance - _wide(p["line"]) * 0.6, pixel)


def _shape(
    p: Numbers,
    image: torch.Tensor,
    u: torch.Tensor,
    v: torch.Tensor,
    pixel: torch.Tensor,
    atlas: torch.Tensor,
) -> torch.Tensor:
    x, y = put(p, 0, u, v)
    rows = (_wide(p["shape"]) * 2 + 1 - y.clamp(-REACH, REACH) * ((1 - 1 / SIDE) / REACH)) / len(
        SHAPES
    )
    atlas = atlas[None, None].expand(len(u), -1, -1, -1)
    found = look_up(atlas, x / REACH, rows - 1)[:, 0]
    found = found.maximum(x.abs().maximum(y.abs()) - REACH + 0.06)
    pixel = pixel / p["scale"][:, 0]
    image = _over(image, p["rim colour"][..., None, None], _cover(found, pixel))
    return _over(image, p["fill"][..., None, None], _cover(found + _wide(p["rim"]), pixel))


def _line(
    p: Numbers,
    line: int,
    u: torch.Tensor,
    v: torch.Tensor,
    pixel: torch.Tensor,
    atlas: torch.Tensor,
) -> torch.Tensor:
    """What a line of text covers: [B, S, S]."""
    x, y = put(p, line + 1, u, v)
    width = _wide(p["edges"][:, line, -1])
    outside = (x - width / 2).abs() - width / 2
    outside = outside.maximum((y - 0.37).abs() - 0.84)
    x, y = x.maximum(width * 0).minimum(width), y.clamp(-0.48, 1.2)
    ends = p["edges"][:, line, 1:-1].contiguous()
    glyph = torch.searchsorted(ends, x.flatten(1), right=True)
    glyph = glyph.minimum(p["last"][:, line, None].long())
    start = p["offsets"][:, line].gather(1, glyph).reshape(x.shape)
    across = (x * PITCH + start) * (2 / (len(GLYPHS) * CELL[1])) - 1
    down = (_wide(p["row"]) - y * PITCH) * (2 / len(atlas)) - 1
    atlas = atlas[None, None].expand(len(u), -1, -1, -1)
    found = look_up(atlas, across, down)[:, 0].maximum(outside)
    return _cover(found, pixel / p["scale"][:, line + 1])


def put(
    p: Numbers, part: int, u: torch.Tensor, v: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places within a shape or a line of text, from places on the card."""
    a, b, c, d, e, f = (number[:, None, None] for number in p["put"][:, part].unbind(1))
    return u * a + v * b + c, u * d + v * e + f
