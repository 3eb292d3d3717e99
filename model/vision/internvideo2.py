"""InternVideo2-1B, the other published vision encoder of VideoChat-Flash, in any size."""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .common import MLP, ClipEncoder, PatchEmbed, attend
from .state import depth_of, load_exactly, shape_of

# the published encoder file holds 40 blocks, of which all but the last are used
FILE_DEPTH = 40
EPS, SCALE = 1e-6, 1e-5
NAMES = ("cls_token", "pos_embed", "img_pos_embed", "patch_embed.", "blocks.")


class _RMSNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        # rounded before the weight, as published: F.rms_norm with a weight rounds once
        return self.weight * F.rms_norm(x, x.shape[-1:], eps=EPS)


class _LayerScale(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class _Attention(nn.Module):
    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.q_norm, self.k_norm = _RMSNorm(channels), _RMSNorm(channels)
        self.proj = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(attend(self.q_norm(q), self.k_norm(k), v, self.num_heads))


class _Block(nn.Module):
    def __init__(self, channels: int, num_heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = _RMSNorm(channels)
        self.attn = _Attention(channels, num_heads)
        self.ls1 = _LayerScale(channels)
        self.norm2 = _RMSNorm(channels)
        self.mlp = MLP(channels, hidden)
        self.ls2 = _LayerScale(channels)
        self.drop_path = drop_path

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._drop(self.ls1(self.attn(self.norm1(x))))
        return x + self._drop(self.ls2(self.mlp(self.norm2(x))))

    def _drop(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return x
        keep = 1 - self.drop_path
        return x * (x.new_empty(len(x), 1, 1).bernoulli_(keep) / keep)


class InternVideo2Encoder(ClipEncoder):
    """frames [B, T, 3, S, S] -> [B, T * L, C], L = (S / patch_size)^2: each clip by itself.

    Patches in the order time, row, column, behind one class token, plus learned positions; pre-norm
    blocks of attention over all tokens of a clip, with normalised queries and keys and scaled
    branches; no last norm, and the class token is dropped. T is num_frames for clips or 1 for
    images, which have positions of their own. Parameters have the published names. The defaults
    are InternVideo2-1B at 224 pixels.

    Args:
        image_size: S, pixels; a multiple of patch_size.
        num_frames: T of a clip.
        patch_size: pixels.
        channels: C.
        depth: number of blocks.
        num_heads: attention heads and groups of the token metric, a divisor of channels.
        mlp_channels: hidden channels of the MLPs; None = 48 / 11 * channels.
        drop_path: in training the branches of the last block are left out of a clip with this
            probability, those of the first never, linear in between. 0.25 as published.

    Raises:
        ValueError: sizes that are no positive integers or do not divide each other, or a drop_path
            outside [0, 1).

    Source: VideoChat-Flash (arXiv 2501.00574); InternVideo2 (arXiv 2403.15377).

    >>> import torch
    >>> from hico.model.vision import InternVideo2Encoder
    >>> encoder = InternVideo2Encoder(channels=32, depth=1, num_heads=4)
    >>> encoder(torch.zeros(1, 4, 3, 224, 224)).shape
    torch.Size([1, 1024, 32])
    """

    def __init__(
        self,
        image_size: int = 224,
        num_frames: int = 4,
        patch_size: int = 14,
        channels: int = 1408,
        depth: int = 39,
        num_heads: int = 16,
        mlp_channels: int | None = None,
        drop_path: float = 0.0,
    ) -> None:
        hidden = int(channels * 48 / 11) if mlp_channels is None else mlp_channels
        super().__init__(image_size, num_frames, patch_size, channels, depth, num_heads, hidden)
        if not isinstance(drop_path, (int, float)) or not 0 <= drop_path < 1:
            raise ValueError(f"drop_path: expected a number in [0, 1), got {drop_path!r}")
        tokens = (image_size // patch_size) ** 2
        self.cls_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + num_frames * tokens, channels))
        self.img_pos_embed = nn.Parameter(0.02 * torch.randn(1, 1 + tokens, channels))
        self.patch_embed = PatchEmbed(patch_size, channels)
        rates = [drop_path * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleList(_Block(channels, num_heads, hidden, rate) for rate in rates)

    @property
    def trunk(self) -> "InternVideo2Encoder":
        return self

    @classmethod
    def from_published(
        cls,
        state_dict: Mapping[str, Tensor],
        image_size: int = 224,
        num_frames: int = 4,
        num_heads: int = 16,
        drop_path: float = 0.0,
    ) -> "InternVideo2Encoder":
        """The encoder whose channels, depth and patch size the shapes of its parameters tell.

        Parts of a pretraining file that the encoder does not have are left aside, and of 40 blocks
        the last is dropped, as published. The parameters are copies in the type and on the device
        of the state dict.

        Raises:
            ValueError: missing or unknown names, wrong shapes, or sizes that do not fit together.

        >>> from hico.model.vision import InternVideo2Encoder
        >>> state = InternVideo2Encoder(channels=32, depth=2, num_heads=4).state_dict()
        >>> encoder = InternVideo2Encoder.from_published(state, num_heads=4)
        >>> len(encoder.blocks), encoder.channels
        (2, 32)
        """
        owner = "InternVideo2Encoder"
        state = {name: t for name, t in state_dict.items() if name.startswith(NAMES)}
        depth = depth_of(state, "blocks.")
        if depth == FILE_DEPTH:
            depth -= 1
            state = {
                name: t for name, t in state.items() if not name.startswith(f"blocks.{depth}.")
            }
        shape = shape_of(state, "patch_embed.proj.weight", 5, owner)
        hidden = shape_of(state, "blocks.0.mlp.fc1.weight", 2, owner)[0]
        sizes = (shape[-1], shape[0], depth, num_heads, hidden, drop_path)
        with torch.device("meta"):
            encoder = cls(image_size, num_frames, *sizes)
        return load_exactly(encoder, state, owner)

    def forward(self, frames: Tensor, return_metric: bool = False) -> Any:
        """Encode clips or images.

        Args:
            frames: floating [B, T, 3, S, S], normalised, T = num_frames or 1; converted to the
                type of the weights.
            return_metric: also return the mean of the output over the heads, which is what
                merge_tokens(tokens, M, metric=metric) needs.

        Returns:
            tokens [B, T * L, C]; with return_metric also float32 [B, T * L, C / num_heads]
            (float64 for float64), without a gradient.

        Raises:
            ValueError: another shape, or frames that are not floating.
        """
        self._check_frames(frames)
        positions = self.img_pos_embed if frames.shape[1] == 1 else self.pos_embed
        x = torch.cat((self.cls_token.expand(len(frames), 1, -1), self.patch_embed(frames)), dim=1)
        x = self._run_blocks(x + positions)[:, 1:].contiguous()
        if not return_metric:
            return x
        kind = torch.float64 if x.dtype == torch.float64 else torch.float32
        return x, x.detach().unflatten(2, (self.num_heads, -1)).mean(2, dtype=kind)
