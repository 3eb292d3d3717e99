"""No speed without a right answer: what retention gave on the inputs that are timed.

Scores and keys may be off float64 by twice what plain PyTorch is off in the same dtype, plus one
rounding; indices and copies are exact.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hico.bench import retain_providers as providers
from hico.bench.check import WrongResult
from hico.bench.record import Row
from hico.bench.retain_inputs import EPS, Layer, Queries, Ranking, Scores
from hico.bench.retain_providers import Kept

# tokens in float64 at a time
CHUNK = 8192


def one_row(
    s: Ranking, result: Kept, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer, some: Tensor
) -> Row:
    """Of one row: score, keys, index and tokens."""
    return check_row(s, result, 0, s.N, hidden, cos, sin, layer)


def ragged(
    s: Ranking,
    result: Kept,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    layer: Layer,
    lengths: Tensor,
    *row: Tensor,
) -> Row:
    """Of every row of a batch; the largest errors."""
    found = [check_row(s, result, b, n, hidden, cos, sin, layer) for b, n in enumerate(s.lengths)]
    return {name: max(row[name] for row in found) for name in found[0]}


def check_row(
    s: Ranking, result: Kept, b: int, n: int, hidden: Tensor, cos: Tensor, sin: Tensor, layer: Layer
) -> Row:
    """Everything about row b, the first n of whose tokens are there."""
    x, k = hidden[b, :n], s.kept[b]
    if result.keys is None:
        raise WrongResult("keys: expected those of all tokens, got none")
    check_index(result.score[b, :n], result.rows[b], k)
    rows = result.rows[b, :k]
    if not torch.equal(result.tokens[b, :k], x[rows]) or result.tokens[b, k:].any():
        raise WrongResult(f"tokens of row {b} are not the rows of its index, then zeros")
    cos, sin = cos[0, :n], sin[0, :n]
    keys = exact_keys(x, layer).unflatten(-1, (-1, s.D)).transpose(0, 1)
    plain = layer.self_attn.k_proj(layer.input_layernorm(x))
    plain = providers.split(plain[None], s.D)[0]
    found = within("keys", result.keys[b, :, :n], plain, keys)
    score = exact_score(x, keys, cos, sin, layer)
    plain = providers.lean_score(s, x[None], cos[None], sin[None], layer)[0]
    return found | within("score", result.score[b, :n], plain, score)


def within(what: str, mine: Tensor, plain: Tensor, exact: Tensor) -> Row:
    """The largest errors of ours and of plain PyTorch, if ours is at most twice the other.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> within("x", one + 0.25, one + 0.125, one)
    {'x_error': 0.25, 'plain_x_error': 0.125}
    """
    error, other = ((t.double() - exact).abs().max().item() for t in (mine, plain))
    bound = 2 * other + torch.finfo(mine.dtype).eps * exact.abs().max().item()
    # NaN is not within anything
    if not error <= bound:
        raise WrongResult(f"{what}: expected an error of {bound:.3g} at most, got {error:.3g}")
    return {f"{what}_error": error, f"plain_{what}_error": other}


def check_index(score: Tensor, index: Tensor, k: int) -> None:
    """index [K] = the k best of score [N] by a stable sort, ascending, then -1."""
    wanted = score.sort(descending=True, stable=True).indices[:k].sort().values
    padded = F.pad(wanted, (0, len(index) - k), value=-1)
    if not torch.equal(index, padded):
        wrong = int((index != padded).sum())
        raise WrongResult(f"index: expected a stable sort's {k} best, got {wrong} others")


def exact_keys(x: Tensor, layer: Layer) -> Tensor:
    """[n, Hkv * D] float64."""
    return torch.cat([_project(part, layer, "k_proj") for part in x.split(CHUNK)])


def exact_score(x: Tensor, keys: Tensor, cos: Tensor, sin: Tensor, layer: Layer) -> Tensor:
    """[n] float64 from hidden states [n, C] and exact keys [Hkv, n, D]; the last token asks."""
    cos, sin = cos.double(), sin.double()
    q = _project(x[-1:], layer, "q_proj").view(-1, 1, keys.shape[-1])
    q = providers.rotate(q[None], cos[None, -1:], sin[None, -1:])[0]
    k = providers.rotate(keys[None], cos[None], sin[None])[0]
    logits = q.view(len(k), -1, k.shape[-1]) @ k.mT * k.shape[-1] ** -0.5
    return logits.softmax(-1).flatten(0, 1).mean(0)


def _project(x: Tensor, layer: Layer, name: str) -> Tensor:
    x, linear = x.double(), getattr(layer.self_attn, name)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    x = x * layer.input_layernorm.weight.double()
    return F.linear(x, linear.weight.double(), linear.bias.double())


def chosen(s: Scores, result: Tensor, score: Tensor) -> Row:
    """The indices of select."""
    check_index(score[0], result[0], s.k)
    return {}


def column_means(s: Queries, result: Tensor, q: Tensor, k: Tensor) -> Row:
    """The scores of many rows, a head at a time."""
    exact = torch.zeros(s.N, dtype=torch.float64, device=q.device)
    for head in range(s.heads):
        keys = k[0, head * s.kv_heads // s.heads].double()
        logits = q[0, head].double() @ keys.mT * s.D**-0.5
        exact += logits.softmax(-1).mean(0) / s.heads
    return within("score", result[0], providers.all_weights(s, q, k)[0], exact)
