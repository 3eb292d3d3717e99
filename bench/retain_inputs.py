"""Shapes and inputs of the retention cases, made on the device from a fixed seed."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hico.bench.record import Row
from hico.bench.timing import Inputs
from hico.budget import keep_count

KEEP = 0.25
EPS, THETA = 1e-6, 1e6
# tokens made at a time: the random numbers, and so the data, depend on it
CHUNK = 16384


@dataclass(frozen=True)
class Ranking:
    """B rows of N tokens with C channels before a layer of `heads` on `kv_heads` heads of D.

    `ragged`: rows of different lengths, N the longest.
    """

    N: int
    C: int
    heads: int
    kv_heads: int
    D: int
    B: int = 1
    ragged: bool = False
    dtype: torch.dtype = torch.bfloat16

    @property
    def lengths(self) -> list[int]:
        """Tokens of each row: all N, or evenly from about half of it to all."""
        if not self.ragged:
            return [self.N] * self.B
        return [self.N * (self.B + i) // (2 * self.B - 1) for i in range(self.B)]

    @property
    def kept(self) -> list[int]:
        """Tokens that each row keeps."""
        return [keep_count(n, KEEP) for n in self.lengths]

    def row(self) -> Row:
        """The sizes as a result row has them."""
        sizes = {"B": self.B, "N": self.N, "C": self.C, "M": max(self.kept), "heads": self.heads}
        return sizes | {"kv_heads": self.kv_heads, "D": self.D, "tokens": sum(self.lengths)}

    def __str__(self) -> str:
        tokens = f", {sum(self.lengths)} of them tokens," if self.ragged else ""
        return f"[{self.B}, {self.N}, {self.C}]{tokens} -> {max(self.kept)}"


@dataclass(frozen=True)
class Scores:
    """One row of N scores."""

    N: int
    dtype: torch.dtype = torch.float32

    @property
    def k(self) -> int:
        """How many are chosen."""
        return keep_count(self.N, KEEP)

    def row(self) -> Row:
        """The sizes as a result row has them."""
        return {"B": 1, "N": self.N, "M": self.k}

    def __str__(self) -> str:
        return f"[1, {self.N}] -> {self.k}"


@dataclass(frozen=True)
class Queries:
    """M query rows of `heads` heads over N keys of `kv_heads` heads of D; all attend all."""

    M: int
    N: int
    heads: int
    kv_heads: int
    D: int
    dtype: torch.dtype = torch.bfloat16

    def row(self) -> Row:
        """The sizes as a result row has them."""
        sizes = {"B": 1, "N": self.N, "M": self.M, "heads": self.heads}
        return sizes | {"kv_heads": self.kv_heads, "D": self.D}

    def __str__(self) -> str:
        return f"[{self.heads}, {self.M}, {self.D}] on [{self.kv_heads}, {self.N}, {self.D}]"


class Attention(nn.Module):
    """The projections of a Qwen2 attention, with random weights."""

    q_proj: nn.Linear
    k_proj: nn.Linear
    v_proj: nn.Linear

    def __init__(self, s: Ranking, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.head_dim = s.D
        for name, heads in (("q", s.heads), ("k", s.kv_heads), ("v", s.kv_heads)):
            linear = nn.Linear(s.C, heads * s.D, device=device, dtype=s.dtype)
            with torch.no_grad():
                # so that queries and keys have about unit channels
                linear.weight.normal_(std=s.C**-0.5, generator=generator)
                linear.bias.normal_(std=0.5, generator=generator)
            self.add_module(f"{name}_proj", linear)


class Layer(nn.Module):
    """As much of a Qwen2 decoder layer as ranking needs."""

    def __init__(self, s: Ranking, device: torch.device, generator: torch.Generator) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(s.C, eps=EPS, device=device, dtype=s.dtype)
        with torch.no_grad():
            self.input_layernorm.weight.normal_(1.0, 0.1, generator=generator)
        self.self_attn = Attention(s, device, generator)
        self.requires_grad_(False)


def rotation(s: Ranking, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(cos, sin) [1, n, D] in the model's dtype, as its rotary embedding hands them on."""
    frequency = THETA ** -(torch.arange(0, s.D, 2, device=device) / s.D)
    angle = torch.arange(n, device=device)[:, None] * frequency
    angle = torch.cat([angle, angle], -1)[None]
    return angle.cos().to(s.dtype), angle.sin().to(s.dtype)


def random_states(
    *shape: int, dtype: torch.dtype, device: torch.device, generator: torch.Generator
) -> Tensor:
    """Normal numbers, a part at a time: in fp32 they may not fit beside the result."""
    x = torch.empty(shape, dtype=dtype, device=device)
    for part in x.view(-1, shape[-1]).split(CHUNK):
        part.copy_(torch.randn(part.shape, device=device, generator=generator))
    return x


def before_a_layer(s: Ranking, device: torch.device, seed: int) -> Inputs:
    """(hidden, cos, sin, layer, some): `some` [k] are the rows that the floor's gather copies."""
    g = torch.Generator(device).manual_seed(seed)
    hidden = random_states(s.B, s.N, s.C, dtype=s.dtype, device=device, generator=g)
    some = torch.randperm(s.N, device=device, generator=g)[: s.kept[0]].sort().values
    return hidden, *rotation(s, s.N, device), Layer(s, device, g), some


def ragged(s: Ranking, device: torch.device, seed: int) -> Inputs:
    """(hidden, cos, sin, layer, lengths) of the batch, (hidden, cos, sin) of one row as long."""
    g = torch.Generator(device).manual_seed(seed)
    total = sum(s.lengths)
    hidden = random_states(s.B, s.N, s.C, dtype=s.dtype, device=device, generator=g)
    row = random_states(1, total, s.C, dtype=s.dtype, device=device, generator=g)
    lengths = torch.tensor(s.lengths, device=device)
    batch = (hidden, *rotation(s, s.N, device), Layer(s, device, g), lengths)
    return *batch, row, *rotation(s, total, device)


def attention_like(s: Scores, device: torch.device, seed: int) -> Inputs:
    """(score,): positive, adding to one, over a few orders of magnitude."""
    g = torch.Generator(device).manual_seed(seed)
    return ((2 * torch.randn(1, s.N, device=device, generator=g)).softmax(-1).to(s.dtype),)


def queries_and_keys(s: Queries, device: torch.device, seed: int) -> Inputs:
    """(q, k): rotated already."""
    g = torch.Generator(device).manual_seed(seed)
    shapes = ((1, s.heads, s.M, s.D), (1, s.kv_heads, s.N, s.D))
    return tuple(
        random_states(*shape, dtype=s.dtype, device=device, generator=g) for shape in shapes
    )
