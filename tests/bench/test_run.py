"""Whole runs of the benchmark: what they refuse, survive and write, on tiny shapes on a CPU."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from bench_helpers import BY_NAME, CPU, SPEED, but, tiny

import hico
import hico.bench
from hico.bench import accuracy, check, record, runner, table
from hico.bench.__main__ import main

# ---- no speed for a wrong op


def wrong(s, x, *, how):
    result = hico.merge_tokens(x, s.M, num_heads=s.heads, order="reference")
    tokens, size, assign = result.tokens.clone(), result.size.clone(), result.map.assign.clone()
    if how == "order":
        tokens = tokens.flip(1)
    elif how == "unwritten":
        tokens[-1, -1] = torch.empty_like(tokens[-1, -1])
    elif how == "size":
        size[0, 0] += 1
    elif how == "map":
        assign[0, :2] = s.M
    return hico.MergeResult(tokens, size, hico.TokenMap(assign, result.map.anchor))


@pytest.mark.parametrize(
    ("how", "message"),
    [("order", "within 0.02"), ("unwritten", "finite"), ("size", "size"), ("map", "map: assign")],
)
def test_a_wrong_op_gets_no_speed(one_run, how, message):
    case = tiny("clips", ours=but(BY_NAME["clips"].ours[0], partial(wrong, how=how)))
    runner.plain_and_ours(one_run, case, baselines=False)
    row = next(r for r in one_run.rows if r.get("provider") == "hico")
    assert row["error"].startswith("WrongResult") and message in row["error"]
    assert "median_ms" not in row


def test_the_checks_look_at_first_and_last_rows():
    rows = check.sample_rows(1000, CPU)
    assert len(rows) == check.ROWS and rows[0] == 0 and rows[-1] == 999
    assert check.sample_rows(1, CPU).tolist() == [0]


def test_nan_is_never_close():
    assert check.close_share(torch.full((2, 3), torch.nan), torch.zeros(2, 3)) == 0.0


def test_accuracy_on_bf16():
    shape = replace(BY_NAME["clips"].small, B=5, N=98, dtype=torch.bfloat16)
    case = replace(BY_NAME["clips"], shape=shape)
    args = case.inputs(shape, CPU, 0)
    row = accuracy.accuracy_row(case, args, clips=4)
    assert row["bitwise_repeat"] and row["clips"] == 4 and row["verdict"] == "must met"
    assert row["hico_strict"] >= 0.995 > row["eager_strict"] > 0
    assert "bitwise equal: yes" in table.accuracy_line(row)


# ---- a whole run


def test_a_run_goes_on_after_an_error(one_run):
    def fails(*_):
        raise RuntimeError("out of memory\nand more")

    plain = (*but(BY_NAME["layer_norm"].plain[0], fails), BY_NAME["layer_norm"].plain[1])
    runner.plain_and_ours(one_run, tiny("layer_norm", plain=plain), baselines=True)
    errors = {row["provider"]: row["error"] for row in one_run.rows}
    assert errors.pop("eager") == "RuntimeError: out of memory"
    assert errors == {"eager, all of it": None, "hico": None}
    assert record.load(one_run.out) == one_run.rows
    assert "RuntimeError: out of memory" in table.table(one_run.rows)


def test_what_the_budget_leaves_out_is_said(one_run):
    one_run.budget_s = -1.0
    runner.plain_and_ours(one_run, tiny("vit_block"), baselines=True)
    assert [row["error"][:8] for row in one_run.rows] == ["not run:"]


def test_merge_then_report_on_the_cpu(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HICO_COMMIT", "abc123-dirty")
    # few of them: the kernels may be interpreted
    names = "vit_block,layer_norm,backward"
    out = tmp_path / "new" / "rows.jsonl"
    command = ["merge", "--device", "cpu", "--quick", "--cases", names, "--out", str(out)]
    assert main(command) == 0
    rows = record.load(out)
    for row in rows:
        assert SPEED <= row.keys() and row["error"] is None
        assert (row["commit"], row["dirty"], row["dtype"]) == ("abc123", True, "float32")
    found = {(row["case"], row["provider"]) for row in rows}
    assert found >= {(n, p) for n in names.split(",") for p in ("hico", "eager", "compile")}
    printed = capsys.readouterr().out
    assert "commit abc123 (with changes)" in printed and "CPU smoke run" in printed

    assert main(["report", "--results", str(out)]) == 2
    assert "--any takes them" in capsys.readouterr().err
    picture = tmp_path / "times.png"
    assert main(["report", "--results", str(out), "--any", "--plot", str(picture)]) == 0
    assert "| `vit_block` merge_tokens" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_no_baselines_still_measures_what_a_limit_needs(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ["--quick", "--no-baselines", "--cases", "layer_norm", "--out", str(out)]
    assert main(["merge", "--device", "cpu", *options]) == 0
    assert [row["provider"] for row in record.load(out)] == ["eager", "hico"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["merge", "--device", "cpu", "--cases", "nosuch"], "expected some of clips"),
        (["merge", "--device", "cpu", "--budget", "0"], "more than 0 seconds"),
        (["merge", "--device", "cpu", "--compile-workers", "-1"], "0 or more, got -1"),
        (["report", "--results", "nosuch.jsonl"], "found none at nosuch.jsonl"),
        (["retain", "--device", "cpu", "--cases", "clips"], "expected some of keep_16k"),
    ],
)
def test_bad_command_lines(options, message, capsys):
    assert main(options) == 2
    assert message in capsys.readouterr().err


def test_without_a_gpu_it_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["merge"]) == 2
    assert "--device cpu is a smoke run" in capsys.readouterr().err


def test_the_commit_comes_from_git_or_the_environment(monkeypatch):
    monkeypatch.setenv("HICO_COMMIT", "abc")
    assert record.git_state() == ("abc", False)
    monkeypatch.delenv("HICO_COMMIT")
    monkeypatch.setattr(record, "output_of", lambda *command: None)
    assert record.git_state() == (None, None)
    assert record.driver() is None


def test_results_that_are_no_json_are_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"case": 1}\n\n{"cut')
    with pytest.raises(ValueError, match=r"rows.jsonl:3: expected one JSON object"):
        record.load(path)
    path.write_text("[1]\n")
    with pytest.raises(ValueError, match="got list"):
        record.load(path)


@pytest.mark.gpu
def test_gpu_run(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ["--quick", "--no-baselines", "--cases", "vit_block", "--out", str(out)]
    assert main(["merge", *options]) == 0
    rows = record.load(out)
    assert [row["method"] for row in rows] == ["events", "graph"]
    assert rows[-1]["verdict"] and rows[-1]["driver"] and rows[-1]["peak_bytes"] > 0
