"""How right merged tokens are, ours and the eager reference's, and whether runs agree bitwise."""

import torch
from torch import Tensor

import hico
from hico.bench import check
from hico.bench.case import Case
from hico.bench.inputs import SEED
from hico.bench.record import Row
from hico.bench.timing import Inputs

CLIPS = 256
# float64 score matrices of so many clips are in memory at a time
CHUNK = 32


def bitwise_equal(case: Case, args: Inputs) -> bool:
    """Whether two runs of ours on these inputs give the same bits in all outputs."""
    first, second = (case.ours[0].run(case.shape, *args) for _ in range(2))
    pairs = zip(fields(first), fields(second), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fields(result: hico.MergeResult) -> tuple[Tensor, ...]:
    """All tensors of a result."""
    return result.tokens, result.size, result.map.assign, result.map.anchor


def shares(case: Case, args: Inputs, clips: int = CLIPS) -> dict[str, float]:
    """Share of merged tokens close to float64 on the first clips, for ours and eager.

    "close": every channel within 2e-2 (1 + |exact|); "strict": within 2e-2. Ours runs on the whole
    batch, as it is timed.
    """
    clips = min(clips, case.shape.B)
    mine = check.outputs(case.ours[0].run(case.shape, *args))[0]
    names = [f"{who}_{kind}" for who in ("hico", "eager") for kind in ("close", "strict")]
    total = dict.fromkeys(names, 0.0)
    for start in range(0, clips, CHUNK):
        rows = slice(start, min(start + CHUNK, clips))
        part = [t[rows] for t in args]
        (exact,) = check.exact_merge(case.shape, *part)
        plain = case.plain[0].run(case.shape, *part)
        for who, tokens in (("hico", mine[rows]), ("eager", plain)):
            for kind in ("close", "strict"):
                share = check.close_share(tokens, exact, relative=kind == "close")
                total[f"{who}_{kind}"] += share * exact.shape[0] / clips
    return total


def accuracy_row(case: Case, args: Inputs, clips: int = CLIPS) -> Row:
    """Both measurements, and whether the issue's 99.5% is reached."""
    s = case.shape
    found = shares(case, args, clips)
    same = bitwise_equal(case, args)
    right = found["hico_strict"] >= check.SHARE and same
    return {
        "kind": "accuracy",
        "case": case.name,
        **s.row(),
        "dtype": str(s.dtype).removeprefix("torch."),
        "seed": SEED,
        "clips": min(clips, s.B),
        "tolerance": check.TOLERANCE,
        **found,
        "bitwise_repeat": same,
        "must": check.SHARE,
        "verdict": "must met" if right else "must missed",
        "error": None,
    }
