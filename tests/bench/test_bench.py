"""The benchmark's parts: its clock, baselines, formulas and verdicts, on tiny shapes on a CPU."""

import doctest
import importlib
import pkgutil
from dataclasses import replace

import pytest
import torch
from bench_helpers import BY_NAME, CPU, TOP

import hico
import hico.bench
from hico.bench import eager, measure, timing
from hico.bench.case import Form, pick
from hico.bench.cases import CASES
from hico.bench.ceilings import Ceilings, ceilings
from hico.bench.inputs import Shape
from hico.bench.limits import Limit, limit_ms, verdict


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
        (lambda: Limit(1.0, "s"), "expected 'ms' or 'x '"),
        (lambda: replace(CASES[0], must=Limit(1.0, "x nosuch")), "eager, floor.*got 1 x nosuch"),
        (lambda: replace(CASES[0], compiled="nosuch"), "one of eager, got 'nosuch'"),
        (lambda: pick(CASES, "clips,nosuch"), "got nosuch"),
        (lambda: pick(CASES, " ,"), "got nothing"),
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
        lambda s, t: eager.merge(t, 8, num_heads=3),
        lambda s, t: hico.merge_tokens(t, 8, num_heads=3, order="reference").tokens,
    ):
        form = measure.provider(BY_NAME["backward"], Form("any", forward))
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
    expected = {"floor": once / rate, "two-read floor": None if twice is None else twice / rate}
    assert measure.floors(case, TOP) == expected


def test_floors_are_those_of_the_design():
    at = Ceilings(copy=4.27, read=4.19, write=4.0, matmul=690.0)
    floors = {name: measure.floors(case, at) for name, case in BY_NAME.items()}
    assert floors["clips_448"]["two-read floor"] == pytest.approx(3.04, abs=0.02)
    assert floors["clips_metric"]["floor"] == pytest.approx(1.14, abs=0.03)
    assert floors["clips"]["two-read floor"] == pytest.approx(1.96, abs=0.06)


def test_limits_become_milliseconds():
    references = {"floor": 1.5, "two-read floor": 3.0, "eager": 10.0}
    units = ("ms", "x floor", "x two-read floor", "x eager")
    assert [limit_ms(Limit(2.0, unit), references) for unit in units] == [2.0, 3.0, 6.0, 20.0]
    assert limit_ms(Limit(2.0, "x eager"), {"eager": None}) is None


def test_what_limits_refer_to_is_measured_first():
    assert [form.name for form in BY_NAME["layer_norm"].references] == ["eager"]
    assert BY_NAME["clips_448"].references == ()
    # a floor that was measured and failed is not replaced by the formula's
    found = measure.verdicts(BY_NAME["backward"], 1.0, {"floor": None}, None)
    assert found["must_ms"] is None and found["verdict"].startswith("undecided")


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
    assert verdict(value, 3.0, 2.6) == said
    assert verdict(value, 3.0) == ("must met" if value <= 3.0 else said)


def test_a_verdict_needs_its_reference():
    assert verdict(1.0, None).startswith("undecided")
    assert verdict(1.0, 2.0, None).startswith("undecided")


def test_memory_is_judged_where_it_has_a_figure():
    found = measure.verdicts(BY_NAME["clips"], 2.5, {}, 0.7e9)
    assert found["verdict"] == "target met"
    assert found["memory_verdict"] == "must met, target missed by 40.0%"
    assert "memory_verdict" not in measure.verdicts(BY_NAME["vit_block"], 1.0, {}, 0.7e9)


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
