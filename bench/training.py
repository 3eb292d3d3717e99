"""`python -m hico.bench training`: one step of stages 2 and 3 on a GPU, seconds, tokens and memory.

UMT-L and Qwen2-7B of the published sizes with random weights, all of them tuned in bf16 (AdamW's
moments too, or one GPU does not hold them), gradient checkpointing, a batch of one video. The
published step (its merge in plain PyTorch, every token in every layer; also compiled) beside ours.
8 frames are the most that stage 2 takes; stage 3 takes 64 to 512, and its step is the same one.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hico.bench import eager, record
from hico.bench.limits import rounded
from hico.bench.record import Row

RESULTS = record.RESULTS / "training.jsonl"
GIB = 1 << 30
FRAMES = (8, 64, 512)
PROMPT, ANSWER = 128, 256  # tokens of text ahead of what is learned, and learned
RATES = {"encoder": 2e-6, "connector": 1e-5, "llm": 1e-5}


@dataclass(frozen=True)
class Form:
    """How a step is made: whose merge, whether tokens are dropped, whether blocks are compiled."""

    ours: bool
    dropout: bool = False
    compiled: bool = False


# the compiled form last: it takes minutes to build
FORMS = {
    "reference merge, no dropout": Form(False),
    "hico merge, no dropout": Form(True),
    "hico merge and dropout": Form(True, dropout=True),
    "reference merge, no dropout, compiled": Form(False, compiled=True),
}
BASE = "reference merge, no dropout"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    add = parser.add_argument
    add("--frames", default=",".join(map(str, FRAMES)), metavar="COUNTS", help="(%(default)s)")
    add("--steps", type=int, default=5, help="timed after two more (%(default)s)")
    add("--budget", type=float, default=480.0, metavar="SECONDS",
        help="nothing new starts after so many (%(default)s)")  # fmt: skip
    add("--dry", action="store_true", help="tiny sizes on the CPU: whether it runs, no figures")
    add("--out", type=Path, help=f"JSON lines to append to ({RESULTS})")


def run(args: argparse.Namespace) -> int:
    """0, or 1 if something failed or was not run for want of time."""
    try:
        counts = [int(count) for count in args.frames.split(",")]
    except ValueError:
        raise ValueError(f"frames: expected counts such as 8,64, got {args.frames!r}") from None
    if min(counts) < 4 or any(count % 4 for count in counts) or args.steps < 1:
        raise ValueError("frames, steps: expected multiples of 4 and at least one step")
    if args.dry and args.out is None:
        raise ValueError("out: expected a file of its own for a dry run, got none")
    if not args.dry and not torch.cuda.is_available():
        raise ValueError("device: expected a CUDA GPU, found none (--dry is a smoke run)")
    out = args.out or RESULTS
    rows = list(measure(args, counts, out))
    print(markdown(rows))
    print(f"rows appended to {out}")
    return int(any(row["error"] for row in rows))


def measure(args: argparse.Namespace, counts: list[int], out: Path) -> Iterator[Row]:
    """Every form at every count of frames, each row written when it is there."""
    from hico.bench.model_setup import DRY, REAL, Setup

    device, started = torch.device("cpu" if args.dry else "cuda:0"), time.perf_counter()
    setup = Setup(DRY if args.dry else REAL, device)
    environment = record.environment(device) | {
        "kind": "training", "suite": "training", "quick": args.dry, "dtype": str(setup.dtype)[6:],
        "transformers": record.version("transformers"), "weights": "random",
        "sizes": "tiny" if args.dry else "UMT-L 224, Qwen2-7B", "gradient_checkpointing": True,
        "optimizer": "AdamW, fused", "tuned": "everything", "batch": 1,
    }  # fmt: skip
    optimizer = ready(setup)
    for name, form in FORMS.items():
        for count in counts:
            elapsed = time.perf_counter() - started
            row: Row = {"case": f"{count} frames", "provider": name, "frames": count, "error": None}
            if elapsed > args.budget:
                row["error"] = f"not run: the budget of {args.budget:g} s was spent"
            else:
                try:
                    row |= steps(setup, optimizer, form, count, args.steps)
                except Exception as error:
                    row["error"] = record.one_line(error)
            row |= environment
            record.append(out, row)
            print(f"[{elapsed:6.1f} s] {count} frames: {name}: {told(row)}", file=sys.stderr)
            optimizer.zero_grad(set_to_none=True)
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
            yield row


def ready(setup: Any) -> torch.optim.Optimizer:
    """The model made ready for training, and an optimiser with a rate for each part."""
    model = setup.model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    groups: dict[str, list[Tensor]] = {name: [] for name in RATES}
    for name, weight in model.named_parameters():
        inner = "encoder" if "vision_tower" in name else "llm"
        groups["connector" if "mm_projector" in name else inner].append(weight)
    return torch.optim.AdamW(
        [{"params": groups[name], "lr": rate} for name, rate in RATES.items()],
        weight_decay=0.0,
        fused=setup.device.type == "cuda",
    )


def batch_of(setup: Any, frames: int) -> dict[str, Any]:
    """One video and its text: labels on the answer."""
    draw, vocabulary = setup.generator(), setup.model.config.vocab_size
    shape = (1, PROMPT + ANSWER)
    ids = torch.randint(vocabulary, shape, device=setup.device, generator=draw)
    labels = ids.clone()
    labels[:, :PROMPT] = -100
    ids[:, PROMPT // 2] = -200
    return {
        "input_ids": ids,
        "labels": labels,
        "pixel_values_videos": [setup.clips(frames).flatten(0, 1)],
    }


def steps(setup: Any, optimizer: torch.optim.Optimizer, form: Form, frames: int, count: int) -> Row:
    """Median seconds of a whole step: forward, backward, clipping, the optimiser."""
    from hico.model.stats import measured

    batch, model, samples = batch_of(setup, frames), setup.model, []
    tokens = 16 * frames + PROMPT + ANSWER - 1
    with ExitStack() as stack:
        if not form.ours:
            stack.enter_context(published_merge(model))
        if form.compiled:
            stack.enter_context(compiled_layers(setup))
        dropping = setup.sizes.dropout.use if form.dropout else lambda _: nullcontext()
        for turn in range(count + 2):
            with measured("", setup.device) as stage:
                with dropping(model):
                    loss = model(**batch, use_cache=False).loss
                    loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            # two turns build kernels and the optimiser's moments
            samples += [stage.seconds] if turn > 1 else []
    seconds = statistics.median(samples)
    return {
        "seconds": seconds, "samples_s": samples, "tokens": tokens, "tokens_s": tokens / seconds,
        "peak_bytes": stage.peak, "loss": loss.item(),
        "dropout": str(setup.sizes.dropout) if form.dropout else None,
    }  # fmt: skip


@contextmanager
def published_merge(model: Any) -> Iterator[None]:
    """The connector with the published merge in plain PyTorch."""
    connector = model.model.mm_projector

    def forward(x: Tensor, metric: Tensor | None = None) -> Tensor:
        merged = eager.merge(x, connector.tokens_per_clip, num_heads=connector.num_heads)
        return connector.mlp(merged)

    connector.forward = forward
    try:
        yield
    finally:
        del connector.forward


@contextmanager
def compiled_layers(setup: Any) -> Iterator[None]:
    """Blocks of the encoder and layers of the decoder compiled, as the published scripts do."""
    model = setup.model
    layers = [*model.encoder.trunk.blocks, *model.model.layers]
    options = {} if setup.device.type == "cuda" else {"backend": "aot_eager"}
    for layer in layers:
        layer.compile(**options)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None


def told(row: Row) -> str:
    """A row in words: our figures rounded against us."""
    if row["error"]:
        return row["error"]
    seconds, most = rounded(row["seconds"], 3, up=True), row["peak_bytes"] / GIB
    return f"{seconds} s, {row['tokens_s']:,.0f} tokens/s, {rounded(most, 1, up=True)} GiB"


def markdown(rows: list[Row]) -> str:
    """A line for each form, a column for each count of frames; times of the published step."""
    counts = sorted({row["frames"] for row in rows})
    base = {r["frames"]: r["seconds"] for r in rows if r["provider"] == BASE and not r["error"]}
    lines = ["| step | " + " | ".join(f"{count} frames" for count in counts) + " |"]
    lines.append("|" + " --- |" * (1 + len(counts)))
    for name in FORMS:
        cells = {row["frames"]: cell(row, base) for row in rows if row["provider"] == name}
        lines.append(f"| {name} | " + " | ".join(cells[count] for count in counts) + " |")
    return "\n".join(lines)


def cell(row: Row, base: dict[int, float]) -> str:
    """What a row says, with its speed as a multiple of the published step's."""
    if row["error"] or row["provider"] == BASE or row["frames"] not in base:
        return told(row)
    return f"{told(row)}, {rounded(base[row['frames']] / row['seconds'], 2, up=False)} x"
