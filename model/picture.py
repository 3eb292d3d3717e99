"""Draws what a token merge did: which patches share a token, and how many tokens went where."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from hico import TokenMap

INK, QUIET, PALE = "#1f2430", "#6b7280", "#e8eaee"
# lengths on the page, in a unit that makes a clip's block WIDE wide; INCHES is the page's width
WIDE, HEADING, BARS, GAP, MARGIN, BETWEEN = 5.5, 0.28, 0.56, 0.05, 0.22, 0.14
STAGE = 0.15
INCHES = 14.0


def merge_picture(
    frames: torch.Tensor,
    token_map: TokenMap,
    grid: tuple[int, int],
    titles: Sequence[str] | None = None,
    headline: str = "",
    stages: Sequence[tuple[str, torch.Tensor]] = (),
) -> Any:
    """Frames above, their merged groups below in one colour each, and the sizes of the groups.

    For each stage the frames once more, with a veil over the patches whose tokens are gone.

    Args:
        frames: uint8 [B, T, H, W, 3]: B clips of T frames, of any size.
        token_map: [B, N] -> [B, M] tokens with N = T * rows * columns, numbered frame by frame and
            row by row. Dropped tokens (-1) are drawn pale.
        grid: (rows, columns) of patches in a frame.
        titles: one line for each clip.
        headline: one line above all.
        stages: a name for each stage of token dropout and the tokens that it left, bool [B, M].

    Returns:
        A matplotlib Figure that belongs to no window; `save_picture` writes it.

    Raises:
        ValueError: shapes that do not fit together.
        ModuleNotFoundError: matplotlib is not installed.
    """
    _check(frames, token_map, grid, titles, stages)
    aspect = frames.shape[3] / frames.shape[2]
    page = _Page(len(frames), frames.shape[1], aspect, headline, len(stages))
    for clip, pixels in enumerate(frames.cpu().numpy()):
        groups = token_map.assign[clip].reshape(-1, *grid).cpu().numpy()
        shades = group_colours(pixels, groups, token_map.anchor.shape[1])
        x, y = page.corner(clip)
        if titles is not None:
            page.write(x, y + HEADING / 2, titles[clip], 0.115)
        y += HEADING
        for t, frame in enumerate(pixels):
            left = x + t * (page.frame_width + GAP)
            _draw_frame(page.axes(left, y, page.frame_width, page.frame_height), frame, grid)
            below = y + page.frame_height + GAP
            axes = page.axes(left, below, page.frame_width, page.frame_height)
            _draw_frame(axes, frame, grid)
            _draw_groups(axes, groups[t], shades, page.points(0.008))
        y += 2 * (page.frame_height + GAP)
        for text, kept in stages:
            stays = kept[clip].cpu().numpy()
            page.write(x, y + 0.06, f"{text}: {stays.sum()} of {stays.size}", 0.085, QUIET)
            _draw_stage(page, x, y + STAGE, pixels, groups, stays)
            y += STAGE + page.frame_height + GAP
        _draw_sizes(page, x, y, groups, shades)
    return page.figure


def save_picture(figure: Any, path: str | os.PathLike[str], dpi: int = 150) -> None:
    """Write the figure as a PNG, replacing the file only when the new one is complete.

    Raises:
        ValueError, OSError: as `check_output`, or the disk is full.
    """
    path = check_output(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        figure.savefig(part, format="png", dpi=dpi)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_output(path: str | os.PathLike[str], kinds: Sequence[str] = (".png",)) -> Path:
    """The path as a Path, if a file of one of these kinds can be written there.

    Raises:
        ValueError: the name ends in none of them, or it is a directory.
        FileNotFoundError, PermissionError: the folder does not exist or may not be written.
    """
    path = Path(path)
    if path.suffix.lower() not in kinds:
        raise ValueError(f"{path}: expected a file name that ends in {' or '.join(kinds)}")
    if path.is_dir():
        raise ValueError(f"{path}: expected a file name, this is a directory")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the folder {path.parent} does not exist")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path}: the folder {path.parent} may not be written")
    return path


def group_colours(frames: np.ndarray, groups: np.ndarray, slots: int) -> np.ndarray:
    """One colour for every group: what its patches look like, with a tint of its own.

    Args:
        frames: uint8 [T, H, W, 3].
        groups: int [T, rows, columns], -1 where dropped.
        slots: how many groups there may be.

    Returns:
        float [slots, 3] in 0..1, the same for the same input.
    """
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
    cells = F.adaptive_avg_pool2d(planes, groups.shape[1:]).permute(0, 2, 3, 1).numpy()
    kept = groups >= 0
    mean = np.zeros((slots, 3))
    np.add.at(mean, groups[kept], cells[kept])
    mean /= np.maximum(np.bincount(groups[kept], minlength=slots), 1)[:, None]
    # steps of the golden ratio keep the hues of neighbouring slots apart
    hue = np.arange(slots)[:, None] * 0.618034 % 1
    wheel = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    tint = (wheel - wheel.mean(1, keepdims=True)) * 0.15
    return np.clip(mean + tint, 0, 1)


class _Page:
    """Places things on the figure, from the top left corner."""

    def __init__(self, clips: int, frames: int, aspect: float, headline: str, stages: int) -> None:
        self.frame_width = (WIDE - (frames - 1) * GAP) / frames
        self.frame_height = self.frame_width / aspect
        self.block = HEADING + 2 * (self.frame_height + GAP) + BARS
        self.block += stages * (STAGE + self.frame_height + GAP)
        self.across = 1 if clips == 1 else 2
        self.top = 0.5 if headline else 0.1
        down = -(-clips // self.across)
        self.width = self.across * WIDE + (self.across + 1) * MARGIN
        self.height = self.top + down * self.block + (down - 1) * BETWEEN + 0.12
        self.unit = INCHES / self.width
        require_matplotlib()
        from matplotlib.figure import Figure

        # a bare Figure draws with Agg and touches none of pyplot's global state
        self.figure = Figure(figsize=(INCHES, self.height * self.unit), facecolor="white")
        if headline:
            self.write(MARGIN, 0.3, headline, 0.16, weight="bold")

    def corner(self, clip: int) -> tuple[float, float]:
        x = MARGIN + clip % self.across * (WIDE + MARGIN)
        return x, self.top + clip // self.across * (self.block + BETWEEN)

    def points(self, length: float) -> float:
        return length * self.unit * 72

    def axes(self, x: float, y: float, width: float, height: float) -> Any:
        bottom = 1 - (y + height) / self.height
        box = x / self.width, bottom, width / self.width, height / self.height
        return self.figure.add_axes(box)

    def write(
        self, x: float, y: float, text: str, size: float, color: str = INK, **how: Any
    ) -> None:
        where = x / self.width, 1 - y / self.height
        how = {"va": "center", "fontsize": self.points(size), "color": color, **how}
        self.figure.text(*where, text, **how)


def _draw_frame(axes: Any, frame: np.ndarray, grid: tuple[int, int]) -> None:
    rows, columns = grid
    axes.imshow(frame, extent=(0, columns, rows, 0), aspect="auto", interpolation="antialiased")
    axes.set_axis_off()


def _draw_groups(axes: Any, groups: np.ndarray, shades: np.ndarray, line: float) -> None:
    """Colour the patches over the frame, with lines where one group meets another."""
    paint = np.ones((*groups.shape, 4))
    paint[..., :3] = np.where((groups >= 0)[..., None], shades[groups], 1)
    paint[..., 3] = 0.88
    _draw_paint(axes, paint)
    _draw_borders(axes, groups, "white", line)


def _draw_paint(axes: Any, paint: np.ndarray) -> None:
    rows, columns = paint.shape[:2]
    axes.imshow(paint, extent=(0, columns, rows, 0), aspect="auto", interpolation="nearest")


def _draw_borders(axes: Any, groups: np.ndarray, color: str, line: float) -> None:
    from matplotlib.collections import LineCollection

    across = [((x + 1, y), (x + 1, y + 1)) for y, x in np.argwhere(groups[:, 1:] != groups[:, :-1])]
    down = [((x, y + 1), (x + 1, y + 1)) for y, x in np.argwhere(groups[1:] != groups[:-1])]
    axes.add_collection(LineCollection(across + down, colors=color, linewidths=line))


def _draw_stage(
    page: _Page, x: float, y: float, frames: np.ndarray, groups: np.ndarray, kept: np.ndarray
) -> None:
    """The frames, with a veil over the patches of tokens that were dropped."""
    left = (groups >= 0) & kept[groups]
    for t, frame in enumerate(frames):
        place = x + t * (page.frame_width + GAP)
        axes = page.axes(place, y, page.frame_width, page.frame_height)
        _draw_frame(axes, frame, groups.shape[1:])
        veil = np.ones((*groups.shape[1:], 4))
        veil[..., 3] = np.where(left[t], 0, 0.85)
        _draw_paint(axes, veil)
        _draw_borders(axes, left[t], INK, page.points(0.006))


def _draw_sizes(page: _Page, x: float, y: float, groups: np.ndarray, shades: np.ndarray) -> None:
    """Bars of the groups' sizes, largest first, and of the number of frames that they reach."""
    members = np.stack([np.bincount(g[g >= 0], minlength=len(shades)) for g in groups])
    sizes = members.sum(0)
    order = np.argsort(-sizes, kind="stable")[: int((sizes > 0).sum())]
    extent = f"{sizes[order[0]]} to {sizes[order[-1]]}"
    label = f"patches in each of the {len(order)} tokens, largest first: {extent}"
    page.write(x, y + 0.06, label, 0.085, QUIET)
    bars = page.axes(x, y + 0.13, WIDE * 0.7, BARS - 0.2)
    bars.bar(range(len(order)), sizes[order], width=0.82, color=shades[order])
    bars.set_xlim(-0.6, len(order) - 0.4)
    bars.set_axis_off()
    reach = np.bincount((members > 0).sum(0)[order], minlength=len(groups) + 1)[1:]
    _draw_reach(page, x + WIDE * 0.75, y, reach)


