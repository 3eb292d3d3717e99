"""What the vision encoders share: patches, MLP, the checks, and passes over many clips."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from hico.ops import _check


class PatchEmbed(nn.Module):
    """[B, T, 3, H, W] -> [B, T * L, C]; patches do not overlap, so that a product suffices."""

    def __init__(self, patch_size: int, channels: int) -> None:
        super().__init__()
        kernel = (1, patch_size, patch_size)
        self.proj = nn.Conv3d(3, channels, kernel, kernel)

    def forward(self, frames: Tensor) -> Tensor:
        batch, time, _, height, width = frames.shape
        patch = self.proj.kernel_size[1]
        rows, columns = height // patch, width // patch
        x = frames.to(self.proj.weight.dtype)
        x = x.reshape(batch, time, 3, rows, patch, columns, patch)
        x = x.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, time * rows * columns, 3 * patch**2)
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class MLP(nn.Module):
    """fc2(GELU(fc1(x))), the exact GELU."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def attend(q: Tensor, k: Tensor, v: Tensor, num_heads: int) -> Tensor:
    """Attention of every token of a row to all, head by head: three of [B, N, C] to one."""
    heads = (t.unflatten(2, (num_heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)


def fastest_attention(device: torch.device) -> AbstractContextManager:
    """On a GPU the cuDNN kernels go first; backends that the caller switched off stay off.

    Entered outside of compiled passes: a backend is chosen when a pass is traced.
    """
    cuda = torch.backends.cuda
    if device.type != "cuda" or not cuda.cudnn_sdp_enabled():
        return nullcontext()
    order = [SDPBackend.CUDNN_ATTENTION]
    order += [SDPBackend.FLASH_ATTENTION] * cuda.flash_sdp_enabled()
    order += [SDPBackend.EFFICIENT_ATTENTION] * cuda.mem_efficient_sdp_enabled()
    order += [SDPBackend.MATH] * cuda.math_sdp_enabled()
    return sdpa_kernel(order, set_priority=True)


class ClipEncoder(nn.Module):
    """frames [B, T, 3, S, S] -> [B, T * L, C], L = (S / patch_size)^2: each clip by itself.

    The base of the encoders: a subclass has forward(frames, return_metric) and `trunk`, the module
    that holds `patch_embed` and `blocks`.

    Attributes:
        image_size, num_frames, patch_size, channels, num_heads: as given.
        gradient_checkpointing: in training the activations inside blocks are computed once more
            in the backward pass instead of kept; False at first.
    """

    def __init__(
        self,
        image_size: int,
        num_frames: int,
        patch_size: int,
        channels: int,
        depth: int,
        num_heads: int,
        hidden: int,
    ) -> None:
        super().__init__()
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
        self.gradient_checkpointing = False

    @property
    def trunk(self) -> Any:
        raise NotImplementedError

    def _run_blocks(self, x: Tensor) -> Tensor:
        again = self.gradient_checkpointing and self.training and torch.is_grad_enabled()
        for block in self.trunk.blocks:
            x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x

    def compile_blocks(self, **options: Any) -> None:
        """Compile the blocks, once for all of them and for every number of clips.

        Takes seconds where compiling the encoder takes a minute. The first pass compiles; a change
        of the weights' values needs no other compilation. Options go to torch.compile. Compiled
        blocks take less memory than others and, but for VisionEncoder without gradients in
        bfloat16 on a GPU, less time.
        """
        options = {"dynamic": True} | options
        for block in self.trunk.blocks:
            block.compile(**options)

    @torch.no_grad()
    def encode(
        self,
        frames: Tensor,
        chunk: int = 64,
        then: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Encode any number of clips, `chunk` at a time, without gradients.

        Memory follows the chunk and what is kept of each clip: UMT-L in half precision takes 1.1
        GiB for 64 clips at 224 pixels and four times that at 448. Frames may be on another device
        than the weights; each chunk is moved when its turn comes. Passes are compiled if
        `compile_blocks()` or `compile()` was called before. On a GPU attention runs in cuDNN's
        kernels, unless they are switched off (torch.backends.cuda.enable_cudnn_sdp), and in
        fused.run on a Hopper GPU in hico's own.

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
        device = self.trunk.patch_embed.proj.weight.device
        out: Tensor | None = None
        for start in range(0, max(len(frames), 1), chunk):
            # to a CPU a copy that is not awaited would be read before it has arrived
            part = frames[start : start + chunk].to(device, non_blocking=device.type != "cpu")
            with fastest_attention(device):
                done = self(part) if then is None else self(part, return_metric=True)
            done = done if then is None else then(*done)
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
