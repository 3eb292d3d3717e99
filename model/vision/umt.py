"""UMT-L, the published vision encoder of VideoChat-Flash, in any size."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hico.ops import _check
from hico.ops.norm import layer_norm_metric

from .positions import cached_table
from .state import load_exactly, shape_of

# the published encoder file holds 24 blocks, of which all but the last are used
FILE_DEPTH = 24
EPS, LAST_EPS = 1e-6, 1e-12


class _PatchEmbed(nn.Module):
    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        kernel = (1, patch_size, patch_size)
        self.proj = nn.Conv3d(3, channels, kernel, kernel)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, 3, H, W] -> [B, T * L, C]; patches do not overlap, so that a product suffices."""
        batch, time, _, height, width = frames.shape
        patch = self.proj.kernel_size[1]
        rows, columns = height // patch, width // patch
        x = frames.reshape(batch, time, 3, rows, patch, columns, patch)
        x = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, time * rows * columns, 3 * patch**2)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class _Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, n, channels = x.shape
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)
        qkv = qkv.reshape(batch, n, 3, self.num_heads, channels // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.proj(out.transpose(1, 2).reshape(batch, n, channels))


class _MLP(nn.Module):
    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = _Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = _MLP(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _Encoder(nn.Module):
    def __init__(
        self, patch_size: int, channels: int, depth: int, num_heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.patch_embed = _PatchEmbed(patch_size, channels)
        self.blocks = nn.ModuleList(_Block(channels, num_heads, hidden) for _ in range(depth))
        self.vision_layernorm = nn.LayerNorm(channels, eps=LAST_EPS)


class VisionEncoder(nn.Module):
    """frames [B, T, 3, S, S] -> [B, T * L, C], L = (S / patch_size)^2: each clip by itself.

    Patches in the order time, row, column, plus fixed positions; pre-norm blocks of attention over
    all tokens of a clip; a last LayerNorm. T is num_frames for clips or 1 for images. Parameters
    have the published names. The defaults are UMT-L at 224 pixels.

    Args:
        image_size: S, pixels; a multiple of patch_size.
        num_frames: T of a clip; the positions of other lengths than four are interpolated.
        patch_size: pixels.
        channels: C.
        depth: number of blocks.
        num_heads: attention heads and groups of the token metric, a divisor of channels.
        mlp_channels: hidden channels of the MLPs; None = 4 * channels.

    Raises:
        ValueError: sizes that are no positive integers or do not divide each other.

    Source: VideoChat-Flash (arXiv 2501.00574), section 3.1; UMT (arXiv 2303.16058).

    >>> import torch
    >>> from hico.model.vision import VisionEncoder
    >>> encoder = VisionEncoder(channels=32, depth=1, num_heads=4)
    >>> encoder(torch.zeros(1, 4, 3, 224, 224)).shape
    torch.Size([1, 784, 32])
    """

    def __init__(
        self,
        image_size: int = 224,
        num_frames: int = 4,
        patch_size: int = 16,
        channels: int = 1024,
        depth: int = 23,
        num_heads: int = 16,
        mlp_channels: int | None = None,
    ) -> None:
        super().__init__()
        hidden = 4 * channels if mlp_channels is None else mlp_channels
        sizes = {"image_size": image_size, "num_frames": num_frames, "patch_size": patch_size}
        sizes |= {"channels": channels, "depth": depth, "mlp_channels": hidden}
        for name, value in sizes.items():
            _check.integer(name, value, 1, 1 << 31)
        if image_size % patch_size:
            raise ValueError(
                f"image_size: expected a multiple of patch_size {patch_size}, got {image_size}"
            )
        _check.heads(num_heads, channels)
        self.image_size, self.num_frames, self.patch_size = image_size, num_frames, patch_size
        self.channels, self.num_heads = channels, num_heads
        self.encoder = _Encoder(patch_size, channels, depth, num_heads, hidden)

    @classmethod
    def from_published(
        cls,
        state_dict: Mapping[str, Tensor],
        image_size: int = 224,
        num_frames: int = 4,
        num_heads: int = 16,
    ) -> "VisionEncoder":
        """The encoder whose channels, depth and patch size the shapes of `encoder.*` tell.

        Names that do not start with `encoder.` are left aside. In a pretraining file the last norm
        is called `encoder.norm`: it is renamed, and of 24 blocks the last is dropped, as published.
        The parameters are copies in the type and on the device of the state dict.

        Raises:
            ValueError: missing or unknown names, wrong shapes, or sizes that do not fit together.

        >>> from hico.model.vision import VisionEncoder
        >>> state = VisionEncoder(channels=32, depth=2, num_heads=4).state_dict()
        >>> encoder = VisionEncoder.from_published(state, num_heads=4)
        >>> len(encoder.encoder.blocks), encoder.channels
        (2, 32)
        """
        owner = "VisionEncoder"
        state = _published_names(state_dict)
        shape = shape_of(state, "encoder.patch_embed.proj.weight", 5, owner)
        hidden = shape_of(state, "encoder.blocks.0.mlp.fc1.weight", 2, owner)[0]
        with torch.device("meta"):
            encoder = cls(
                image_size, num_frames, shape[-1], shape[0], _depth(state), num_heads, hidden
            )
        return load_exactly(encoder, state, owner)

    def forward(self, frames: Tensor, return_metric: bool = False) -> Any:
        """Encode clips or images.

        Args:
            frames: floating [B, T, 3, S, S], normalised, T = num_frames or 1; converted to the
                type of the weights.
            return_metric: also return the mean of the output over the heads, found in the pass of
                the last norm, which is what merge_tokens(tokens, M, metric=metric) needs.

        Returns:
            tokens [B, T * L, C]; with return_metric also float32 [B, T * L, C / num_heads]
            (float64 for float64).

        Raises:
            ValueError: another shape, or frames that are not floating.
        """
        self._check_frames(frames)
        net = self.encoder
        x = net.patch_embed(frames.to(net.patch_embed.proj.weight.dtype))
        x = x + cached_table(
            frames.shape[1], self.image_size, self.patch_size, self.channels, x.device, x.dtype
        )
        for block in net.blocks:
            x = block(x)
        last = net.vision_layernorm
        if return_metric:
            return layer_norm_metric(x, last.weight, last.bias, last.eps, self.num_heads)
        return last(x)

    @torch.no_grad()
    def encode(
        self,
        frames: Tensor,
        chunk: int = 32,
        then: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Encode any number of clips, `chunk` at a time, without gradients.

        Memory follows the chunk and what is kept of each clip. Frames may be on another device
        than the weights; each chunk is moved when its turn comes. Passes are compiled if
        `encoder.compile()` was called before.

        Args:
            frames: as in forward.
            chunk: clips (or images) in one pass.
            then: gets tokens and metric of a chunk and returns what is kept, [chunk, ...]; such as
                a Connector, or its merge. None keeps the tokens.

        Returns:
            [B, ...]: what `then` returned, or the tokens, for all clips in order.

        Raises:
            ValueError: frames as in forward, or a chunk below 1.

        >>> import torch
        >>> from hico.model.vision import Connector, VisionEncoder
        >>> encoder = VisionEncoder(160, channels=32, depth=1, num_heads=4)
        >>> connector = Connector(32, 48, num_heads=4)
        >>> encoder.encode(torch.zeros(3, 1, 3, 160, 160), chunk=2, then=connector).shape
        torch.Size([3, 64, 48])
        """
        self._check_frames(frames)
        _check.integer("chunk", chunk, 1, 1 << 31)
        device = self.encoder.patch_embed.proj.weight.device
        out: Tensor | None = None
        for start in range(0, max(len(frames), 1), chunk):
            # to a CPU a copy that is not awaited would be read before it has arrived
            part = frames[start : start + chunk].to(device, non_blocking=device.type != "cpu")
            done = self(part) if then is None else then(*self(part, return_metric=True))
            if out is None:
                if len(part) == len(frames):
                    return done
                out = done.new_empty(len(frames), *done.shape[1:])
            out[start : start + chunk] = done
        assert out is not None
        return out

    def _check_frames(self, frames: Tensor) -> None:
        side, lengths = self.image_size, (self.num_frames, 1)
        shape = list(frames.shape) if isinstance(frames, Tensor) else type(frames).__name__
        fits = isinstance(frames, Tensor) and frames.ndim == 5
        if not fits or shape[1] not in lengths or shape[2:] != [3, side, side]:
            raise ValueError(
                f"frames: expected [B, T, 3, {side}, {side}] with T = {self.num_frames} "
                f"(num_frames) or 1, got {shape}"
            )
        if not frames.is_floating_point():
            raise ValueError(f"frames: expected normalised floating values, got {frames.dtype}")


def _published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    old, new = "encoder.norm.", "encoder.vision_layernorm."
    state = {name: t for name, t in state_dict.items() if name.startswith("encoder.")}
    if not any(name.startswith(old) for name in state):
        return state
    if _depth(state) == FILE_DEPTH:
        unused = f"encoder.blocks.{FILE_DEPTH - 1}."
        state = {name: t for name, t in state.items() if not name.startswith(unused)}
    return {new + n.removeprefix(old) if n.startswith(old) else n: t for n, t in state.items()}


def _depth(state: Mapping[str, Tensor]) -> int:
    found = (re.match(r"encoder\.blocks\.(\d+)\.", name) for name in state)
    return 1 + max((int(match[1]) for match in found if match), default=-1)
