"""The benchmark itself: its baselines, formulas, verdicts and refusals, on tiny shapes on a CPU."""

import doctest
import importlib
import pkgutil
from dataclasses import replace
from functools import partial

import pytest
import torch

import hico
import hico.bench
from hico.bench import accuracy, check, eager, measure, merge, record, table, timing
from hico.bench.__main__ import main
from hico.bench.cases import CASES, Limit, OpCase, pick
from hico.bench.ceilings import Ceilings, ceilings
from hico.bench.inputs import Shape

CPU = torch.device("cpu")
TOP = Ceilings(copy=4.0, read=2.0, write=5.0, matmul=700.0)
BY_NAME = {case.name: case for case in CASES}
EVERY = set("kind case B N C M heads dtype seed error run date device gpu driver torch".split())
EVERY |= set("triton python commit dirty copy_tb_s read_tb_s matmul_tflop_s quick".split())
SPEED = EVERY | set("provider mode method samples median_ms p20_ms p80_ms launch_us gb_s".split())
SPEED |= set("share_of_one_read share_of_two_read peak_bytes must target".split())


def tiny(name: str, **changes: object) -> OpCase:
    return replace(BY_NAME[name].on_cpu(), **changes)


@pytest.fixture
def one_run(tmp_path) -> merge.Run:
    """A run on the CPU that has not measured anything yet."""
    return merge.Run(CPU, tmp_path / "rows.jsonl", 600.0, True, record.environment(CPU), TOP)


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(hico.bench.__path__)])
def test_docstring_examples(name):
    assert doctest.testmod(importlib.import_module(f"hico.bench.{name}")).failed == 0


# ---- timing


def test_times_are_medians_and_percentiles():
    times = timing.Times.of([5.0, 1.0, 2.0, 3.0, 4.0, 6.0], "events")
    assert (times.median, times.p20, times.p80, times.samples) == (3.5, 2.0, 5.0, 6)
    assert timing.Times.of([7.0], "events").p80 == 7.0


def test_time_gpu_rotates_inputs_and_keeps_setup_outside():
    seen, prepared = [], []

    def setup(x):
        prepared.append(x)
        return (x + 1,)

    sets = [(torch.tensor(float(i)),) for i in range(3)]
    times = timing.time_gpu(
        lambda x: seen.append(x.item()), sets, setup=setup, min_samples=6, max_samples=6
    )
    assert times.samples == 6 and times.method == "wall clock"
    assert 0 <= times.p20 <= times.median <= times.p80
    assert seen[-6:] == [1.0, 2.0, 3.0] * 2 and len(prepared) == len(seen)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: timing.Times.of([], "events"), "at least one"),
        (lambda: timing.time_gpu(print, []), "at least one input set"),
        (lambda: timing.time_gpu(abs, [(torch.ones(1),)], budget_s=0), "budget_s"),
        (lambda: timing.time_gpu(abs, [(torch.ones(1),)], min_samples=9, max_samples=3), "9 and 3"),
        (lambda: Limit(1.0, "s"), "expected one of ms"),
        (lambda: pick("clips,nosuch"), "got nosuch"),
        (lambda: pick(" ,"), "got nothing"),
        (lambda: Ceilings(0.0, 1.0, 1.0, 1.0), "ceilings"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_on_a_cpu_there_is_no_launch_and_no_device_memory():
    args = (torch.ones(4),)
    assert timing.launch_overhead(torch.sum, args) is None
    assert timing.peak_memory(torch.sum, args) is None
    assert timing.time_graph(torch.sum, [args], budget_s=0.01).method == "wall clock"
    top = ceilings(CPU, budget_s=0.01)
    assert min(top.copy, top.read, top.write, top.matmul) > 0


def test_sets_that_rotate_move_enough(monkeypatch):
    monkeypatch.setattr(timing, "l2_bytes", lambda device: 60)
    needed = [timing.sets_needed(size, CPU) for size in (1000, 240, 239, 60, 1)]
    assert needed == [1, 1, 3, 5, 16]


# ---- the baseline


@pytest.mark.parametrize("metric", [False, True], ids=["heads", "metric"])
@pytest.mark.parametrize(("n", "m"), [(49, 8), (98, 8), (65, 64), (12, 12), (7, 1)])
def test_eager_is_the_reference(n, m, metric):
    x = torch.randn(2, n, 24)
    given = torch.randn(2, n, 5) if metric else None
    heads = {} if metric else {"num_heads": 3}
    expected = hico.merge_tokens(x, m, metric=given, order="reference", **heads).tokens
    torch.testing.assert_close(eager.merge(x, m, metric=given, **heads), expected)


@pytest.mark.parametrize("r", [1, 7, 16])
def test_eager_is_the_reference_with_a_class_token(r):
    x, metric = torch.randn(2, 33, 24), torch.randn(2, 33, 8)
    result = hico.merge_tokens(x, 33 - r, metric=metric, protected=1, order="reference")
    out = eager.merge(x, 33 - r, metric=metric, protected=1)
    torch.testing.assert_close(out, result.tokens)
    assert torch.equal(out[:, 0], x[:, 0])


def test_eager_backward_is_ours():
    x, dy = torch.randn(2, 49, 24), torch.randn(2, 8, 24)
    grads = []
    for forward in (
        lambda t: eager.merge(t, 8, num_heads=3),
        lambda t: hico.merge_tokens(t, 8, num_heads=3, order="reference").tokens,
    ):
        form = measure.provider(BY_NAME["backward"], "any", forward)
        grads.append(form.run(*form.setup(x, dy)))
    torch.testing.assert_close(*grads)


def test_eager_layer_norm_is_the_reference():
    x, weight, bias = torch.randn(2, 5, 12), torch.randn(12), torch.randn(12)
    expected = hico.layer_norm_metric(x, weight, bias, 1e-6, 3)
    torch.testing.assert_close(eager.layer_norm_metric(x, weight, bias, 1e-6, 3), expected)


# ---- formulas, limits, verdicts


@pytest.mark.parametrize(
    ("name", "once", "twice"),
    [
        # x 96, outputs 2*2*(12 + 4 + 8) + 2*4*8 = 160
        ("clips", 256, 352),
        # and an fp32 metric 2*4*2*4 = 64
        ("clips_metric", 320, None),
        # a bf16 metric 32
        ("vit_block", 288, None),
        # x and y 96 each, metric 64
        ("layer_norm", 256, None),
        # dx 96, dy 48, sizes 16, assign 64
        ("backward", 224, None),
    ],
)
def test_traffic_by_hand(name, once, twice):
    case = replace(BY_NAME[name], shape=Shape(2, 4, 6, 2, 3))
    traffic = case.traffic(case.shape)
    assert (traffic.once, traffic.twice) == (once, twice)
    # mostly reading: the better of copy and read; mostly writing: of copy and write
    rate = 5e9 if case.backward else 4e9
    expected = (once / rate, None if twice is None else twice / rate)
    assert measure.floors(case, TOP) == expected


def test_floors_are_those_of_the_design():
    at = Ceilings(copy=4.27, read=4.19, write=4.0, matmul=690.0)
    assert measure.floors(BY_NAME["clips_448"], at)[1] == pytest.approx(3.04, abs=0.02)
    assert measure.floors(BY_NAME["clips_metric"], at)[0] == pytest.approx(1.14, abs=0.03)
    assert measure.floors(BY_NAME["clips"], at)[1] == pytest.approx(1.96, abs=0.06)


def test_limits_become_milliseconds():
    names = ("ms", "x floor", "x two-read floor", "x eager")
    found = [measure.limit_ms(Limit(2.0, unit), 1.5, 3.0, 10.0) for unit in names]
    assert found == [2.0, 3.0, 6.0, 20.0]
    assert measure.limit_ms(Limit(2.0, "x eager"), 1.5, None, None) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2.6, "target met"),
        (2.6001, "must met, target missed by 0.1%"),
        (3.0, "must met, target missed by 15.4%"),
        (3.001, "must missed by 0.1%"),
        (4.5, "must missed by 50.0%"),
    ],
)
def test_verdicts_say_by_how_much(value, said):
    assert measure.verdict(value, 3.0, 2.6) == said


