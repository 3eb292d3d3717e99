"""Moving scenes that look natural enough: endless, painted on any device."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from .hashing import Draws, mix
from .noise import KINDS, TILE, look_up, noise_bank, white_tile
from .painting import Numbers, axes, finish, frames_at_once
from .shapes import COLOURS

BLOCK = 120  # frames with three cuts
THINGS = 6  # that stand or move about in a scene
MATTER = (  # red, green and blue of leaves, earth, sand, stone, brick, wood, sea, sky, snow, road
    *((0.24, 0.36, 0.14), (0.38, 0.27, 0.18), (0.76, 0.66, 0.48), (0.5, 0.49, 0.47)),
    *((0.55, 0.29, 0.22), (0.48, 0.33, 0.2), (0.14, 0.32, 0.44), (0.5, 0.68, 0.88)),
    *((0.9, 0.92, 0.95), (0.26, 0.26, 0.28), (0.85, 0.72, 0.62), (0.1, 0.12, 0.2)),
)


class NaturalHaystack:
    """Shots of 10 to 70 frames: textured grounds, skies and things, seen by a moving camera.

    Colours and brightness cover those of cards, so that neither tells a card from what is around.
    No two of the first million frames are alike.

    Args:
        seed: another seed, other scenes.

    Example:
        >>> frames = NaturalHaystack(1).frames(torch.tensor([0, 1, 5000]), 32)
        >>> frames.shape, frames.dtype
        (torch.Size([3, 32, 32, 3]), torch.uint8)
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.name = f"natural-{seed}"

    def frames(
        self, indices: torch.Tensor, size: int = 224, device: str | torch.device = "cpu"
    ) -> torch.Tensor:
        """Paint frames: uint8 [n, size, size, 3], the same for an index whatever else is asked.

        Args:
            indices: int64 [n], from 0.
            size: pixels of a frame's side.
            device: where to paint; devices differ by a grey level or two.

        Raises:
            ValueError: indices of another shape or type, negative ones, or a size below 1.
        """
        check_frames(indices, size)
        device = torch.device(device)
        number = indices.cpu().numpy()
        shots, time = self._shots(number)
        step = frames_at_once(size, device)
        done = [torch.zeros(0, size, size, 3, dtype=torch.uint8, device=device)]
        for i in range(0, len(number), step):
            some = slice(i, i + step)
            image = paint_scenes(shots[some], time[some], size, device)
            look = finish_look(mix(self.seed, number[some]), shots[some], device)
            done.append(finish(look, image, white_tile(str(device))))
        return torch.cat(done)

    def _shots(self, number: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shot that a frame is of, and how many frames after its cut."""
        block, inside = number // BLOCK, number % BLOCK
        draw = Draws(mix(self.seed, block).view(np.int64))
        cuts = np.stack([0 * inside, draw.pick("a", 31) + 10, draw.pick("b", 31) + 50], -1)
        cuts = np.concatenate([cuts, draw.pick("c", 21)[:, None] + 90], -1)
        shot = (inside[:, None] >= cuts).sum(-1) - 1
        start = np.take_along_axis(cuts, shot[:, None], 1)[:, 0]
        return mix(self.seed, block, shot, 7).view(np.int64), inside - start


def check_frames(indices: torch.Tensor, size: int) -> None:
    """Raises ValueError for what no haystack can paint."""
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(f"indices: expected int64 [n], got {indices.dtype} {list(indices.shape)}")
    if len(indices) and int(indices.min()) < 0:
        raise ValueError(f"indices: expected 0 or more, got {int(indices.min())}")
    if size < 1:
        raise ValueError(f"size: expected at least 1, got {size}")


def finish_look(frames: np.ndarray, shots: np.ndarray, device: torch.device) -> Numbers:
    """What `finish` is to do to every frame."""
    each, draw = Draws(frames.view(np.int64)), Draws(shots)
    found = {
        "gain": draw("gain", 0.8, 1.15)[:, None] * draw("warmth", 0.92, 1.08, 3),
        "glare": draw("glare", -0.15, 0.15, 2),
        "blur": np.where(draw.chance("blurred", 0.4), draw("blur", 0.04, 0.25), 0.0),
        "blocks": np.where(draw.chance("blocky", 0.4), draw("blocks", 0.05, 0.25), 0.0),
        "noise": draw("noise", 0.0, 0.03),
    }
    found["gain"] = found["gain"] * each("flicker", 0.97, 1.03)[:, None]
    numbers = {k: torch.from_numpy(a.astype(np.float32)).to(device) for k, a in found.items()}
    return numbers | {"noise at": torch.from_numpy(each.pick("noise at", TILE, 2)).to(device)}


def paint_scenes(
    shots: np.ndarray, time: np.ndarray, size: int, device: torch.device
) -> torch.Tensor:
    """One frame of every shot: float32 [B, 3, S, S], mostly of 0 to 1.

    Args:
        shots: int64 [B], seeds of scenes.
        time: [B], frames since the cut.
    """
    return paint_scene(scene_numbers(shots, time, device), noise_bank(str(device), size), size)


def scene_numbers(shots: np.ndarray, time: np.ndarray, device: torch.device) -> Numbers:
    """What `paint_scene` paints one frame of every shot from; arguments as in `paint_scenes`."""
    return {
        name: torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(device)
        for name, array in _scene(shots, np.asarray(time, np.float64)).items()
    }


def paint_scene(p: Numbers, bank: torch.Tensor, size: int) -> torch.Tensor:
    """Scenes from their numbers, on the device that these and the bank of noise are on."""
    device = bank.device
    tiles = bank[p["tiles"].long()]
    x, y = axes(size, device)
    camera = p["camera"][..., None, None]
    near = 1 + (p["level"][:, 0, None, None] - y).clamp(-1.2, 0.2) * p["level"][:, 2, None, None]
    u = x * near * camera[:, 0] - y * camera[:, 1] + camera[:, 2]
    v = x * camera[:, 1] + y * near * camera[:, 0] + camera[:, 3]
    warp = _warp(bank, p, size)
    fine = look_up(tiles[:, :2], u + warp[:, 0], v + warp[:, 1])
    finer = look_up(tiles[:, 2:], u * 2.7 + warp[:, 1], v * 2.7 + warp[:, 0])
    ground = _mix(p, "ground", fine[:, 0] * 0.9 + finer[:, 0] * 0.35, fine[:, 1] * 1.2)
    sky = _mix(p, "sky", fine[:, 1] * 0.6 + y * 0.3, fine[:, 0])
    level = (p["level"][:, 0, None, None] - y + fine[:, 0] * 0.12) * p["level"][:, 1, None, None]
    image = ground + (sky - ground) * level.clamp(0, 1)[:, None]
    bumps = finer[:, 1] * p["bumps"][:, 0, None, None] + fine[:, 1] * p["bumps"][:, 1, None, None]
    image = image * (1 + bumps)[:, None]
    for thing in range(THINGS):
        image = _thing(p, thing, image, x, y, fine, finer)
    dim = 1 - (x * x + y * y) * p["vignette"][:, None, None]
    return image * dim[:, None]


def _mix(p: Numbers, name: str, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Three colours of a palette, mixed by two textures."""
    a, b, c = (p[name][:, i, :, None, None] for i in range(3))
    first = (first * 0.7 + 0.5).clamp(0, 1)[:, None]
    second = (second * p["sharp"][:, None, None] - 0.3).clamp(0, 1)[:, None]
    image = a + (b - a) * first
    return image + (c - image) * second


def _warp(bank: torch.Tensor, p: Numbers, size: int) -> torch.Tensor:
    """How far places are bent: smooth, so that a coarse picture of it will do."""
    small = max(2, size // 8)
    x, y = axes(small, bank.device)
    at = p["bend"][..., None, None]
    tiles = bank[5].expand(len(at), 1, -1, -1)
    shifts = [look_up(tiles, x * 0.3 + at[:, i], y * 0.3 + at[:, i + 1]) for i in (0, 2)]
    coarse = torch.cat(shifts, 1) * at[:, 4, None]
    return F.interpolate(coarse, (size, size), mode="bilinear", align_corners=False)


def _thing(
    p: Numbers,
    thing: int,
    image: torch.Tensor,
    x: torch.Tensor,
    y: torch.Tensor,
    fine: torch.Tensor,
    finer: torch.Tensor,
) -> torch.Tensor:
    """Something round or square with a rough edge and a shaded side, over the image."""
    n = p["things"][:, thing, :, None, None]
    dx, dy = x - n[:, 0], y - n[:, 1]
    a = (dx * n[:, 2] + dy * n[:, 3]).abs() * n[:, 4]
    b = (dy * n[:, 2] - dx * n[:, 3]).abs() * n[:, 5]
    far = torch.where(n[:, 6] > 0.5, a.maximum(b), (a * a + b * b).sqrt())
    cover = ((1 - far + fine[:, 1] * n[:, 7]) * n[:, 8]).clamp(0, 1)[:, None]
    light = 1 + dx * n[:, 9] + dy * n[:, 10] + finer[:, 1] * n[:, 11] + fine[:, 0] * n[:, 12]
    colour = p["colours"][:, thing, :, None, None] * light[:, None]
    return image + (colour - image) * cover


def _scene(shots: np.ndarray, time: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of what is seen at the time: arrays [B, ...]."""
    draw = Draws(shots)
    zoom = draw("zoom", 0.12, 0.42) * np.exp(draw("zooming", -0.012, 0.012) * time)
    turn = draw("turn", -0.5, 0.5) + draw("turning", -0.006, 0.006) * time
    pan = draw("pan", -0.9, 0.9, 2) + _moved(draw, "pan", time, 0.012)
    bend = np.concatenate([draw("bend", -0.6, 0.6, 4), draw("bent", 0, 0.3, 1)], -1)
    bend[:, :4] += draw("bending", -0.01, 0.01, 4) * time[:, None]
    open_air = draw.chance("open air", 0.6)
    level = np.where(open_air, draw("level", -0.7, 0.5), -3.0)
    colours, things = _things(draw, time)
    return {
        "camera": np.stack([zoom * np.cos(turn), zoom * np.sin(turn), *pan.T], -1),
        "bend": bend,
        "tiles": draw.pick("tiles", len(KINDS), 4),
        "ground": _palette(draw, "ground"),
        "sky": _palette(draw, "sky"),
        "sharp": draw("sharp", 0.5, 4.0),
        "level": np.stack([level, draw("edge", 2, 60), draw("depth", 0, 0.6) * open_air], -1),
        "bumps": draw("bumps", 0.0, 0.4, 2),
        "vignette": draw("vignette", 0, 0.2),
        "things": things,
        "colours": colours,
    }


def _moved(draw: Draws, name: str, time: np.ndarray, speed: float) -> np.ndarray:
    """A way gone since the cut, swaying: [B, 2]; never at rest."""
    angle = draw(name + " to", 0, 2 * np.pi)
    pace = draw(name + " pace", 0.25, 1.0) * speed
    sway = np.sin(time * draw(name + " rate", 0.1, 0.5)) * pace * 2
    way = np.stack([np.cos(angle), np.sin(angle)], -1) * (pace * time)[:, None]
    return way + np.stack([sway, -sway], -1) * draw(name + " sway", 0, 1, 2)


def _palette(draw: Draws, name: str) -> np.ndarray:
    """Three colours that go together: [B, 3, 3]. Mostly earth, leaves, walls and skies."""
    base = draw(name, 0.0, 1.0)[:, None] ** 1.2
    hue = draw(name + " hue", -1, 1, 3) * draw(name + " vivid", 0, 0.45)[:, None]
    known = np.array(MATTER)[draw.pick(name + " matter", len(MATTER))]
    base = np.where(draw.chance(name + " known", 0.65)[:, None], known, base + hue)[:, None]
    spread = draw(name + " spread", 0.08, 0.35)[:, None, None]
    each = draw(name + " each", -1, 1, 9).reshape(-1, 3, 3)
    step = draw(name + " step", -1, 1, 3)[..., None]
    return (base + spread * (step + 0.3 * each)).clip(0.01, 1.0)


def _things(draw: Draws, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Colours [B, things, 3], and where and how everything stands [B, things, 13]."""
    colours, found = [], []
    gaudy = np.array([np.mean(ends, axis=0) / 255 for ends in COLOURS.values()])
    for i in range(THINGS):
        name = f"thing {i} "
        there = draw.chance(name + "there", 0.65)
        at = draw(name + "at", -1.1, 1.1, 2) + _moved(draw, name, time, 0.03)
        angle = draw(name + "angle", -0.6, 0.6)
        size = 1 / (0.06 + 0.5 * draw(name + "size", 0, 1, 2) ** 2)
        columns = [
            *(at[:, 0] + np.where(there, 0, 9), at[:, 1], np.cos(angle), np.sin(angle)),
            *(size[:, 0], size[:, 1], draw(name + "square"), draw(name + "rough", 0, 0.5)),
            *(draw(name + "edge", 3, 30), draw(name + "lit", -1, 1), draw(name + "high", -1, 0.3)),
            *(draw(name + "fine", 0, 0.6), draw(name + "coarse", 0, 0.6)),
        ]
        found.append(np.stack(columns, -1))
        grey = draw(name + "grey", 0.02, 1.0)[:, None]
        vivid = draw(name + "vivid")[:, None]
        mixed = grey + (draw(name + "colour", 0, 1, 3) - grey) * vivid
        named = gaudy[draw.pick(name + "named", len(gaudy))]
        colours.append(np.where(draw.chance(name + "gaudy", 0.4)[:, None], named, mixed))
    return np.stack(colours, 1), np.stack(found, 1)
