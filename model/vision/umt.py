"""UMT-L, the published vision encoder of VideoChat-Flash, in any size."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hico.ops.norm import layer_norm_metric

from . import fused
from .common import MLP, ClipEncoder, PatchEmbed, attend
from .positions import cached_table
from .state import depth_of, load_exactly, shape_of

# the published encoder file holds 24 blocks, of which all but the last are used
FILE_DEPTH = 24
EPS, LAST_EPS = 1e-6, 1e-12


class _Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(channels))
        self.v_bias = nn.Parameter(torch.zeros(channels))
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        q, k, v = F.linear(x, self.qkv.weight, bias).chunk(3, dim=-1)
        return self.proj(attend(q, k, v, self.num_heads))


class _Block(nn.Module):
    def __init__(self, channels: int, num_heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=EPS)
        self.attn = _Attention(channels, num_heads)
        self.norm2 = nn.LayerNorm(channels, eps=EPS)
        self.mlp = MLP(channels, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


# what fused.run knows how to stand in for
STOCK = (_Block, _Attention, MLP, nn.Linear, nn.LayerNorm)


class _Encoder(nn.Module):
    def __init__(
        self, patch_size: int, channels: int, depth: int, num_heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(patch_size, channels)
        self.blocks = nn.ModuleList(_Block(channels, num_heads, hidden) for _ in range(depth))
        self.vision_layernorm = nn.LayerNorm(channels, eps=LAST_EPS)


class VisionEncoder(ClipEncoder):
    """frames [B, T, 3, S, S] -> [B, T * L, C], L = (S / patch_size)^2: each clip by itself.

    Patches in the order time, row, column, plus fixed positions; pre-norm blocks of attention over
    all tokens of a clip; a last LayerNorm. T is num_frames for clips or 1 for images. Parameters
    have the published names. The defaults are UMT-L at 224 pixels.

    Without gradients, in half precision on a GPU, and unless compiled, hooked or with other modules
    put in, the blocks run in fewer passes over memory, as fused.run says; in bfloat16 their GELU is
    then the tanh form, whose error is about that of rounding (fused.linear_gelu).

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
        hidden = 4 * channels if mlp_channels is None else mlp_channels
        super().__init__(image_size, num_frames, patch_size, channels, depth, num_heads, hidden)
        self.encoder = _Encoder(patch_size, channels, depth, num_heads, hidden)

    @property
    def trunk(self) -> _Encoder:
        return self.encoder

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
        depth = depth_of(state, "encoder.blocks.")
        with torch.device("meta"):
            encoder = cls(image_size, num_frames, shape[-1], shape[0], depth, num_heads, hidden)
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
        x = net.patch_embed(frames)
        x = x + cached_table(
            frames.shape[1], self.image_size, self.patch_size, self.channels, x.device, x.dtype
        )
        last, shift = net.vision_layernorm, None
        if fused.fits(x, net.blocks, STOCK):
            x, shift = fused.run(net.blocks, x)
        else:
            x = self._run_blocks(x)
        if return_metric:
            return layer_norm_metric(x, last.weight, last.bias, last.eps, self.num_heads, shift)
        return last(x if shift is None else x.add_(shift))


def _published_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    old, new = "encoder.norm.", "encoder.vision_layernorm."
    state = {name: t for name, t in state_dict.items() if name.startswith("encoder.")}
    if not any(name.startswith(old) for name in state):
        return state
    if depth_of(state, "encoder.blocks.") == FILE_DEPTH:
        unused = f"encoder.blocks.{FILE_DEPTH - 1}."
        state = {name: t for name, t in state.items() if not name.startswith(unused)}
    return {new + n.removeprefix(old) if n.startswith(old) else n: t for n, t in state.items()}