def test_a_verdict_needs_its_reference():
    assert measure.verdict(1.0, None, None).startswith("undecided")


def test_memory_is_judged_where_it_has_a_figure():
    row = {"eager_ms": None, "peak_bytes": 0.7e9}
    found = measure.verdicts(BY_NAME["clips"], 2.5, 1.0, 2.0, row)
    assert found["verdict"] == "target met"
    assert found["memory_verdict"] == "must met, target missed by 40.0%"
    assert "memory_verdict" not in measure.verdicts(BY_NAME["vit_block"], 1.0, 1.0, None, row)


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
    case = tiny("clips", ours=partial(wrong, how=how), also=())
    merge.plain_and_ours(one_run, case, baselines=False)
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

    merge.plain_and_ours(one_run, tiny("layer_norm", eager=fails), baselines=True)
    errors = {row["provider"]: row["error"] for row in one_run.rows}
    assert errors.pop("eager") == "RuntimeError: out of memory"
    assert errors == {"eager, all of it": None, "hico": None}
    assert record.load(one_run.out) == one_run.rows
    assert "RuntimeError: out of memory" in table.table(one_run.rows)


def test_what_the_budget_leaves_out_is_said(one_run):
    one_run.budget_s = -1.0
    merge.plain_and_ours(one_run, tiny("vit_block"), baselines=True)
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
        (["report", "--results", "nosuch.jsonl"], "found none at nosuch.jsonl"),
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


# ---- on a GPU


@pytest.mark.gpu
def test_gpu_timing():
    x = torch.randn(1 << 22, device="cuda")
    sets = [(x,), (x.clone(),)]
    events = timing.time_gpu(torch.sin, sets, budget_s=0.1)
    graph = timing.time_graph(torch.sin, sets, budget_s=0.1)
    assert (events.method, graph.method) == ("events", "graph")
    # 32 MiB at no more than 10 TB/s
    assert min(events.p20, graph.p20) > 0.003
    assert timing.peak_memory(torch.sin, (x,)) == x.nbytes
    assert timing.launch_overhead(torch.sin, (x,)) > 0


@pytest.mark.gpu
def test_gpu_run(tmp_path):
    out = tmp_path / "rows.jsonl"
    options = ["--quick", "--no-baselines", "--cases", "vit_block", "--out", str(out)]
    assert main(["merge", *options]) == 0
    rows = record.load(out)
    assert [row["method"] for row in rows] == ["events", "graph"]
    assert rows[-1]["verdict"] and rows[-1]["driver"] and rows[-1]["peak_bytes"] > 0
