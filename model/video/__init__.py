"""Reading videos: exact frames at exact times, upright, one frame in memory at a time."""

from .reader import VideoReader
from .resize import resize_frames
from .sampling import sample_indices
from .table import FrameTable

__all__ = ["FrameTable", "VideoReader", "resize_frames", "sample_indices"]
