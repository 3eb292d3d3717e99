"""Draw the short video that ships with the package: a day's drive through a landscape.

    python tools/make_demo_video.py [model/data/demo.mp4]

Everything is computed from fixed seeds, so the pictures are always the same; the bytes of the file
also depend on the version of x264 inside PyAV.
"""

import sys
from pathlib import Path

import av
import numpy as np

WIDTH, HEIGHT, FPS, SECONDS = 448, 336, 25, 8
SCALE = 2  # drawn larger, then averaged: smooth edges
W, H = WIDTH * SCALE, HEIGHT * SCALE
HORIZON, ROAD = int(0.56 * H), int(0.80 * H)


class Canvas:
    """A float picture [height, width, 3] with the row and column of every pixel."""

    def __init__(self, picture=None, rows=None, columns=None):
        self.picture = np.zeros((H, W, 3), np.float32) if picture is None else picture
        if rows is None:
            rows, columns = np.mgrid[0:H, 0:W].astype(np.float32)
        self.rows, self.columns = rows, columns

    def part(self, x, y, wide, tall):
        """The rectangle around a point, as a canvas that paints into this one."""
        rows = slice(max(0, int(y - tall)), max(0, int(y + tall) + 2))
        columns = slice(max(0, int(x - wide)), max(0, int(x + wide) + 2))
        where = rows, columns
        return Canvas(self.picture[where], self.rows[where], self.columns[where])

    def paint(self, colour, cover):
        """Lay a colour (or a picture) over the canvas where `cover` is above 0."""
        colour = np.asarray(colour, np.float32)
        self.picture += (colour - self.picture) * np.clip(cover, 0, 1)[..., None]

    def blot(self, x, y, rx, ry, colour, strength=1.0):
        """A filled ellipse with a soft edge."""
        inside = 1 - np.hypot((self.columns - x) / rx, (self.rows - y) / ry)
        self.paint(colour, strength * np.clip(inside * min(rx, ry) / 2, 0, 1))


