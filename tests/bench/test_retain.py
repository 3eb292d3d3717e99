"""The retention suite: its forms agree, its checks refuse what is wrong, a run on a CPU."""

from dataclasses import replace

import pytest
import torch
from bench_helpers import CPU, EVERY, TOP, but

from hico.bench import measure, record, runner
from hico.bench import retain_providers as providers
from hico.bench.__main__ import main
from hico.bench.check import WrongResult
from hico.bench.limits import Limit
from hico.bench.retain import SUITE
from hico.bench.retain_check import check_index
from hico.bench.retain_inputs import Queries, Ranking, Scores

BY_NAME = {case.name: case for case in SUITE.cases}


def small(name: str, **changes: object) -> tuple:
    """A case in its smoke form, and inputs of it."""
    case = replace(BY_NAME[name].on_cpu(), **changes)
    return case, case.inputs(case.shape, CPU, 0)


def checked(case, args, result) -> dict:
    return case.ours[0].verify(case.shape, result, *args)


def test_all_forms_keep_the_same_tokens():
    case, args = small("keep_160k")
    mine = case.ours[0].run(case.shape, *args)
    assert mine.tokens.shape == (1, 24, 48) and mine.keys.shape == (1, 2, 96, 16)
    forms = {form.name: form.run for form in case.plain}
    assert torch.equal(forms["lean PyTorch"](case.shape, *args).tokens, mine.tokens)
    for name in ("published, no mask", "published, with mask"):
        assert torch.equal(forms[name](case.shape, *args), mine.tokens)
    product, gathered = forms["floor"](case.shape, *args)
    assert product.shape == (96, 32) and torch.equal(gathered, args[0][0, args[-1]])


def test_a_ragged_batch_is_its_rows():
    case, args = small("keep_ragged")
    mine = case.ours[0].run(case.shape, *args)
    assert case.shape.lengths == [28, 38, 48] and case.shape.kept == [7, 9, 12]
    for b, tokens in enumerate(providers.lean_rows(case.shape, *args)):
        assert torch.equal(mine.tokens[b, : len(tokens)], tokens)
    (one,) = case.references
    assert one.run(case.shape, *args).score.shape == (1, sum(case.shape.lengths))


@pytest.mark.parametrize("name", BY_NAME)
def test_ours_passes_its_check(name):
    case, args = small(name)
    checked(case, args, case.ours[0].run(case.shape, *args))


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("tokens", "not the rows"),
        ("rows", "stable sort"),
        ("score", "stable sort|score"),
        ("keys", "keys: exp"),
    ],
)
@pytest.mark.parametrize("name", ["keep_16k", "keep_ragged"])
def test_a_wrong_result_gets_no_speed(name, field, message):
    case, args = small(name)
    result = case.ours[0].run(case.shape, *args)
    wrong = getattr(result, field).clone()
    wrong[-1, 0] = wrong[-1, 1] + 1
    with pytest.raises(WrongResult, match=message):
        checked(case, args, result._replace(**{field: wrong}))


def test_scores_that_are_off_or_nan_are_refused():
    case, args = small("queries_64")
    score = case.ours[0].run(case.shape, *args)
    assert checked(case, args, score)["score_error"] < 1e-6
    for factor in (1.001, torch.nan):
        with pytest.raises(WrongResult, match="score: expected an error of"):
            checked(case, args, score * factor)


def test_ties_belong_to_the_lowest_index():
    score = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0])
    check_index(score, torch.tensor([1, 2, -1]), 2)
    with pytest.raises(WrongResult, match="stable sort's 2 best"):
        check_index(score, torch.tensor([1, 3]), 2)


def test_formulas_by_hand():
    s = Ranking(N=8, C=6, heads=4, kv_heads=2, D=4)
    # a token 2 * (6 + 8 + 8) = 44 bytes; 2 kept, read and written: 2 * 2 * 12 = 48
    assert BY_NAME["keep_16k"].traffic(s).once == 8 * 44 + 48
    assert BY_NAME["select"].traffic(Scores(8)).once == 8 * 4 + 2 * 8
    q = Queries(M=3, N=10, heads=4, kv_heads=2, D=8)
    assert BY_NAME["queries_64"].flops(q) == (4 * 3 * 4 * 10 * 8, 2 * 3 * 4 * 10 * 8)
    assert measure.floors(BY_NAME["queries_64"], TOP) == {"floor": None, "two-read floor": None}


def test_the_figures_are_the_issues():
    said = {name: (str(case.must), case.target and str(case.target), str(case.shape))
            for name, case in BY_NAME.items()}  # fmt: skip
    assert said["keep_16k"] == ("0.3 ms", "0.2 ms", "[1, 16384, 3584] -> 4096")
    assert said["keep_160k"] == ("1.5 x floor", "1.3 ms", "[1, 160256, 3584] -> 40064")
    assert said["select"] == ("0.1 ms", "0.06 ms", "[1, 160256] -> 40064")
    assert said["queries_512"] == ("4 ms", None, "[28, 512, 128] on [4, 131072, 128]")
    assert said["keep_ragged"][0] == "1.2 x one row" and BY_NAME["keep_ragged"].shape.B == 8


def test_retain_then_report_on_the_cpu(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    command = ["retain", "--device", "cpu", "--quick", "--out", str(out)]
    assert main([*command, "--cases", "keep_64k,select"]) == 0
    rows = record.load(out)
    assert all(row["error"] is None and row["suite"] == "retain" for row in rows)
    assert EVERY - {"C", "heads"} <= set.intersection(*(set(row) for row in rows))
    found = {(row["case"], row["provider"]): row for row in rows}
    assert {("keep_64k", "compile"), ("select", "compile")} <= found.keys()
    mine = found["keep_64k", "hico"]
    assert mine["reference_ms"] == {"floor": found["keep_64k", "floor"]["median_ms"]}
    assert mine["share_of_floor"] > 0 and mine["score_error"] <= 1e-6
    printed = capsys.readouterr().out
    assert "of floor" in printed and "CPU smoke run" in printed

    assert main(["report", "--any", "--results", str(out)]) == 0
    assert "| case | published, with mask | published, no mask |" in capsys.readouterr().out


def test_a_floor_that_fails_leaves_the_verdict_open(one_run):
    def fails(*_):
        raise RuntimeError("no memory")

    case, _ = small("keep_160k", must=Limit(1.5, "x floor"))
    case = replace(case, plain=but(case.plain[0], fails), compiled=None)
    runner.plain_and_ours(one_run, case, baselines=True)
    floor, mine = one_run.rows
    assert floor["error"] == "RuntimeError: no memory" and mine["error"] is None
    assert mine["share_of_floor"] is None and mine["reference_ms"] == {"floor": None}


@pytest.mark.gpu
def test_gpu_run(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ["--quick", "--no-baselines", "--cases", "keep_16k,select,queries_64"]
    assert main(["retain", *options, "--out", str(out)]) == 0
    rows = [row for row in record.load(out) if row["provider"] == "hico"]
    assert [row["method"] for row in rows] == ["events", "graph"] * 3
    assert all(row["peak_bytes"] > 0 and row["error"] is None for row in rows)
