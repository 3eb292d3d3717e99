"""The published connector: clips merged to a few tokens each, then a two-layer MLP."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from hico.ops import _check
from hico.ops.merge import MergeResult, merge_tokens

from .state import load_exactly, shape_of


class Connector(nn.Module):
    """x [B, N, C] -> MLP(merge(x)) [B, tokens_per_clip, D], MLP = Linear, exact GELU, Linear.

    A row is what is merged jointly: a clip over space and time, or an image. Slots come in the
    order that published checkpoints expect; equal similarities go to the lower position. Parameters
    have the published names.

    Args:
        channels: C, of the encoder.
        hidden: D, of the language model.
        num_heads: the token metric is the mean of x over this many groups of channels.
        tokens_per_clip: tokens that stay of a row.

    Raises:
        ValueError: sizes that are no positive integers, or num_heads that does not divide channels.

    Source: VideoChat-Flash (arXiv 2501.00574), section 3.1.

    >>> import torch
    >>> from hico.model.vision import Connector
    >>> Connector(32, 48, num_heads=4)(torch.randn(2, 196, 32)).shape
    torch.Size([2, 64, 48])
    """

    def __init__(
        self, channels: int, hidden: int, num_heads: int = 16, tokens_per_clip: int = 64
    ) -> None:
        super().__init__()
        sizes = {"channels": channels, "hidden": hidden, "tokens_per_clip": tokens_per_clip}
        for name, value in sizes.items():
            _check.integer(name, value, 1, 1 << 31)
        _check.heads(num_heads, channels)
        self.channels, self.num_heads = channels, num_heads
        self.tokens_per_clip = tokens_per_clip
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, hidden))

    @classmethod
    def from_published(
        cls, state_dict: Mapping[str, Tensor], num_heads: int = 16, tokens_per_clip: int = 64
    ) -> "Connector":
        """The connector whose sizes the shapes of `mlp.0.*` and `mlp.2.*` tell.

        The parameters are copies in the type and on the device of the state dict.

        Raises:
            ValueError: missing or unknown names, or wrong shapes.

        >>> from hico.model.vision import Connector
        >>> state = Connector(32, 48, num_heads=4).state_dict()
        >>> sorted(Connector.from_published(state, num_heads=4).state_dict())
        ['mlp.0.bias', 'mlp.0.weight', 'mlp.2.bias', 'mlp.2.weight']
        """
        hidden, channels = shape_of(state_dict, "mlp.0.weight", 2, "Connector")
        with torch.device("meta"):
            connector = cls(channels, hidden, num_heads, tokens_per_clip)
        return load_exactly(connector, state_dict, "Connector")

    def merge(self, x: Tensor, metric: Tensor | None = None) -> MergeResult:
        """merge_tokens in published order; the metric as the encoder returns it, or None.

        Raises:
            ValueError: x is not [B, N, C] floating with N >= tokens_per_clip, or another metric.
        """
        _check.tokens("x", x)
        _check.shape("x", x, x.shape[0], x.shape[1], self.channels)
        if x.shape[1] < self.tokens_per_clip:
            raise ValueError(
                f"x: expected at least {self.tokens_per_clip} tokens a row, got {x.shape[1]}"
            )
        heads = self.num_heads if metric is None else None
        return merge_tokens(
            x, self.tokens_per_clip, num_heads=heads, metric=metric, order="reference"
        )

    def forward(self, x: Tensor, metric: Tensor | None = None) -> Tensor:
        """Tokens of B clips or images, [B, N, C], to [B, tokens_per_clip, D]; errors as in merge.

        Args:
            x: the encoder's output.
            metric: [B, N, C / num_heads], what the encoder returns with return_metric; None
                computes it.
        """
        return self.mlp(self.merge(x, metric).tokens)
