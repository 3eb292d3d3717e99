"""Argument checks: one clear error that names what was expected and what came, before any work."""

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def tokens(name: str, x: Tensor) -> None:
    """x is [B, N, C] in a floating dtype, with at least one channel."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: expected a tensor [B, N, C], got {type(x).__name__}")
    if x.ndim != 3 or x.shape[-1] == 0:
        raise ValueError(f"{name}: expected [B, N, C] with C >= 1, got {list(x.shape)}")
    if x.dtype not in FLOATS:
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {x.dtype}")


def shape(name: str, t: Tensor, *expected: int) -> None:
    """t has exactly this shape."""
    if not isinstance(t, Tensor) or tuple(t.shape) != expected:
        got = list(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"{name}: expected shape {list(expected)}, got {got}")


def real(name: str, t: Tensor, *expected: int) -> None:
    """t has this shape and a number for dtype."""
    shape(name, t, *expected)
    if t.dtype.is_complex or t.dtype == torch.bool:
        raise ValueError(f"{name}: expected integers or floats, got {t.dtype}")


def indices(name: str, t: Tensor, *expected: int) -> None:
    """t has this shape and is int64 or int32."""
    shape(name, t, *expected)
    if t.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"{name}: expected int64 or int32, got {t.dtype}")


def token_rows(name: str, index: Tensor, batch: int, count: int | None = None) -> Tensor:
    """Token indices [N] for all rows or [B, N], N = count if given, as int64 [B, N]."""
    if not isinstance(index, Tensor) or index.ndim not in (1, 2):
        got = list(index.shape) if isinstance(index, Tensor) else type(index).__name__
        raise ValueError(f"{name}: expected token indices [N] or [B, N], got {got}")
    count = index.shape[-1] if count is None else count
    indices(name, index, *([batch] if index.ndim == 2 else []), count)
    return index.to(torch.int64).expand(batch, -1)


def scores(name: str, t: Tensor) -> None:
    """t is [B, N] in a floating dtype."""
    if not isinstance(t, Tensor) or t.ndim != 2:
        got = list(t.shape) if isinstance(t, Tensor) else type(t).__name__
        raise ValueError(f"{name}: expected [B, N], got {got}")
    if t.dtype not in FLOATS:
        raise ValueError(f"{name}: expected float16, bfloat16, float32 or float64, got {t.dtype}")


def mask_rows(name: str, mask: Tensor, batch: int, count: int) -> Tensor:
    """A bool mask [N] for all rows or [B, N], as [B, N]."""
    rows = [batch] if isinstance(mask, Tensor) and mask.ndim == 2 else []
    shape(name, mask, *rows, count)
    if mask.dtype != torch.bool:
        raise ValueError(f"{name}: expected bool, got {mask.dtype}")
    return mask.expand(batch, -1)


def integer(name: str, value: int, low: int, high: int) -> None:
    """low <= value <= high, and an integer."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise ValueError(f"{name}: expected an integer, got {type(value).__name__} {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name}: expected {low} <= {name} <= {high}, got {value}")


def one_of(name: str, value: object, choices: tuple[object, ...]) -> None:
    """value is one of the choices."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(map(repr, choices))}, got {value!r}")


def token_map(map: object) -> None:
    """map is a TokenMap."""
    if not (hasattr(map, "assign") and hasattr(map, "anchor")):
        raise ValueError(f"map: expected a TokenMap, got {type(map).__name__}")


def heads(num_heads: int, channels: int) -> None:
    """The channels split evenly into the heads."""
    integer("num_heads", num_heads, 1, channels)
    if channels % num_heads:
        raise ValueError(f"num_heads: expected a divisor of {channels} channels, got {num_heads}")
