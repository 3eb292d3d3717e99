"""For tests of token compression: a tolerance that is earned, and inputs that hurt."""

import torch
from torch import Tensor


def assert_tokens_close(
    ours: Tensor, exact: Tensor, same_dtype: Tensor, *, floor: float = 4.0
) -> None:
    """max |ours - exact| <= 2 max |same_dtype - exact| + floor eps max |exact|, in every token.

    The budget is what plain PyTorch loses in the same dtype, so nobody picks it by hand; the floor
    is there for tokens where PyTorch happens to lose nothing (a copy, a mean of two equal tokens).

    Args:
        ours: [..., C] the result under test; its dtype sets eps.
        exact: [..., C] the same computed in float64 (or float32 for half precision).
        same_dtype: [..., C] the same computed by plain PyTorch in ours' dtype.
        floor: a few units of rounding.

    Raises:
        AssertionError: naming the worst token. NaN and infinities have to stand at the same places.

    >>> import torch
    >>> third = torch.tensor([[1 / 3]], dtype=torch.float64)
    >>> assert_tokens_close(third.float(), third, third.float())
    """
    assert ours.shape == exact.shape, f"shape: expected {list(exact.shape)}, got {list(ours.shape)}"
    assert same_dtype.shape == exact.shape, "same_dtype: expected the shape of exact"
    info = torch.finfo(ours.dtype)
    ours, exact, same = (t.detach().cpu().double() for t in (ours, exact, same_dtype))
    assert_same_nonfinite(ours, exact)
    finite = torch.isfinite(exact)
    exact = torch.where(finite, exact, 0)

    def error(t: Tensor) -> Tensor:
        diff = torch.where(finite & torch.isfinite(t), (t - exact).abs(), 0)
        return diff.amax(-1) if diff.shape[-1] else diff.sum(-1)

    size = exact.abs().amax(-1) if exact.shape[-1] else exact.sum(-1)
    budget = 2 * error(same) + floor * (info.eps * size + info.smallest_normal * info.eps)
    over = error(ours) - budget
    if over.numel() and over.max() > 0:
        worst = tuple(int(i) for i in torch.unravel_index(over.argmax(), over.shape))
        raise AssertionError(
            f"{int((over > 0).sum())} of {over.numel()} tokens off; the worst is token {worst}: "
            f"error {float(error(ours)[worst]):.3g}, allowed {float(budget[worst]):.3g}"
        )


def assert_same_nonfinite(ours: Tensor, exact: Tensor) -> None:
    """NaN, inf and -inf stand at the same places of both."""
    for name, at in (("NaN", torch.isnan), ("inf", torch.isposinf), ("-inf", torch.isneginf)):
        wrong = int((at(ours) != at(exact)).sum())
        assert wrong == 0, f"{name}: expected at the same places, {wrong} differ"


def clusters(
    batch: int,
    tokens: int,
    channels: int,
    centres: int = 40,
    noise: float = 0.3,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """x[b, n] = one of the row's `centres` normal vectors + noise: as similar as a video's tokens.

    The numbers depend on the arguments and the device only, not on the global generator.

    >>> clusters(2, 5, 3).shape
    torch.Size([2, 5, 3])
    """
    generator = torch.Generator(device).manual_seed(seed)
    centre = torch.randn(batch, centres, channels, generator=generator, device=device)
    home = torch.randint(centres, (batch, tokens, 1), generator=generator, device=device)
    x = centre.gather(1, home.expand(-1, -1, channels))
    return x.add_(torch.randn(x.shape, generator=generator, device=device), alpha=noise).to(dtype)


def equal_rows(x: Tensor) -> Tensor:
    """Every token a copy of its row's first: all similarities tie."""
    return x[:, :1].expand_as(x).clone()


def zero_rows(x: Tensor, every: int = 3) -> Tensor:
    """Tokens 0, every, 2 every, ... set to zero: vectors without a direction."""
    out = x.clone()
    out[:, ::every] = 0
    return out


def nonfinite_rows(x: Tensor, every: int = 5) -> Tensor:
    """One channel of tokens 0, every, 2 every, ... set to NaN, inf and -inf in turn."""
    out = x.clone()
    for place, n in enumerate(range(0, x.shape[1], every)):
        value = (torch.nan, torch.inf, -torch.inf)[place % 3]
        out[:, n, place % max(x.shape[2], 1)] = value
    return out