def _draw_reach(page: _Page, x: float, y: float, reach: np.ndarray) -> None:
    """One line for each number of frames: how many tokens have patches in so many."""
    page.write(x, y + 0.06, "tokens that span", 0.085, QUIET)
    step = (BARS - 0.2) / len(reach)
    size = min(0.085, 0.9 * step)
    for i, tokens in enumerate(reach):
        row = y + 0.13 + i * step
        label = "1 frame" if i == 0 else f"{i + 1} frames"
        page.write(x, row + step / 2, label, size, QUIET)
        page.write(x + WIDE * 0.25, row + step / 2, str(tokens), size, QUIET, ha="right")
        bar = page.axes(x + 0.42, row + step * 0.18, WIDE * 0.25 - 0.62, step * 0.64)
        bar.barh(0, tokens, color=QUIET, height=1)
        bar.set_xlim(0, reach.max())
        bar.set_ylim(-0.5, 0.5)
        bar.set_axis_off()


def _check(
    frames: torch.Tensor,
    token_map: TokenMap,
    grid: tuple[int, int],
    titles: Sequence[str] | None,
    stages: Sequence[tuple[str, torch.Tensor]],
) -> None:
    if frames.ndim != 5 or frames.shape[-1] != 3 or frames.dtype != torch.uint8:
        raise ValueError(
            f"frames: expected uint8 [B, T, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )
    batch, count = frames.shape[:2]
    if batch < 1 or count < 1:
        raise ValueError(f"frames: expected at least one clip and frame, got {batch} and {count}")
    expected = [batch, count * grid[0] * grid[1]]
    if list(token_map.assign.shape) != expected:
        raise ValueError(
            f"token_map: expected {expected} tokens for {count} frames of {grid[0]} x {grid[1]} "
            f"patches, got {list(token_map.assign.shape)}"
        )
    if not bool((token_map.assign >= 0).any(1).all()):
        raise ValueError("token_map: expected at least one token in every clip, got none")
    if titles is not None and len(titles) != batch:
        raise ValueError(f"titles: expected {batch}, got {len(titles)}")
    slots = list(token_map.anchor.shape)
    for text, kept in stages:
        if list(kept.shape) != slots or kept.dtype != torch.bool:
            got = f"{kept.dtype} {list(kept.shape)}"
            raise ValueError(f"stages: expected bool {slots} of {text!r}, got {got}")


def require_matplotlib() -> None:
    """Check early that pictures can be drawn.

    Raises:
        ModuleNotFoundError: matplotlib is not installed; the message says what to install.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "drawing needs matplotlib: pip install 'hico[plot]'", name="matplotlib"
        ) from error
