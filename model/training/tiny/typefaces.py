"""What stage 0a learns to read: fonts of the worlds, those of matplotlib, and many drawn by lot."""

from __future__ import annotations

import random
from functools import cache
from importlib.util import find_spec

from hico.model.training.worlds.fonts import Family, FontSet, draw_fonts, stroke_fonts
from hico.model.training.worlds.strokes import STEPS
from hico.model.training.worlds.truetype import truetype_fonts

RANDOM = 82  # families drawn by lot


@cache
def training_fonts(seed: int = 0) -> FontSet:
    """Fonts of all kinds; those of the part "test" are the worlds' own, and none is like them.

    Drawn at the first call, in 10 seconds, then kept.
    """
    fonts = stroke_fonts()
    if all(find_spec(name) for name in ("matplotlib", "PIL")):
        fonts = fonts + truetype_fonts()
    rng = random.Random(seed)
    return fonts + draw_fonts({f"lot {i}": random_family(rng) for i in range(RANDOM)})


def random_family(rng: random.Random) -> Family:
    """Within what the worlds' fonts for training span, effects included."""
    weight = 0.03 * 4 ** rng.random()
    return Family(
        weight=weight,
        width=rng.uniform(0.72, 1.28),
        slant=rng.uniform(-0.12, 0.24) if rng.random() < 0.4 else 0.0,
        power=rng.uniform(1.8, 5.0) if rng.random() < 0.4 else 2.0,
        steps=rng.choice((8, 12, STEPS, STEPS, STEPS)),
        square=rng.random() < 0.5,
        contrast=rng.uniform(0.1, 0.65) if rng.random() < 0.4 else 0.0,
        serif=rng.uniform(0.07, 0.15) if rng.random() < 0.4 else 0.0,
        effect=rng.choice(("", "", "outline", "stencil")) if weight > 0.08 else "",
        jitter=rng.uniform(0.0, 0.04) if rng.random() < 0.4 else 0.0,
        alternates="".join(one for one in "aIltMG14679y" if rng.random() < 0.3),
    )
