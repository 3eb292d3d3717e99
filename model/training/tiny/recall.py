"""Stage 0b: the language model learns to find cards among clips that the encoder has seen before.

It starts with a single card, whose words are to be said. Where 90% of the last answers are right,
the next level has more cards, more clips, longer chains, and later gaps between positions and
dropped tokens.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hico.adapters._dropout_attention import unplanned
from hico.model.settings import DropoutSettings

from .bank import Bank
from .levels import LEVELS, Level
from .masters import Masters, plateau
from .samples import Batch, Drawer, Stream

OVER = 20  # batches, of the level itself
DROPPED = {"none": "", "uniform": "/thin", "all": "/drop"}


def recall(
    model: Any,
    bank: Bank,
    tokenizer: Any,
    seconds: float,
    *,
    levels: Sequence[Level] = LEVELS,
    level: int = 0,
    peak: float = 1e-3,
    warm: int = 100,
    decay: float = 0.05,
    last: float = 0.2,
    slack: float = 0.0,
    alone: bool = False,
    steps: int | None = None,
    every: int = 25,
    workers: int = 0,
    seed: int = 0,
) -> Iterator[dict[str, Any]]:
    """Trains the language model and the connector's MLP in place; yields records now and then.

    Args:
        model: on the bank's device; its encoder is left alone.
        tokenizer: the model's.
        seconds: wall clock, the first drawing of batches included.
        levels, level: of the curriculum, and the one to begin with.
        peak, warm, decay: highest rate, steps up to it, weight decay.
        last: share of all in which the rate goes down.
        slack: taken off what a level asks for before the next one begins.
        alone: no earlier level comes again.
        steps: at most so many; they set the rate then, not the seconds.
        every: steps between two records.
        workers: processes that draw batches ahead.

    Yields:
        step, seconds, level, loss, lr, tokens a second, and accuracy since the last record by form
        and hops, as "free/1".

    Raises:
        ValueError: a level that is not there.
    """
    if not 0 <= level < len(levels):
        raise ValueError(f"level: expected 0 to {len(levels) - 1}, got {level}")
    if alone:
        levels = [replace(one, again=0.0) for one in levels]
    model.train()
    parts = [model.model.mm_projector.mlp, model.model.embed_tokens, model.model.layers]
    weights = [p for part in [*parts, model.model.norm] for p in part.parameters()]
    if not model.config.tie_word_embeddings:
        weights += list(model.lm_head.parameters())
    model.encoder.requires_grad_(False)
    matrices = [one for one in model.model.layers.parameters() if one.ndim == 2]
    masters, device = Masters(weights, peak, decay, matrices=matrices), weights[0].device
    now = torch.tensor([level]).share_memory_()
    stream = iter(Stream(Drawer(bank, tokenizer), levels, now, seed).loader(workers))
    tally, recent = Tally(), deque[float](maxlen=OVER)
    began = time.perf_counter()
    step, marked, before = 0, began, None
    with unplanned(), compiled(model.model.layers if device.type == "cuda" else []):
        while (elapsed := time.perf_counter() - began) < seconds and step != steps:
            batch = next(stream)
            logits, wanted = answers(model, bank, batch.to(device))
            loss = loss_of(logits, wanted, batch)
            loss.backward()
            share = elapsed / seconds if steps is None else step / steps
            lr = plateau(step, share, peak, warm, last)
            masters.step(lr)
            step += 1
            # the step before, whose numbers are there by now: no step waits for the device
            before, done = (batch, logits.detach().argmax(-1) == wanted, loss.detach()), before
            if done is not None:
                right = tally.add(*done)
                if done[0].level == now.item():
                    recent.append(right)
            enough = len(recent) == OVER and sum(recent) / OVER >= levels[int(now)].right - slack
            if enough and now.item() + 1 < len(levels):
                now += 1
                recent.clear()
            if step % every == 0 and tally.losses:
                spent, marked = time.perf_counter() - marked, time.perf_counter()
                yield {
                    "step": step,
                    "seconds": round(marked - began, 2),
                    "level": int(now),
                    "lr": lr,
                    **tally.told(spent),
                }


@contextmanager
def compiled(layers: Iterable[Any], **options: Any) -> Iterator[None]:
    """The layers' own work is compiled meanwhile, once for all; hooks around it are not.

    Options go to torch.compile.
    """
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True, **options)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def loss_of(logits: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
    """Mean cross-entropy of tokens, those of an answer of n weighing 1 / sqrt(n) each.

    Or letters, which are hard, would hardly count beside whole cards.
    """
    sizes = [stop - first for _, first, stop, _, _ in batch.spans]
    weight = torch.tensor([n**-0.5 for n in sizes for _ in range(n)])
    weight = (weight / weight.mean()).to(logits.device, non_blocking=True)
    return (F.cross_entropy(logits.float(), wanted, reduction="none") * weight).mean()


@torch.no_grad()
@unplanned()
def examine(
    model: Any, bank: Bank, tokenizer: Any, level: Level, batches: int = 8, seed: int = 0
) -> dict[str, Any]:
    """Loss and accuracy on a bank of the split "test", asked in that split's wordings.

    Tokens are dropped as in training: the level says in what share of the batches.
    """
    model.train()  # or what is dropped would be up to the last row alone
    drawer, tally = Drawer(bank, tokenizer, "test"), Tally()
    rng, began = np.random.default_rng([seed, 1]), time.perf_counter()
    for _ in range(batches):
        batch = drawer.batch(rng, level).to(bank.features.device)
        logits, wanted = answers(model, bank, batch)
        tally.add(batch, logits.argmax(-1) == wanted, loss_of(logits, wanted, batch))
    return tally.told(time.perf_counter() - began)


def answers(model: Any, bank: Bank, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits [n, V] and ids [n] of all tokens of all answers, row by row."""
    features = bank.features[batch.clips[..., None], batch.seen].flatten(1, 2)
    table, rows = model.get_input_embeddings(), len(batch.clips)
    head = table(batch.head).expand(rows, -1, -1)
    seen = model.model.mm_projector.mlp(features)
    whole = torch.cat([head, seen, table(batch.ids)], 1)
    begin, stop = head.shape[1], head.shape[1] + seen.shape[1]
    given = {
        "inputs_embeds": whole,
        "position_ids": positions(batch, begin, bank.features.shape[1]),
        "use_cache": False,
    }
    # masks that are given, as gaps between positions would be taken for the ends of sequences
    dropping = dropped(model, batch.drop)
    if dropping is None:
        out = model.model(**given, attention_mask={"full_attention": None}).last_hidden_state
    else:
        given["attention_mask"] = torch.ones(
            whole.shape[:2], dtype=torch.int64, device=whole.device
        )
        labels = F.pad(batch.labels, (stop, 0), value=-100)
        with dropping.use(model, [(begin, stop)] * rows):
            out = model(**given, labels=labels).logits
    # text always stays, so that it is what the sequence ends in
    width = batch.ids.shape[1]
    at = [row * width + i for row, first, end, _, _ in batch.spans for i in range(first, end)]
    place = torch.tensor(at).to(whole.device, non_blocking=True)
    before = out[:, -width - 1 : -1].flatten(0, 1)[place]
    return model.lm_head(before) if dropping is None else before, batch.ids.flatten()[place]