def noise(height, width, cell, seed, octaves=4):
    """[height, width] soft noise in 0..1 that repeats at the right edge."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        rows = max(2, int(height / cell * 2**octave) + 2)
        columns = max(2, int(width / cell * 2**octave))
        grid = rng.random((rows, columns), dtype=np.float32)
        y = np.linspace(0, rows - 1.001, height, dtype=np.float32)
        x = np.arange(width, dtype=np.float32) * (columns / width)
        fy, fx = smooth(y % 1)[:, None], smooth(x % 1)[None]
        y0, x0 = y.astype(int)[:, None], x.astype(int)[None]
        y1, x1 = y0 + 1, (x0 + 1) % columns
        top = grid[y0, x0] * (1 - fx) + grid[y0, x1] * fx
        bottom = grid[y1, x0] * (1 - fx) + grid[y1, x1] * fx
        total += (top * (1 - fy) + bottom * fy) / 2**octave
    return (total - total.min()) / (total.max() - total.min())


def smooth(t):
    return t * t * (3 - 2 * t)


def colours(t, *stops):
    """The colour of the hour: stops are (time, (r, g, b)), t is 0 at dawn and 1 at dusk."""
    times = [time for time, _ in stops]
    return np.array([np.interp(t, times, [c[i] for _, c in stops]) for i in range(3)], np.float32)


class Scenery:
    """What does not change from frame to frame, only moves: noise and outlines."""

    def __init__(self):
        self.clouds = noise(H // 2, 2 * W, 260, 29, 6)
        self.meadow = noise(H, 2 * W, 90, 2, 5)
        self.grain = noise(H, 2 * W, 12, 3, 2)
        self.ridges = [
            self.ridge(seed, *shape)
            for seed, shape in enumerate(
                [(0.10, 0.30, 300), (0.05, 0.17, 220), (0.015, 0.075, 300)], 10
            )
        ]
        rng = np.random.default_rng(7)
        self.trees = sorted(
            (float(y), float(x), float(s), int(k))
            for y, x, s, k in zip(
                rng.uniform(0.05, 0.55, 26) ** 1.3,
                rng.uniform(0, 3, 26),
                rng.uniform(0.7, 1.25, 26),
                rng.integers(0, 2, 26),
                strict=True,
            )
        )

    @staticmethod
    def ridge(seed, low, high, cell):
        line = noise(2, 2 * W, cell, seed, 6)[0]
        return HORIZON - H * (low + (high - low) * line)


def sky(canvas, scenery, t):
    top = colours(
        t,
        (0, (62, 78, 140)),
        (0.3, (60, 132, 214)),
        (0.7, (58, 120, 205)),
        (0.9, (74, 62, 128)),
        (1, (44, 40, 96)),
    )
    low = colours(
        t,
        (0, (255, 190, 140)),
        (0.3, (196, 226, 246)),
        (0.7, (204, 222, 238)),
        (0.9, (255, 150, 96)),
        (1, (232, 104, 92)),
    )
    height = smooth(np.clip(canvas.rows / HORIZON, 0, 1))[..., None]
    canvas.picture[:] = top + (low - top) * height
    angle = np.pi * (0.12 + 0.76 * t)
    x, y = W * (0.5 - 0.42 * np.cos(angle)), HORIZON * (1.06 - 0.86 * np.sin(angle))
    far = np.hypot(canvas.columns - x, canvas.rows - y)
    warm = colours(t, (0, (255, 214, 150)), (0.4, (255, 250, 226)), (1, (255, 176, 110)))
    canvas.paint(warm, 0.75 * np.exp(-far / (0.13 * W)))
    canvas.paint(warm * 0.35 + 165, np.clip((0.045 * W - far) / 3, 0, 1))
    shift = int(t * 0.22 * W)
    field = np.roll(scenery.clouds, shift, 1)[:, :W]
    cover = np.zeros((H, W), np.float32)
    cover[: H // 2] = np.clip((field - 0.53) * 4.2, 0, 0.92)
    cover *= np.clip(canvas.rows / (0.08 * H), 0.3, 1) * np.clip(
        (HORIZON - canvas.rows) / (0.25 * H), 0, 1
    )
    light = colours(
        t,
        (0, (255, 214, 196)),
        (0.3, (252, 252, 252)),
        (0.7, (250, 248, 246)),
        (0.9, (255, 176, 150)),
        (1, (206, 130, 146)),
    )
    canvas.paint(light, cover)


def hills(canvas, scenery, t):
    tones = [
        colours(
            t,
            (0, (128, 118, 158)),
            (0.3, (126, 158, 186)),
            (0.7, (122, 150, 180)),
            (1, (92, 72, 116)),
        ),
        colours(
            t, (0, (86, 92, 118)), (0.3, (84, 128, 128)), (0.7, (80, 122, 124)), (1, (64, 54, 86))
        ),
        colours(
            t, (0, (64, 84, 78)), (0.3, (74, 124, 82)), (0.7, (72, 118, 78)), (1, (46, 50, 62))
        ),
    ]
    for line, tone, speed in zip(scenery.ridges, tones, (0.05, 0.12, 0.25), strict=True):
        edge = np.roll(line, -int(t * speed * 2 * W))[:W]
        inside = np.clip(canvas.rows - edge + 0.5, 0, 1)
        shade = 1 + 0.10 * (np.roll(scenery.meadow, -int(t * speed * 2 * W), 1)[:, :W] - 0.5)
        mist = np.clip((canvas.rows - edge) / (0.3 * H), 0, 1)[..., None]
        canvas.paint((tone * shade[..., None]) * (1 - 0.25 * mist) + 46 * mist, inside)


def ground(canvas, scenery, t, day):
    near = np.clip((canvas.rows - HORIZON) / (H - HORIZON), 0, 1)
    # a point of the ground moves past the faster, the nearer it is
    moved = canvas.columns + t * W * (0.5 + 1.6 * near)
    x, y = moved.astype(int) % (2 * W), canvas.rows.astype(int)
    soft, fine = scenery.meadow[y, x], scenery.grain[y, x]
    low = colours(
        t, (0, (88, 104, 66)), (0.3, (112, 158, 74)), (0.7, (118, 154, 70)), (1, (62, 72, 58))
    )
    high = colours(
        t, (0, (128, 128, 80)), (0.3, (176, 190, 96)), (0.7, (190, 182, 92)), (1, (98, 96, 66))
    )
    tone = low + (high - low) * smooth(soft)[..., None]
    tone = tone * (0.86 + 0.2 * near + 0.16 * (fine - 0.5) * near)[..., None]
    canvas.paint(tone, np.clip(canvas.rows - HORIZON + 0.5, 0, 1))
    stripe = np.clip(1 - np.abs(canvas.rows - ROAD) / (0.055 * H), 0, 1)
    asphalt = (92 * day + 12) * (1 + 0.10 * (fine - 0.5))[..., None] * np.array([1, 1, 1.06])
    canvas.paint(asphalt, np.clip(stripe * 40, 0, 1))
    phase = (canvas.columns + t * W * 1.45) % (0.16 * W)
    dash = (np.abs(canvas.rows - ROAD) < 0.006 * H) & (phase < 0.08 * W)
    canvas.paint(np.array([236, 226, 196]) * (0.35 + 0.65 * day), dash.astype(np.float32))


def trees(canvas, scenery, t, day, front):
    for depth, place, size, kind in scenery.trees:
        if (depth > 0.42) != front:
            continue
        near = 0.62 + 0.3 * depth if front else 0.06 + 0.5 * depth
        base = HORIZON + (H - HORIZON) * near
        x = (place * W - t * W * (0.5 + 1.6 * near)) % (3 * W) - 0.5 * W
        tall = size * H * (0.07 + 0.20 * near)
        if not -tall < x < W + tall:
            continue
        tree = canvas.part(x, base, tall, 1.2 * tall)
        tree.blot(x + 0.25 * tall, base, 0.42 * tall, 0.06 * tall, (20, 26, 22), 0.42)
        trunk = (
            (np.abs(tree.columns - x) < 0.035 * tall)
            & (tree.rows < base)
            & (tree.rows > base - 0.5 * tall)
        )
        tree.paint(np.array([78, 58, 44]) * (0.3 + 0.7 * day), trunk.astype(np.float32))
        leaves = np.array([(52, 104, 52), (86, 122, 46)][kind]) * (0.28 + 0.72 * day)
        if kind == 0:
            for step, wide in ((0.30, 0.30), (0.55, 0.24), (0.80, 0.16)):
                tip, foot = base - tall * (step + 0.28), base - tall * (step - 0.1)
                down = (tree.rows - tip) / (foot - tip)
                cone = (np.abs(tree.columns - x) < down * wide * tall) & (down < 1)
                tree.paint(leaves * (0.85 + 0.3 * step), cone.astype(np.float32))
        else:
            for dx, dy, r in ((-0.16, 0.52, 0.2), (0.16, 0.54, 0.2), (0, 0.74, 0.24)):
                spot = (x + dx * tall, base - dy * tall)
                tree.blot(*spot, r * tall, r * tall, leaves * (0.8 + 0.35 * dy))


def car(canvas, t, day):
    x = W * (0.28 + 0.34 * smooth(np.float32(t)))
    y = ROAD + 0.012 * H + 1.2 * np.sin(40 * t)
    u = 0.060 * W
    canvas = canvas.part(x, y, 12 * u, 4 * u)
    light = 0.38 + 0.62 * day
    canvas.blot(x, y + 0.62 * u, 1.75 * u, 0.22 * u, (14, 14, 18), 0.6)
    red, glass = np.array([206, 44, 40]) * light, np.array([176, 208, 226]) * light
    lines = np.abs(canvas.columns - x - 0.1 * u), canvas.rows - y
    body = (np.abs(canvas.columns - x) < 1.6 * u) & (lines[1] > -0.28 * u) & (lines[1] < 0.42 * u)
    nose = np.hypot((canvas.columns - x) / (1.75 * u), (canvas.rows - y - 0.2 * u) / (0.62 * u)) < 1
    canvas.paint(red, (body & nose).astype(np.float32))
    lean = 0.45 * (lines[1] + 0.28 * u)
    cabin = (lines[0] < 0.95 * u + lean) & (lines[1] > -0.85 * u) & (lines[1] <= -0.24 * u)
    canvas.paint(red * 0.86, cabin.astype(np.float32))
    pane = (lines[0] < 0.82 * u + lean) & (lines[1] > -0.74 * u) & (lines[1] < -0.30 * u)
    canvas.paint(glass, (pane & (np.abs(lines[0]) > 0.05 * u)).astype(np.float32))
    for side in (-0.95, 0.95):
        canvas.blot(x + side * u, y + 0.42 * u, 0.36 * u, 0.36 * u, (22, 22, 26))
        canvas.blot(x + side * u, y + 0.42 * u, 0.17 * u, 0.17 * u, np.full(3, 180 * light))
    if day < 0.75:
        beam = np.exp(
            -np.hypot((canvas.columns - x - 2.0 * u) / (1.3 * u), (canvas.rows - y) / (0.5 * u))
        )
        canvas.paint((255, 236, 176), (0.8 - day) * 2.2 * beam)


def birds(canvas, t):
    for i in range(5):
        x = W * (1.05 - 0.9 * t) + i * 0.05 * W
        y = H * (0.17 + 0.02 * ((i * 7) % 4)) + 6 * np.sin(9 * t + i)
        wing = 0.014 * W * (1 + 0.5 * np.sin(60 * t + 2 * i))
        span = np.abs(canvas.columns - x)
        arc = np.abs(canvas.rows - y + wing * np.sin(np.clip(span / (0.016 * W), 0, 1) * np.pi))
        canvas.paint((40, 40, 56), ((arc < 1.8) & (span < 0.016 * W)) * 0.85)


def draw(scenery, t):
    """uint8 [HEIGHT, WIDTH, 3] at time t, 0 to 1."""
    canvas = Canvas()
    day = float(np.interp(t, [0, 0.25, 0.75, 1], [0.62, 1, 1, 0.45]))
    sky(canvas, scenery, t)
    birds(canvas, t)
    hills(canvas, scenery, t)
    ground(canvas, scenery, t, day)
    trees(canvas, scenery, t, day, front=False)
    car(canvas, t, day)
    trees(canvas, scenery, t, day, front=True)
    small = canvas.picture.reshape(HEIGHT, SCALE, WIDTH, SCALE, 3).mean((1, 3))
    return np.clip(small + 0.5, 0, 255).astype(np.uint8)


def main(path):
    scenery, count = Scenery(), FPS * SECONDS
    options = {"profile": "baseline", "preset": "veryslow", "crf": "29", "g": "50", "threads": "1"}
    with av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw(scenery, i / (count - 1)), "rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    print(f"{path}: {count} frames, {path.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else here / "model" / "data" / "demo.mp4")
