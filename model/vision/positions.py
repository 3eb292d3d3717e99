"""The fixed position tables of UMT: sines, stretched over finer grids and other clip lengths."""

import torch
import torch.nn.functional as F
from torch import Tensor

# what the published weights were trained with; other sizes are interpolated from it
BASE_FRAMES = 4
BASE_SIZE = 224
BASE_GRID = 14

_tables: dict[tuple, Tensor] = {}


def position_table(frames: int, image_size: int, patch_size: int, channels: int) -> Tensor:
    """table[p, 2i] = sin(p / 10000^(2i / C)), table[p, 2i + 1] = cos(the same), p over T, H, W.

    A clip is four frames: other lengths are interpolated linearly from its table, and one frame is
    an image, a table of its own. At 224 pixels the grid is the image's; any other size is a bicubic
    interpolation of the 14 x 14 grid, each frame by itself.

    Args:
        frames: T, frames of a clip.
        image_size, patch_size: pixels.
        channels: C.

    Returns:
        float32 [T * (image_size / patch_size)^2, C] on the CPU, computed in float64.

    Source: the published VideoChat-Flash (arXiv 2501.00574); UMT (arXiv 2303.16058).

    >>> from hico.model.vision import position_table
    >>> position_table(4, 224, 16, 1024)[1, :2]
    tensor([0.8415, 0.5403])
    """
    grid = image_size // patch_size
    start = 1 if frames == 1 else BASE_FRAMES
    base = grid if image_size == BASE_SIZE else BASE_GRID
    table = _sines(start * base**2, channels).view(start, base, base, channels)
    if base != grid:
        planes = table.permute(0, 3, 1, 2)
        planes = F.interpolate(planes, size=(grid, grid), mode="bicubic", align_corners=False)
        table = planes.permute(0, 2, 3, 1)
    if frames != start:
        lines = table.permute(1, 2, 3, 0).reshape(grid**2, channels, start)
        lines = F.interpolate(lines, size=frames, mode="linear", align_corners=False)
        table = lines.permute(2, 0, 1)
    return table.reshape(frames * grid**2, channels).contiguous()


def _sines(count: int, channels: int) -> Tensor:
    # the CPU by name: under torch.device("meta") there would be no values
    row = torch.arange(count, dtype=torch.float64, device="cpu")
    column = torch.arange(channels, dtype=torch.float64, device="cpu")
    power = 10000.0 ** (2 * (column // 2) / channels)
    angle = row[:, None] / power
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


# torch.compile takes the table as it is, not the way it is made
@torch.compiler.assume_constant_result
def cached_table(
    frames: int,
    image_size: int,
    patch_size: int,
    channels: int,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """position_table in this type on this device, made once.

    Not a buffer of the encoder: loaders that build on the meta device leave buffers that no file
    holds without values, and a cast to bfloat16 and back would round them.
    """
    key = (frames, image_size, patch_size, channels, device, dtype)
    table = _tables.get(key)
    if table is None:
        with torch.inference_mode(False):
            table = position_table(frames, image_size, patch_size, channels).to(device, dtype)
        if type(table) is Tensor:  # not a fake one, made while something was being traced
            _tables[key] = table
    return table