def dropped(model: Any, drop: str) -> DropoutSettings | None:
    """What of the model's own dropout there is in a batch: all, the first stage alone, or none."""
    whole = DropoutSettings.from_config(model.config)
    if whole is None or drop == "none":
        return None
    return (
        whole if drop == "all" else DropoutSettings(whole.layers[:1], whole.ratios[:2], "uniform")
    )


def positions(batch: Batch, head: int, tokens: int) -> Tensor:
    """int64 [B, head + n * k + T]: places of clips of so many tokens, with gaps between clips.

    Where a batch has k of the tokens alone, each is where it would be if all were there.
    """
    rows, text = batch.ids.shape
    starts = torch.arange(batch.gaps.shape[1], device=batch.gaps.device) * tokens
    starts = head + starts + batch.gaps.cumsum(1)  # of each clip, and of what is said behind
    before, behind = (torch.arange(n, device=batch.gaps.device) for n in (head, text))
    seen = (starts[:, :-1, None] + batch.seen).flatten(1)
    return torch.cat([before.expand(rows, -1), seen, starts[:, -1:] + behind], 1)


class Tally:
    """What was right since it was last told, answers as a whole, by form and hops."""

    def __init__(self) -> None:
        self.right: dict[str, list[bool]] = defaultdict(list)
        self.losses: list[float] = []
        self.tokens = 0

    def add(self, batch: Batch, hits: Tensor, loss: Tensor) -> float:
        """hits: bool [n], of the tokens that `answers` gave. Returns the share of right answers."""
        sizes = [stop - first for _, first, stop, _, _ in batch.spans]
        starts = np.cumsum([0, *sizes[:-1]])
        found = np.logical_and.reduceat(hits.cpu().numpy(), starts).tolist()
        for hit, (_, _, _, form, hops) in zip(found, batch.spans, strict=True):
            self.right[f"{form}/{hops}{DROPPED[batch.drop]}"].append(hit)
        self.losses.append(float(loss))
        self.tokens += batch.ids.numel()
        return sum(found) / len(found)

    def told(self, seconds: float) -> dict[str, Any]:
        """The means, and the beginning of new ones."""
        right = {name: round(sum(h) / len(h), 4) for name, h in sorted(self.right.items())}
        found = {
            "loss": round(sum(self.losses) / len(self.losses), 4),
            "answers": sum(map(len, self.right.values())),
            "seconds_a_step": round(seconds / len(self.losses), 4),
            "right": right,
        }
        self.__init__()  # type: ignore[misc]
        return found
