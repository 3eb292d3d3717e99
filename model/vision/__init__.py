"""From pixels to visual tokens: the encoder of VideoChat-Flash and its connector."""

from .connector import Connector
from .positions import position_table
from .tiles import image_tiles, tile_grid
from .umt import VisionEncoder

__all__ = ["Connector", "VisionEncoder", "image_tiles", "position_table", "tile_grid"]
