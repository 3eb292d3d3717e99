"""The model of the published sizes with random weights, and what it is compared with."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hico.bench.inputs import SEED
from hico.model import VideoChatFlashConfig, VideoChatFlashForConditionalGeneration
from hico.model.settings import DropoutSettings
from hico.model.vision.positions import cached_table

EVERYTHING = DropoutSettings((), (1.0,))


@dataclass(frozen=True)
class Sizes:
    """What is run.

    Attributes:
        frames, visual, text: of the video, and rows of the language model alone.
        counts: frames of the table's lines.
        steps: of decoding, timed one by one.
        answer: tokens of an answer in the table.
        warm: frames of what runs before anything is timed.
        dropout: the published schedule, or what the depth allows.
        config: fields that differ from VideoChatFlashConfig's.
    """

    frames: int
    visual: int
    text: int
    counts: tuple[int, ...]
    steps: int
    answer: int
    warm: int
    dropout: DropoutSettings
    config: dict[str, Any]


REAL = Sizes(
    frames=10_000,
    visual=160_000,
    text=256,
    counts=(64, 256, 1000, 4000, 10_000),
    steps=32,
    answer=64,
    warm=256,
    dropout=DropoutSettings((4, 18), (1.0, 0.75, 0.25)),
    # otherwise the published 7B's
    config={"mm_vision_tower": "umt", "max_position_embeddings": 262_144},
)
DRY = Sizes(
    frames=8,
    visual=64,
    text=8,
    counts=(4, 8),
    steps=2,
    answer=3,
    warm=4,
    dropout=DropoutSettings((1, 3), (1.0, 0.75, 0.25)),
    config={
        "mm_vision_tower": "umt", "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
        "mm_hidden_size": 32, "vision_config": {
            "image_size": 32, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2,
            "num_attention_heads": 4,
        },
    },
)  # fmt: skip


@dataclass
class Setup:
    """The models of a run, made when first wanted, and their inputs."""

    sizes: Sizes
    device: torch.device
    # of the encoder's blocks, once they are compiled
    compiled: list[Any] = field(default_factory=list)

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @cached_property
    def model(self) -> Any:
        """VideoChat-Flash, in evaluation."""
        config = VideoChatFlashConfig(**self.sizes.config)
        with torch.device("meta"):
            model = VideoChatFlashForConditionalGeneration(config)
        fill(model.to(self.dtype).to_empty(device=self.device), SEED)
        model.generation_config.eos_token_id = None
        return with_rotation(model.eval(), self.device)

    @cached_property
    def transformers(self) -> Any:
        """transformers' own Qwen2 with the same weights, not a copy of them."""
        from transformers import Qwen2Config, Qwen2ForCausalLM

        fields = {k: v for k, v in self.sizes.config.items() if not k.startswith(("mm_", "vision"))}
        published = VideoChatFlashConfig(**self.sizes.config)
        same = Qwen2Config().to_dict().keys() & published.to_dict().keys()
        same -= {"model_type", "architectures", "transformers_version"}
        fields |= {name: getattr(published, name) for name in same}
        with torch.device("meta"):
            plain = Qwen2ForCausalLM(Qwen2Config(**fields)).to(self.dtype)
        own = self.model.state_dict()
        plain.load_state_dict({name: own[name] for name in plain.state_dict()}, assign=True)
        return with_rotation(plain.eval(), self.device)

    @cached_property
    def processor(self) -> Any:
        """A token for every byte: the published vocabulary is not here, and rows are rows."""
        from hico.model import VideoChatFlashProcessor
        from hico.model.load import byte_tokenizer

        return VideoChatFlashProcessor(byte_tokenizer(), self.model.encoder.image_size)

    def generator(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(SEED)

    def frames(self, count: int) -> Tensor:
        """Decoded frames, uint8 [count, S, S, 3]."""
        side, draw = self.model.encoder.image_size, self.generator()
        shape = (count, side, side, 3)
        return torch.randint(
            256, shape, dtype=torch.uint8, device=self.device, generator=draw
        )  # fmt: skip

    def clips(self, count: int) -> Tensor:
        """Normalised frames, [count / T, T, 3, S, S] in the model's type."""
        encoder = self.model.encoder
        shape = (count // encoder.num_frames, encoder.num_frames, 3, *[encoder.image_size] * 2)
        draw = self.generator()
        return torch.randn(shape, device=self.device, dtype=self.dtype, generator=draw)

    def prompt(self, visual: int) -> tuple[Tensor, tuple[int, int]]:
        """Embedded rows [1, visual + text, D], half of the text before the visual ones; their span.

        Of the variance that rows of text have.
        """
        text = self.sizes.text
        shape = (1, visual + text, self.model.config.hidden_size)
        draw = self.generator()
        rows = torch.randn(shape, device=self.device, dtype=self.dtype, generator=draw)
        return rows.mul_(0.02), (text // 2, text // 2 + visual)


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Random weights: normal with deviation 0.02, norms 1, biases 0."""
    device = next(model.parameters()).device
    draw = torch.Generator(device).manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.zero_()
        elif weight.ndim == 1 and name.endswith("weight"):
            weight.fill_(1)
        else:
            weight.normal_(0, 0.02, generator=draw)


def with_rotation(model: Any, device: torch.device) -> Any:
    """The model with rotary frequencies, which are no weights and were lost on the way.

    Raises:
        ValueError: it has other buffers that are not weights.
    """
    base = model.model
    with device:
        base.rotary_emb = type(base.rotary_emb)(model.config)
    lost = [n for n, _ in model.named_buffers() if not n.startswith("model.rotary_emb.")]
    if lost:
        raise ValueError(f"model: expected no buffers but the rotary frequencies, got {lost}")
    return model


class PlainEncoder(nn.Module):
    """The published UMT-L as it is usually written, on an encoder's weights: no op of ours."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.net, self.num_heads = encoder.encoder, encoder.num_heads
        side, patch = encoder.image_size, encoder.patch_size
        weight = self.net.patch_embed.proj.weight
        self.table = cached_table(
            encoder.num_frames, side, patch, encoder.channels, weight.device, weight.dtype
        )

    def forward(self, frames: Tensor) -> Tensor:
        """[B, T, 3, S, S] -> [B, T * L, C]."""
        x = self.net.patch_embed.proj(frames.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = x + self.table
        for block in self.net.blocks:
            x = x + self.attention(block.attn, block.norm1(x))
            hidden = F.gelu(block.mlp.fc1(block.norm2(x)))
            x = x + block.mlp.fc2(hidden)
        return self.net.vision_layernorm(x)

    def attention(self, attn: Any, x: Tensor) -> Tensor:
        """Every token of a clip to all."""
        bias = torch.cat((attn.q_bias, torch.zeros_like(attn.v_bias), attn.v_bias))
        qkv = F.linear(x, attn.qkv.weight, bias)
        q, k, v = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
