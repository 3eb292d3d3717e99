"""What the tests of attention_score share: inputs, the published form, and the tolerance."""

import torch
from torch import Tensor

import hico
from hico.testing import assert_tokens_close


def states(batch, heads, kv_heads, rows, n, dim, dtype, device) -> tuple[Tensor, Tensor]:
    q = torch.randn(batch, heads, rows, dim, device=device)
    return q.to(dtype), torch.randn(batch, kv_heads, n, dim, device=device).to(dtype)


def scattered(batch, rows, n, device) -> Tensor:
    """Positions in no order: some before the first key, one past the last."""
    positions = torch.randint(-1, n, (batch, rows), device=device)
    positions[:, rows // 2 :: 5] = -1
    positions[:, :1] = n + 3
    return positions


def may_attend(q, k, query_positions=None, query_mask=None, key_mask=None, lengths=None) -> Tensor:
    n = torch.arange(k.shape[2], device=k.device)
    may = torch.ones(q.shape[0], q.shape[2], k.shape[2], dtype=torch.bool, device=k.device)
    if query_positions is not None:
        may &= n <= query_positions.unsqueeze(-1)
    if query_mask is not None:
        may &= query_mask[..., None]
    if key_mask is not None:
        may &= key_mask[..., None, :]
    if lengths is not None:
        may &= n < lengths[:, None, None]
    return may[:, None]


def turn(k, cos, sin) -> Tensor:
    """As transformers writes it, in k's dtype."""
    cos, sin = (t.to(k.dtype).unsqueeze(-3) for t in (cos, sin))
    half = k.shape[-1] // 2
    return k * cos + torch.cat([-k[..., half:], k[..., :half]], -1) * sin


def published(q, k, *, key_range=None, scale=None, heads="mean", rows="mean", **masks) -> Tensor:
    """Repeated keys, all weights, means: everything in the dtype of q."""
    group = q.shape[1] // k.shape[1]
    logits = q @ k.repeat_interleave(group, 1).mT * (scale or q.shape[-1] ** -0.5)
    logits = logits.masked_fill(~may_attend(q, k, **masks), -torch.inf)
    p = torch.where(logits == -torch.inf, 0, logits.softmax(-1))
    if key_range is not None:
        p = p[..., slice(*key_range)]
    mask = masks.get("query_mask")
    count = q.shape[2] if mask is None else mask.sum(1).clamp(min=1)[:, None, None]
    p = {"mean": lambda: p.sum(2) / count, "sum": lambda: p.sum(2), "max": lambda: p.amax(2)}[
        rows
    ]()
    if heads == "kv":
        return p.unflatten(1, (-1, group)).mean(2)
    return {"mean": p.mean, "sum": p.sum, "max": p.amax}[heads](1)


def check(q, k, *, cos=None, sin=None, lse=None, heads="mean", rows="mean", **options) -> Tensor:
    """attention_score is as near to float64 as twice the error of the published form."""
    score = hico.attention_score(
        q, k, cos=cos, sin=sin, lse=lse, reduce_heads=heads, reduce_queries=rows, **options
    )
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    assert score.dtype == kind and not score.requires_grad
    options.update(heads=heads, rows=rows)
    turned = (k, k.double()) if cos is None else (turn(k, cos, sin), turn(k.double(), cos, sin))
    same = published(q, turned[0], **options)
    exact = published(q.double(), turned[1], **options)
    # a probability's floor is eps of 1, that of a sum of so many eps of as much
    most = (q.shape[2] if rows == "sum" else 1) * (q.shape[1] if heads == "sum" else 1)
    size = exact.abs().amax(-1, keepdim=True).clamp(min=most) if exact.numel() else 1
    slack = 1 if kind == torch.float32 else 16  # in float64 `exact` errs as much
    if lse is not None:
        slack *= 1 + float(lse[torch.isfinite(lse)].abs().max())  # it came rounded
    eps = slack * torch.finfo(kind).eps
    if cos is None or q.dtype == kind:  # or the roundings of k, once or thrice, are what differs
        over = (score - exact).abs() - 2 * (same - exact).abs() - eps * size
        assert over.numel() == 0 or over.max() <= 0, f"a score is off by {over.max():.3g} too much"
    assert_tokens_close(score, exact, same, floor=4 * slack)
    return score
