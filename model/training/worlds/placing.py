"""From cards and styles to numbers: what stands where in every frame, for a painter to paint."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fonts import FontSet
from .hashing import Draws, mix
from .layouts import layout_shape
from .noise import KINDS, TILE
from .shapes import COLOURS
from .vocabulary import SIDES
from .writing import SHOWN, Card, Plan, Style, writing

CONTRAST = 0.36  # least distance between paper and what is on it, of 0 to 1 a channel
PATTERNED = (
    "gradient",
    "lined",
    "squared",
    "dotted",
    "textured",
    "framed",
    "banded",
    "dark",
    "slate",
)
RULES = {"lined": 1.0, "squared": 2.0, "dotted": 3.0}


def plan(
    cards: Sequence[Card],
    styles: Sequence[Style],
    sides: np.ndarray,
    motion: bool,
    fonts: FontSet,
) -> Plan:
    """Numbers of every frame: arrays [n, T, ...], float64 but for those that name things.

    Args:
        cards, styles: n each, already checked.
        sides: int64 [n, T], numbers of `SIDES`.
    """
    seeds = np.array([style.seed for style in styles], np.int64)[:, None]
    count, moments = sides.shape
    draw, each = Draws(seeds), Draws(mix(seeds, np.arange(moments)).view(np.int64))
    time = (np.arange(moments) + 0.5) / moments - 0.5 if motion else np.zeros(moments)
    half = _sizes(draw, [layout_shape(style.layout) for style in styles])
    found = _view(draw, each, half, time, motion)
    found |= _colours(draw, cards, styles, sides)
    found |= writing(draw, cards, styles, sides, half, fonts)
    found |= _finish(draw, each, time, motion)
    found["behind"] = draw("behind", 0, 2.0**40).astype(np.int64)
    found["time"] = np.arange(moments)[None] * float(motion)
    return {k: np.broadcast_to(a, (count, moments, *a.shape[2:])) for k, a in found.items()}


def _sizes(draw: Draws, ratios: list[float]) -> np.ndarray:
    """Half sides of the cards [n, 1, 2]: of 60% to 100% of a frame."""
    ratio = np.array(ratios)[:, None] * draw("ratio", 0.9, 1.12)
    area = np.where(draw.chance("full", 0.2), 1.0, draw("area", 0.6, 1.0))
    across = np.minimum(1, np.sqrt(area * ratio))
    return np.stack([across, np.minimum(1, area / across)], -1)


def _view(draw: Draws, each: Draws, half: np.ndarray, time: np.ndarray, motion: bool) -> Plan:
    """How a frame's places become the card's: u = (a x + b y + c) / (g x + h y + 1), and so v."""
    turn = np.radians(12) * draw("turn", -1, 1)
    reach = np.abs(np.stack([np.cos(turn), np.sin(turn)], -1))
    extent = SHOWN * (half * reach[..., :1] + half[..., ::-1] * reach[..., 1:])
    zoom = np.minimum(1, 0.95 / extent.max(-1))
    room = np.maximum(0, 0.95 - extent * zoom[..., None])
    shift = draw("shift", -0.9, 0.9, 2) * room + draw("drift", -0.05, 0.05, 2) * time[:, None]
    jitter = 0.005 * motion
    shift = shift + each("shake", -jitter, jitter, 2)
    zoom = zoom * (1 + draw("zoom", -0.05, 0.05) * time)
    turn = turn + np.radians(2.5) * draw("swing", -1, 1) * time
    cos, sin = np.cos(turn) / zoom, np.sin(turn) / zoom
    lean = draw("lean", -0.05, 0.05)
    rows = [
        *(cos + lean * -sin, sin + lean * cos, -sin, cos),
        *(draw("tip", -0.06, 0.06) + 0.02 * time, draw("tilt", -0.06, 0.06) + 0.0 * time),
        *(shift[..., 0], shift[..., 1]),
    ]
    shape = np.broadcast_shapes(*(row.shape for row in rows))
    full = (half.min(-1, keepdims=True) >= 1) * 1.0
    return {
        "view": np.stack([np.broadcast_to(row, shape) for row in rows], -1),
        "near": 1 / zoom,
        "edge": half + full,
        "sheet": np.ones(draw.seeds.shape),
        "round": draw("round", 0.0, 0.14)[..., None] * draw.chance("rounded", 0.6)[..., None],
        "shade": np.concatenate([draw("shade at", -0.09, 0.09, 2), draw("shade", 0, 0.5, 1)], -1),
    }


def _colours(
    draw: Draws, cards: Sequence[Card], styles: Sequence[Style], sides: np.ndarray
) -> Plan:
    """Of paper, ink and shape, such that what is on the paper stands out; and its pattern."""
    fill = named_colour(draw, [card.colour for card in cards])
    kind = {name: np.array([[style.paper == name] for style in styles]) for name in PATTERNED}
    tint = _tint(draw, "tint", 0.35, 0.45)
    bright, deep = draw("paper", 0.86, 1.0, 1) - tint, draw("deep", 0.02, 0.1, 1) + tint
    dark = draw.chance("night", 0.1) | kind["dark"] | kind["slate"]
    paper = np.where(dark[..., None], deep, bright)
    faint = np.linalg.norm(paper - fill, axis=-1) < CONTRAST
    dark = dark ^ (faint & (sides != SIDES.index("back")))  # a back tells nothing of the front
    paper = np.where(dark[..., None], deep, bright)
    black = draw("ink", 0.0, 0.12, 1) + _tint(draw, "ink tint", 0.3, 0.3)
    white = draw("chalk", 0.9, 1.0, 1) - _tint(draw, "chalk tint", 0.3, 0.3)
    ink = np.where(dark[..., None], white, black)
    rim = np.where(draw.chance("rimmed", 0.3), draw("rim width", 0.05, 0.13), 0.0)
    rule = sum(number * kind[name] for name, number in RULES.items())
    sign = np.where(dark, 1.0, -1.0)  # patterns go towards the ink
    strength = {
        "slope": np.where(kind["gradient"], 0.15, 0.07 * draw.chance("sloped", 0.3)),
        "rough": np.where(kind["textured"] | kind["slate"], 0.13, 0.02),
        "ruled": 0.13 * sign * (rule > 0),
        "frame": 0.8 * (kind["framed"] | draw.chance("frame", 0.1)),
        "band": 0.07 * sign * kind["banded"],
    }
    found = {name: value * draw(name, 0.6, 1.0) for name, value in strength.items()}
    angle = draw("slope to", 0, 2 * np.pi)
    slope = found["slope"][..., None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return found | {
        "paper": paper,
        "ink": ink,
        "fill": fill,
        "rim": rim,
        "rim colour": np.where((rim > 0)[..., None], ink, fill),
        "slope": slope,
        "rule": rule + 0.0 * dark,
        "rules": draw("rules", 4, 9),
        "tile": draw.pick("tile", len(KINDS)),
        "tile at": draw("tile at", -0.6, 0.6, 2),
        "inset": draw("inset", 0.035, 0.06),
        "line": draw("line", 0.008, 0.02),
        "band at": np.where(draw.chance("band side", 0.5), -1.0, 1.0) * draw("band", 0.3, 0.7),
    }


def _tint(draw: Draws, name: str, probability: float, most: float) -> np.ndarray:
    """What makes black or white coloured [n, 1, 3]: 0 in one channel, often little in all."""
    much = draw.chance(name + " much", probability)
    strength = np.where(much, draw(name + " of", 0.15, most), 0.08)[..., None]
    each = draw(name, 0.0, 1.0, 3)
    return (each - each.min(-1, keepdims=True)) * strength


def named_colour(draw: Draws, names: Sequence[str]) -> np.ndarray:
    """Some red of all that "red" may be, and so on: float64 [n, 1, 3], 0 to 1."""
    ranges = np.array([COLOURS[name] for name in names], np.float64)[:, None] / 255
    low, high = ranges[:, :, 0], ranges[:, :, 1]
    neutral = (np.ptp(low, axis=-1) == 0)[..., None]
    part = np.where(neutral, draw("tone", 0, 1, 1), draw("tones", 0, 1, 3))
    return low + (high - low) * part


def _finish(draw: Draws, each: Draws, time: np.ndarray, motion: bool) -> Plan:
    """Light, blur, blocks and noise."""
    flicker = each("flicker", -0.015, 0.015) * motion + draw("dusk", -0.08, 0.08) * time
    gain = draw("light", 0.84, 1.06) + flicker
    blocks = np.where(draw.chance("blocky", 0.4), draw("blocks", 0.05, 0.22), 0.0)
    return {
        "gain": gain[..., None] * draw("warmth", 0.96, 1.04, 3),
        "glare": draw("glare", -0.07, 0.07, 2),
        "soft": draw("soft", 1.0, 1.8),
        "blur": np.where(draw.chance("blurred", 0.4), draw("blur", 0.04, 0.22), 0.0),
        "blocks": blocks,
        "noise": draw("noise", 0.0, 0.03),
        "noise at": each.pick("noise at", TILE, 2),
    }
