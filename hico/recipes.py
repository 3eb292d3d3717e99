"""Published retention rules, a few lines each on hico's ops: they say which tokens stay.

Every recipe returns indices, ascending and with ties to the lowest, for hico.compact to gather.
Where a paper gives a share of the tokens, the count is the caller's: the rounding is named there.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from hico.adapters.layer_scorer import LayerScorer
from hico.budget import keep_count
from hico.ops import _check
from hico.ops.score import attention_score
from hico.ops.select import choose


def fastv(q: Tensor, k: Tensor, visual: tuple[int, int], keep: int) -> Tensor:
    """Of the visual tokens, the `keep` that the last token attends most; and all of the text.

    Args:
        q, k: [B, Hq, M, D] and [B, Hkv, N, D] of the layer before the cut (published: the second),
            rotated; only the last query is read.
        visual: (start, stop) of the visual tokens.
        keep: how many of them stay; published: round((1 - R) * count).

    Returns:
        index [B, N - count + keep] int64 into the whole sequence.

    Source: FastV (arXiv 2403.06764), section 4.1: attention of the last token, mean over heads.

    >>> q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[9.0], [1.0], [3.0], [2.0], [0.0]]]])
    >>> fastv(q, k, (1, 4), 2)
    tensor([[0, 2, 3, 4]])
    """
    return _with_text(attention_score(q[:, :, -1:], k), visual, keep)


def pyramiddrop(
    scorer: LayerScorer,
    hidden: Tensor,
    position_embeddings: tuple[Tensor, Tensor],
    visual: tuple[int, int],
    keep: int,
    last: Tensor | None = None,
) -> Tensor:
    """One stage: the `keep` visual tokens that the instruction's end attends in the next layer.

    Args:
        scorer: of the layer that comes after the cut (published: layers 8, 16 and 24 of 32).
        hidden, position_embeddings: what goes into that layer, as for LayerScorer.
        visual: (start, stop) of the visual tokens that earlier stages left.
        keep: how many of them stay; published: int(original count * ratio), ratio 1/2, 1/4, 1/8.
        last: [B] ints, the instruction's last token; None = the last token, as in inference.

    Returns:
        index [B, N - count + keep] int64 into the whole sequence.

    Source: PyramidDrop (arXiv 2410.17247), section 3; the uniform and attention stages of
        VideoChat-Flash (arXiv 2501.00574) come from it.

    >>> from transformers import LlamaConfig
    >>> from transformers.models.llama.modeling_llama import LlamaDecoderLayer
    >>> layer = LlamaDecoderLayer(LlamaConfig(hidden_size=64, num_attention_heads=4), layer_idx=0)
    >>> hidden, positions = torch.randn(1, 9, 64), (torch.ones(1, 9, 16), torch.zeros(1, 9, 16))
    >>> pyramiddrop(LayerScorer(layer), hidden, positions, (2, 8), 3).shape
    torch.Size([1, 6])
    """
    rows = None if last is None else last[:, None]
    score, _ = scorer(hidden, position_embeddings, query_rows=rows)
    return _with_text(score, visual, keep)


def snapkv(q: Tensor, k: Tensor, capacity: int, window: int = 64, kernel: int = 5) -> Tensor:
    """The tokens that each key head keeps of its cache: what the last `window` queries attend.

    Attention is averaged over the window and over the query heads of a key head, then over
    `kernel` neighbours (zeros beyond the ends). The window itself always stays.

    Args:
        q, k: [B, Hq, M, D] with M >= window and [B, Hkv, N, D], rotated; the last `window` queries
            are read, and each attends the keys up to its own.
        capacity: tokens to keep, the window's included.
        window, kernel: tokens of the window, and an odd number of neighbours.

    Returns:
        index [B, Hkv, capacity] int64.

    Raises:
        ValueError: window > M, capacity < window or > N, or an even kernel.

    Source: SnapKV (arXiv 2404.14469), section 4; the mean over a key head's queries as in kvpress
        (published for models with as many key heads as query heads).

    >>> k = torch.tensor([[[[0.0], [9.0], [0.0], [0.0], [0.0], [1.0]]]])
    >>> snapkv(torch.ones(1, 1, 6, 1), k, capacity=4, window=1, kernel=3)
    tensor([[[0, 1, 2, 5]]])
    """
    n = k.shape[2]
    _check.integer("window", window, 1, min(n, q.shape[2]))
    _check.integer("capacity", capacity, window, n)
    if kernel % 2 == 0:
        raise ValueError(f"kernel: expected an odd number, got {kernel}")
    own = torch.arange(n - window, n, device=k.device)
    before = attention_score(
        q[:, :, -window:], k, query_positions=own, key_range=(0, n - window), reduce_heads="kv"
    )
    smooth = F.avg_pool1d(before, kernel, 1, kernel // 2) if window < n else before
    score = F.pad(smooth, (0, window), value=torch.inf)
    return _best(score.flatten(0, 1), capacity).unflatten(0, k.shape[:2])


def visionzip(q: Tensor, k: Tensor, keep: int, class_token: bool = True) -> Tensor:
    """The dominant tokens: the `keep` most attended by the class token, which stays as well.

    Args:
        q, k: [B, H, N, D] of the vision encoder's second layer from the end; where there is a class
            token, it is the first.
        keep: dominant tokens, not counting the class token.
        class_token: False: what all tokens pay a token, on average, is its score.

    Returns:
        index [B, keep + 1] int64, or [B, keep] without a class token. The tokens that VisionZip
        merges into contextual ones are all others.

    Source: VisionZip (arXiv 2412.04467), dominant token selection.

    >>> q, k = torch.ones(1, 1, 4, 1), torch.tensor([[[[0.0], [1.0], [3.0], [2.0]]]])
    >>> visionzip(q, k, 2), visionzip(q, k, 2, class_token=False)
    (tensor([[0, 2, 3]]), tensor([[2, 3]]))
    """
    _check.integer("keep", keep, 0, k.shape[2] - class_token)
    if not class_token:
        return _best(attention_score(q, k), keep)
    score = attention_score(q[:, :, :1], k, reduce_heads="sum")
    first = torch.arange(k.shape[2], device=k.device) == 0
    return _best(score, keep + 1, first)


def evs(x: Tensor, tokens_per_frame: int, rate: float) -> Tensor:
    """The tokens that changed most since the previous frame, and all of the first frame.

    Change is 1 - the cosine to the token at the same place one frame earlier, in fp32.

    Args:
        x: [B, frames * tokens_per_frame, C] visual tokens, frame after frame.
        tokens_per_frame: tokens in a frame.
        rate: the share that goes; max(tokens_per_frame, int(N * (1 - rate))) stay.

    Returns:
        index [B, kept] int64.

    Raises:
        ValueError: a wrong shape, N not a multiple of tokens_per_frame, or a rate outside 0..1.

    Source: Efficient Video Sampling (arXiv 2510.14624) as in vLLM, which compares embeddings.

    >>> x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.1], [1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]])
    >>> evs(x, tokens_per_frame=2, rate=0.4)  # 0 and 1 are the first frame, 3 and 5 changed
    tensor([[0, 1, 3]])
    """
    _check.tokens("x", x)
    n = x.shape[1]
    _check.integer("tokens_per_frame", tokens_per_frame, 1, n)
    if n % tokens_per_frame:
        raise ValueError(f"x: expected whole frames of {tokens_per_frame} tokens, got {n} tokens")
    later, earlier = x[:, tokens_per_frame:].float(), x[:, : n - tokens_per_frame].float()
    change = 1 - F.cosine_similarity(later, earlier, dim=-1)
    score = F.pad(change, (tokens_per_frame, 0), value=torch.inf)
    kept = max(tokens_per_frame, keep_count(n, 1 - rate))
    return _best(score, kept)


def divprune(x: Tensor, keep: int) -> Tensor:
    """A diverse subset: each next token is the one whose nearest chosen one is farthest away.

    Distance is 1 - cosine, in fp32. The first token is the one farthest from its nearest neighbour.
    A token is chosen once even where others equal it; one that is not finite comes last. Takes
    `keep` steps one after another, without host synchronisation, and O(N) memory beside a block of
    similarities for the first step.

    Args:
        x: [B, N, C] visual tokens.
        keep: how many stay; published: int(round(ratio * N)).

    Returns:
        index [B, keep] int64.

    Raises:
        ValueError: a wrong shape, or keep > N.

    Source: DivPrune (arXiv 2503.02175), the greedy solution of the max-min diversity problem.

    >>> divprune(torch.tensor([[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.2]]]), 3)
    tensor([[0, 2, 3]])
    """
    _check.tokens("x", x)
    batch, n, channels = x.shape
    _check.integer("keep", keep, 0, n)
    broken = ~x.isfinite().all(-1)
    unit = F.normalize(x.float().masked_fill(broken[..., None], 0), dim=-1)
    chosen = torch.empty(batch, keep, dtype=torch.int64, device=x.device)
    distance = _to_nearest(unit, broken)
    taken = torch.zeros(batch, n, dtype=torch.bool, device=x.device)
    for step in range(keep):
        # NaN ranks below -inf
        open_ones = distance.masked_fill(broken, -torch.inf).masked_fill(taken, torch.nan)
        pick = _best(open_ones, 1)
        chosen[:, step : step + 1] = pick
        taken.scatter_(1, pick, True)
        latest = unit.gather(1, pick[..., None].expand(-1, -1, channels))
        away = 1 - (unit @ latest.mT)[..., 0]
        distance = away if step == 0 else torch.minimum(distance, away)
    return chosen.sort(1).values


def _to_nearest(unit: Tensor, broken: Tensor, block: int = 1024) -> Tensor:
    """[B, N]: each token's distance to its nearest other token that is not broken."""
    parts = []
    for start in range(0, unit.shape[1], block):
        cosine = unit[:, start : start + block] @ unit.mT
        cosine.diagonal(start, 1, 2).fill_(-torch.inf)
        cosine.masked_fill_(broken[:, None], -torch.inf)
        parts.append(1 - cosine.amax(2))
    return torch.cat(parts, 1) if parts else unit.new_empty(unit.shape[:2])


def _with_text(score: Tensor, visual: tuple[int, int], keep: int) -> Tensor:
    """The `keep` best of the visual tokens and all others, as indices of the sequence."""
    n, (start, stop) = score.shape[1], visual
    _check.integer("visual stop", stop, 0, n)
    _check.integer("visual start", start, 0, stop)
    _check.integer("keep", keep, 0, stop - start)
    place = torch.arange(n, device=score.device)
    text = (place < start) | (place >= stop)
    return _best(score, n - (stop - start) + keep, text)


def _best(score: Tensor, count: int, protect: Tensor | None = None) -> Tensor:
    return choose(score, count, protect=protect)[0]
