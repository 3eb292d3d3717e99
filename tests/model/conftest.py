"""Videos made on the spot: every frame carries its own number in a bar code."""

import pytest
from video_helpers import draw, make, read_bars


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
