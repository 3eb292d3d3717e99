"""Videos and pictures made on the spot: each frame carries its own number in a bar code."""

import struct
from fractions import Fraction

import numpy as np

BITS, CELL = 8, 8
WIDTH, HEIGHT = BITS * CELL, 48


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


def save(path, pixels, orientation=None):
    """Write a PNG or JPEG; `orientation` is the EXIF number of it."""
    import av

    codec = "png" if path.suffix.lower() == ".png" else "mjpeg"
    context = av.CodecContext.create(codec, "w")
    context.height, context.width = pixels.shape[:2]
    context.pix_fmt, context.time_base = "rgb24" if codec == "png" else "yuvj420p", Fraction(1, 25)
    if codec == "mjpeg":
        context.options = {"q": "2"}
    frame = av.VideoFrame.from_ndarray(pixels, "rgb24").reformat(format=context.pix_fmt)
    frame.pts = 0
    data = b"".join(bytes(p) for p in [*context.encode(frame), *context.encode(None)])
    if orientation:
        entry = struct.pack(">IHHHIHHI", 8, 1, 0x112, 3, 1, orientation, 0, 0)
        body = b"Exif\0\0MM\0*" + entry
        data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]
    path.write_bytes(data)
    return path
