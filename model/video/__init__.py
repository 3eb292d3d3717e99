"""Reading videos: exact frames at exact times, upright, in bounded memory."""

from .base import Video
from .opening import Clip, open_video, read_clip
from .pictures import is_image, read_image
from .reader import VideoReader
from .resize import resize_frames
from .sampling import frame_indices, sample_indices
from .table import FrameTable

__all__ = [
    "Clip",
    "FrameTable",
    "Video",
    "VideoReader",
    "frame_indices",
    "is_image",
    "open_video",
    "read_clip",
    "read_image",
    "resize_frames",
    "sample_indices",
]
