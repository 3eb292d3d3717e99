"""A contact sheet: every clip of a video that a model has seen, and what it kept of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .picture import INK, QUIET, require_matplotlib

if TYPE_CHECKING:
    from .view import Seen

ACROSS = 2  # clips in a row
FRAME, GAP, BETWEEN, LABEL, TOP = 120, 4, 28, 24, 92  # pixels of the sheet
VEIL = 0.84  # of white over what was dropped
MARK = "#e4572e"
DPI = 100


def contact_sheet(
    seen: Seen,
    headline: str = "",
    note: str = "",
    labels: Mapping[int, str] | None = None,
    marked: Mapping[int, str] | None = None,
) -> Any:
    """The frames of each clip; white lies over the patches of tokens that the last stage dropped.

    Args:
        seen: what hico.model.view.look gives; its clips of one length.
        headline, note: lines above all.
        labels: what to say of some clips, by their number.
        marked: the same, of clips that also get a frame.

    Returns:
        A matplotlib Figure that belongs to no window; `save_picture` writes it.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure

    clips, frames = seen.frames.shape[:2]
    wide = frames * (FRAME + GAP) - GAP
    width = ACROSS * (wide + BETWEEN) + BETWEEN
    down = -(-clips // ACROSS)
    height = TOP + down * (FRAME + LABEL + GAP) + GAP
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    for y, text, most, weight in ((30, headline, 15, "bold"), (62, note, 11, "normal")):
        size = max(7, min(most, 1.1 * width / max(1, len(text))))  # points: a line fits the page
        _write(page, BETWEEN, y, text, size, INK, weight)
    for i, clip in enumerate(seen.clips):
        x = BETWEEN + i % ACROSS * (wide + BETWEEN)
        y = TOP + i // ACROSS * (FRAME + LABEL + GAP)
        told = (marked or {}).get(clip)
        said = told or (labels or {}).get(clip, "")
        first, last = seen.seconds[i, [0, -1]].tolist()
        text = f"{first:.0f} to {last:.0f} s, {_tokens(seen, clip)} tokens   {said}"
        _write(page, x, y + LABEL / 2, text, 8.5, MARK if told else QUIET, "bold" if told else "")
        for t, frame in enumerate(veiled(seen, i)):
            left = x + t * (FRAME + GAP)
            extent = (left, left + FRAME, y + LABEL + FRAME, y + LABEL)
            page.imshow(frame, extent=extent, interpolation="antialiased", aspect="auto")
        if told:
            _frame(page, x, y + LABEL, wide)
    page.set(xlim=(0, width), ylim=(height, 0))
    return figure


def veiled(seen: Seen, place: int) -> np.ndarray:
    """uint8 [T, H, W, 3]: the frames of a shown clip, pale where nothing is left of a patch."""
    rows, columns = seen.grid
    pixels = seen.frames[place].numpy()
    groups = seen.map.assign[place].numpy().reshape(-1, rows, columns)
    left = groups >= 0
    if seen.kept:
        left &= seen.kept[-1][seen.clips[place]].numpy()[groups]
    height, width = pixels.shape[1:3]
    across = np.arange(width) * columns // width
    stays = left[:, np.arange(height) * rows // height][:, :, across]
    pale = (255 - (255 - pixels.astype(np.float32)) * (1 - VEIL)).round().astype(np.uint8)
    return np.where(stays[..., None], pixels, pale)


def _tokens(seen: Seen, clip: int) -> str:
    """How many tokens the clip has, and has after each stage."""
    return " \u2192 ".join(
        [str(seen.map.num_slots), *(str(int(kept[clip].sum())) for kept in seen.kept)]
    )


def _write(page: Any, x: float, y: float, text: str, size: float, color: str, weight: str) -> None:
    # a dollar sign would begin a formula
    said = text.replace("$", r"\$")
    page.text(x, y, said, fontsize=size, color=color, weight=weight or "normal", va="center")


def _frame(page: Any, x: float, y: float, wide: float) -> None:
    from matplotlib.patches import Rectangle

    box = Rectangle((x - 2, y - 2), wide + 4, FRAME + 4, fill=False, color=MARK, linewidth=3)
    page.add_patch(box)
