"""`python -m hico.bench realtext`: answers of SmolLM2-135M, with and without half of its context.

Real weights on real text: the same prompts with all context rows, and with half of them dropped
before layer 10, by attention, evenly and at random; and with none, which shows what the model would
have guessed. Runs on a CPU, with the default counts about 18 minutes of one core's time.
"""

import argparse
import copy
import math
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hico
from hico.bench import realtext_model, record
from hico.bench.realtext_questions import MAKERS, Question, questions
from hico.bench.record import Row

LAYERS, RATIOS = [10], [1.0, 0.5]
NEW_TOKENS = 6
RESULTS = record.RESULTS / "realtext.jsonl"
# provider -> kind of dropout; the first is what the others are compared with
PROVIDERS: dict[str, str | None] = {
    "all rows": None,
    "attention": "attention",
    "uniform": "uniform",
    "random": "random0_attention",
    "no text": None,
}


@dataclass(frozen=True)
class Answer:
    """One prompt's: whether the likeliest choice and the generated words were right."""

    choice: bool
    generated: bool
    tokens: int
    evidence_kept: float


@dataclass(frozen=True)
class Prompt:
    """Ids of a question, the rows of its text, and in them those of the sentence that answers."""

    ids: Tensor
    span: tuple[int, int]
    evidence: tuple[int, int]


def encode(tokenizer: Any, asked: Question, text: bool = True) -> Prompt:
    """The prompt's parts one after the other; without its text if that is what is asked for."""

    def ids(part: str) -> list[int]:
        return tokenizer(part, add_special_tokens=False).input_ids

    before, after = ids(asked.before), ids(asked.after)
    start, stop = asked.evidence
    parts = [asked.text[:start].rstrip(), " " + asked.text[start:stop], asked.text[stop:]]
    rows = [ids(part) for part in parts] if text else [[], [], []]
    first = len(before) + len(rows[0])
    end = len(before) + sum(map(len, rows))
    return Prompt(
        torch.tensor([before + sum(rows, []) + after]),
        (len(before), end),
        (first, first + len(rows[1])),
    )


@torch.no_grad()
def answer(model: Any, tokenizer: Any, asked: Question, provider: str, seed: int) -> Answer:
    """Reads the prompt once, then ranks the choices by likelihood and generates from its cache."""
    prompt = encode(tokenizer, asked, text=provider != "no text")
    kind: str | None = PROVIDERS[provider]
    context: Any = nullcontext()
    torch.manual_seed(seed)
    if kind is not None:
        context = hico.progressive_dropout(
            model, LAYERS, RATIOS, kind=kind, visual_spans=[prompt.span]
        )
    with context as run:
        out = model(prompt.ids, use_cache=True, logits_to_keep=1)
        kept = run.kept[0][0] if run is not None else torch.arange(prompt.ids.shape[1])
        last, cache = out.logits[0, -1].float(), out.past_key_values
        choices = [tokenizer(text, add_special_tokens=False).input_ids for text in asked.choices]
        likely = likelihoods(model, last, cache, choices)
        text = generate(model, tokenizer, last, cache)
    start, stop = prompt.evidence
    left = ((kept >= start) & (kept < stop)).sum().item()
    wanted = asked.choices[asked.right].strip().lower()
    return Answer(
        choice=likely.index(max(likely)) == asked.right,
        generated=text.strip().lower().startswith(wanted),
        tokens=prompt.ids.shape[1],
        evidence_kept=left / max(stop - start, 1),
    )


def likelihoods(model: Any, last: Tensor, cache: Any, choices: list[list[int]]) -> list[float]:
    """log P(choice | prompt) of each, from the logits after the prompt and a copy of its cache."""
    total = last.log_softmax(0)[[ids[0] for ids in choices]]
    longest = max(map(len, choices))
    if longest == 1:
        return total.tolist()
    # what is padded comes after what is read
    padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in choices])
    cache = copy.deepcopy(cache)
    cache.batch_repeat_interleave(len(choices))
    steps = model(padded[:, :-1], past_key_values=cache).logits.float().log_softmax(2)
    found = steps.gather(2, padded[:, 1:, None])[..., 0]
    lengths = torch.tensor([len(ids) for ids in choices])
    found = found.where(torch.arange(1, longest) < lengths[:, None], 0)
    return (total + found.sum(1)).tolist()


def generate(model: Any, tokenizer: Any, last: Tensor, cache: Any) -> str:
    """Greedy words after the prompt; the cache grows."""
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids: list[int] = []
    while len(ids) < NEW_TOKENS:
        token = int(last.argmax())
        if token == stop:
            break
        ids.append(token)
        last = model(torch.tensor([[token]]), past_key_values=cache).logits[0, -1]
    return tokenizer.decode(ids)


