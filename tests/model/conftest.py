"""Videos made on the spot: every frame carries its own number in a bar code."""

from fractions import Fraction

import numpy as np
import pytest

BITS, CELL = 8, 8
WIDTH, HEIGHT = BITS * CELL, 48


@pytest.fixture(scope="session")
def make_video():
    """make_video(path, count, codec, ...) writes a video of numbered frames, see `make`."""
    pytest.importorskip("av")
    return make


@pytest.fixture(scope="session")
def number_of():
    """number_of(frame) reads the number of a uint8 [H, W, 3] frame from its bar code."""
    return read_bars


@pytest.fixture(scope="session")
def drawing():
    """drawing(number, width, height) is a frame as `make_video` draws it."""
    return draw


def draw(number, width=WIDTH, height=HEIGHT):
    """[H, W, 3]: the number as black and white bars above, a red corner below left, noise."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(60, 140, (height, width, 3), dtype=np.uint8)
    for bit in range(BITS):
        pixels[: height // 2, bit * CELL : (bit + 1) * CELL] = 255 * (number >> bit & 1)
    pixels[height * 3 // 4 :, : width // 4] = (220, 20, 20)
    return pixels


def read_bars(frame):
    """Read the bar code of a uint8 [H, W, 3] frame."""
    bars = frame[4 : HEIGHT // 2 - 4].float().mean((0, 2))
    lit = [bool(bars[b * CELL + 2 : (b + 1) * CELL - 2].mean() > 128) for b in range(BITS)]
    return sum(1 << b for b, on in enumerate(lit) if on)


def make(path, count=30, codec="libx264", rate=30, milliseconds=None, size=None, **options):
    """Write a video of `count` numbered frames; `milliseconds` gives every frame its own time."""
    import av

    width, height = size or (WIDTH, HEIGHT)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height = width, height
        stream.pix_fmt = {"gif": "rgb8", "png": "rgb24"}.get(codec, "yuv420p")
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(draw(i, width, height), "rgb24")
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[i], Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
