"""From pixels to visual tokens: the encoders of VideoChat-Flash and its connector."""

from .connector import Connector
from .internvideo2 import InternVideo2Encoder
from .positions import position_table
from .tiles import image_tiles, square_image, tile_grid
from .umt import VisionEncoder

__all__ = [
    "Connector",
    "InternVideo2Encoder",
    "VisionEncoder",
    "image_tiles",
    "position_table",
    "square_image",
    "tile_grid",
]