def paired(base: list[bool], other: list[bool]) -> Row:
    """Prompts that only one of two got right, and the chance of so many if neither were better.

    The exact two-sided sign test (McNemar): 2 * P(X <= min(gained, lost)), X ~ Binomial(n, 1/2).

    >>> paired([True, True, True, False], [False, False, True, True])
    {'lost': 2, 'gained': 1, 'p': 1.0}
    """
    lost = sum(a and not b for a, b in zip(base, other, strict=True))
    gained = sum(b and not a for a, b in zip(base, other, strict=True))
    n = lost + gained
    tail = sum(math.comb(n, k) for k in range(min(lost, gained) + 1)) / 2**n
    return {"lost": lost, "gained": gained, "p": min(1.0, 2 * tail)}


def rows_of(case: str, asked: list[Question], answers: dict[str, list[Answer]]) -> list[Row]:
    """A row for each provider: accuracies, and each compared with the first provider's."""
    base, rows = next(iter(answers.values())), []
    for provider, given in answers.items():
        row: Row = {"kind": "realtext", "case": case, "provider": provider, "prompts": len(given)}
        if PROVIDERS[provider] is not None:
            row |= {"dropout": PROVIDERS[provider], "layers": LAYERS, "ratios": RATIOS}
        for way in ("choice", "generated"):
            right = [getattr(one, way) for one in given]
            row[f"accuracy_{way}"] = sum(right) / len(right)
            row[f"paired_{way}"] = paired([getattr(one, way) for one in base], right)
            row[f"right_{way}"] = "".join(str(int(one)) for one in right)
        row["mean_tokens"] = sum(one.tokens for one in given) / len(given)
        row["evidence_kept"] = sum(one.evidence_kept for one in given) / len(given)
        row["sources"] = sorted({one.source for one in asked[: len(given)]})
        rows.append(row)
    return rows


def line(row: Row) -> str:
    """One printed line of a row."""
    ways = []
    for way in ("choice", "generated"):
        pair = row[f"paired_{way}"]
        ways.append(
            f"{way} {row[f'accuracy_{way}']:5.1%} (-{pair['lost']} +{pair['gained']}, "
            f"p {pair['p']:.2g})"
        )
    name = f"{row['case']:8} {row['provider']:9}"
    return f"{name} {row['prompts']} prompts  {'  '.join(ways)}  kept {row['evidence_kept']:.0%}"


def measure(
    model: Any, tokenizer: Any, case: str, asked: list[Question], seed: int, until: float
) -> list[Row]:
    """Every provider answers every question; ends early, with what is answered, when time is up."""
    answers: dict[str, list[Answer]] = {provider: [] for provider in PROVIDERS}
    for i, one in enumerate(asked):
        if time.perf_counter() > until and i:
            break
        for provider in PROVIDERS:
            answers[provider].append(answer(model, tokenizer, one, provider, seed + i))
        so_far = ", ".join(
            f"{name} {sum(a.choice for a in given)}" for name, given in answers.items()
        )
        print(f"{case} {i + 1} of {len(asked)}: right {so_far}", file=sys.stderr, flush=True)
    return rows_of(case, asked, answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this command."""
    cases = ", ".join(MAKERS)
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FOLDER",
        help=f"the converted model; made there first ({realtext_model.INSTALL})",
    )  # fmt: skip
    parser.add_argument("--cases", default=",".join(MAKERS), help=f"of: {cases} (all)")
    parser.add_argument("--prompts", type=int, default=50, help="of each case (%(default)s)")
    parser.add_argument("--tokens", type=int, default=800, help="of each text (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--budget", type=float, default=900.0, metavar="SECONDS",
        help="no new prompt after so many, shared by the cases (%(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines (%(default)s)")


def run(args: argparse.Namespace) -> int:
    """0; the accuracies are for reading, there is no figure to reach."""
    cases = [name.strip() for name in args.cases.split(",")]
    if not set(cases) <= set(MAKERS):
        raise ValueError(f"cases: expected some of {', '.join(MAKERS)}, got {args.cases}")
    for name in ("prompts", "tokens"):
        if getattr(args, name) < 1:
            raise ValueError(f"{name}: expected 1 or more, got {getattr(args, name)}")
    model, tokenizer = realtext_model.load(args.model)
    started = time.perf_counter()
    common = record.environment(torch.device("cpu")) | {
        "suite": "realtext", "quick": False, "model": "SmolLM2-135M-Instruct, Q4_1, as Qwen2",
        "dtype": "float32", "seed": args.seed, "text_tokens": args.tokens,
        "transformers": record.version("transformers"), "error": None,
    }  # fmt: skip
    for place, case in enumerate(cases):
        asked = questions(
            case, args.prompts, args.tokens, args.seed, lambda text: len(tokenizer(text).input_ids)
        )
        began = time.perf_counter()
        until = began + (started + args.budget - began) / (len(cases) - place)
        rows = measure(model, tokenizer, case, asked, args.seed, until)
        for row in rows:
            seconds = time.perf_counter() - began
            record.append(args.out, row | common | {"seconds": seconds})
            print(line(row))
    print(f"rows appended to {args.out}")
    return 0
