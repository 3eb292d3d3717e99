"""Stages of answering, each a function from a Setup to a row: the encoder, a prompt, decoding."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor

from hico.bench.limits import verdict
from hico.bench.model_setup import PlainEncoder, Setup
from hico.bench.record import Row
from hico.bench.timing import synchronize
from hico.model.settings import DropoutSettings
from hico.model.stats import measured

CHUNK = 64


def repeat(setup: Setup, work: Callable[[], Any], most: int = 3, seconds: float = 25.0) -> Row:
    """Median seconds of up to `most` runs, as many as `seconds` hold, and the most bytes held.

    One run goes ahead, as kernels are chosen and built for lengths that are new to the process.
    """
    device = setup.device
    with measured("", device) as cold:
        work()
    samples: list[float] = []
    while len(samples) < most and sum(samples) + max(samples, default=0) < seconds:
        with measured("", device) as stage:
            work()
        samples.append(stage.seconds)
    return {
        "seconds": statistics.median(samples),
        "samples_s": samples,
        "cold_s": cold.seconds,
        "peak_bytes": stage.peak if device.type == "cuda" else None,
    }


@contextmanager
def compiled_blocks(setup: Setup) -> Iterator[None]:
    """Blocks compiled as users compile them; as they were, afterwards."""
    encoder = setup.model.encoder
    if not setup.compiled:
        # on a CPU the graph only
        encoder.compile_blocks(**({} if setup.device.type == "cuda" else {"backend": "aot_eager"}))
        setup.compiled = [block._compiled_call_impl for block in encoder.trunk.blocks]
    for block, call in zip(encoder.trunk.blocks, setup.compiled, strict=True):
        block._compiled_call_impl = call
    try:
        yield
    finally:
        for block in encoder.trunk.blocks:
            block._compiled_call_impl = None


# ---- the encoder alone: all clips, of which one token each is kept


def encoder_ours(setup: Setup, compiled: bool = False) -> Row:
    """Ours: the token metric found in the pass of the last norm."""
    encoder, clips = setup.model.encoder, setup.clips(setup.sizes.frames)

    def work(some: Tensor = clips) -> Tensor:
        return encoder.encode(some, CHUNK, lambda tokens, metric: tokens[:, 0])

    context = compiled_blocks(setup) if compiled else nullcontext()
    with context:
        warm_s = warm_up(setup, work, clips)
        row = repeat(setup, work)
        off = encoder_off(encoder, clips[:1])
    must = {"must": 2.4, "verdict": verdict(row["seconds"], 2.4)}
    return row | must | {"warm_s": warm_s, "off_plain": off, "frames": setup.sizes.frames}


@torch.no_grad()
def encoder_plain(setup: Setup, compiled: bool = False) -> Row:
    """The usual form in passes of as many clips, eager or all of it compiled."""
    plain, clips = PlainEncoder(setup.model.encoder), setup.clips(setup.sizes.frames)
    run: Callable = plain
    if compiled:
        cuda = setup.device.type == "cuda"
        run = torch.compile(plain, backend="inductor" if cuda else "aot_eager")

    def work(some: Tensor = clips) -> Tensor:
        return torch.cat([run(part)[:, 0] for part in some.split(CHUNK)])

    warm_s = warm_up(setup, work, clips)
    return repeat(setup, work) | {"warm_s": warm_s, "frames": setup.sizes.frames}


def warm_up(setup: Setup, work: Callable[[Tensor], Any], clips: Tensor) -> float:
    """Seconds of what compiles: a whole pass, twice, and the rest that does not fill one."""
    synchronize(setup.device)
    start, rest = time.perf_counter(), len(clips) % CHUNK or CHUNK
    for some in (clips[:CHUNK], clips[:CHUNK], clips[-rest:]):
        work(some)
    synchronize(setup.device)
    return time.perf_counter() - start


@torch.no_grad()
def encoder_off(encoder: Any, clips: Tensor) -> float:
    """The largest difference from the usual form, as a share of the largest value."""
    ours, plain = encoder(clips).float(), PlainEncoder(encoder)(clips).float()
    return ((ours - plain).abs().max() / plain.abs().max()).item()


# ---- the language model alone


@torch.no_grad()
def prefill(setup: Setup, settings: DropoutSettings | None) -> Row:
    """The last row's logits and the cache of a whole prompt; None = transformers' own."""
    model = setup.transformers if settings is None else setup.model
    last: list[Tensor] = []

    def work(rows: Tensor, span: tuple[int, int]) -> None:
        context: Any = nullcontext()
        spans: dict[str, Any] = {}
        if settings is not None:
            context, spans = settings.use(model, [span]), {"visual_spans": [span]}
        with context:
            out = model(inputs_embeds=rows, use_cache=True, logits_to_keep=1, **spans)
        last[:] = [out.logits[0, -1].float()]

    work(*setup.prompt(setup.sizes.visual // 40 + 1))
    row = repeat(setup, partial(work, *setup.prompt(setup.sizes.visual)))
    (logits,) = last
    return row | {
        "visual_tokens": setup.sizes.visual, "text_tokens": setup.sizes.text,
        "finite": bool(logits.isfinite().all()), "top_token": int(logits.argmax()),
        "top_logit": logits.max().item(),
    }  # fmt: skip


# ---- steps of decoding


@torch.no_grad()
def decode(setup: Setup, settings: DropoutSettings) -> Row:
    """Tokens a second behind a long prompt: ours, and transformers' on a copy of the cache."""
    from transformers import DynamicCache

    rows, span = setup.prompt(setup.sizes.visual)
    with settings.use(setup.model, [span]):
        given = {"inputs_embeds": rows, "visual_spans": [span], "logits_to_keep": 1}
        cache = setup.model(**given, use_cache=True).past_key_values
    other = DynamicCache()
    for i, layer in enumerate(cache.layers):
        other.update(layer.keys.clone(), layer.values.clone(), i)
    lengths = sorted({layer.keys.shape[2] for layer in cache.layers}, reverse=True)
    del rows, given
    models, caches = (setup.model, setup.transformers), (cache, other)
    ours, plain = [], []
    with settings.use(setup.model, [span]):
        # step by step in turns, as a host's speed wanders; the first ones load kernels
        for turn in range(4 * setup.sizes.steps):
            pair = [step(setup, *which) for which in zip(models, caches, strict=True)]
            if turn >= setup.sizes.steps:
                ours.append(pair[0])
                plain.append(pair[1])
    rate, base = (1 / statistics.median(times) for times in (ours, plain))
    return {
        "seconds": 1 / rate, "tokens_s": rate, "transformers_tokens_s": base,
        "ratio": rate / base, "must": 0.97, "verdict": verdict(base / rate, 1 / 0.97),
        "quartiles_s": [statistics.quantiles(times) for times in (ours, plain)],
        "cache_lengths": lengths, "steps": len(ours),
    }  # fmt: skip


def step(setup: Setup, model: Any, cache: Any) -> float:
    """Seconds of one greedy step."""
    token = torch.zeros(1, 1, dtype=torch.int64, device=setup.device)
    synchronize(setup.device)
    start = time.perf_counter()
    model(token, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
    synchronize(setup.device)
    return time.perf_counter() - start
