"""Compiling ahead: what workers hand back, how they fail, how they are ended."""

import json
import os
import sys
import time

import pytest
from bench_helpers import tiny

from hico.bench import ahead, runner
from hico.bench.ahead import Outcome


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_workers_hand_back_seconds_or_why_not(monkeypatch):
    monkeypatch.delenv(ahead.THREADS, raising=False)
    said: list[str] = []
    threads = "import os, json; print('noise'); print(json.dumps({'compile_s': os.environ['%s']}))"
    jobs = {
        "good": python(threads % ahead.THREADS),
        "raises": python("raise MemoryError('no room')"),
        "killed": python("import os; os.kill(os.getpid(), 9)"),
        "silent": python("pass"),
        "odd": python("print('[1]')"),
    }
    done = ahead.run_all(jobs, 2, 30.0, said.append)
    assert done["good"] == Outcome(float(max(1, (os.cpu_count() or 1) // 2)))
    assert done["raises"].error == "exit status 1: MemoryError: no room"
    assert done["killed"].error == "exit status -9: no message"
    assert "compile_s" in done["silent"].error and "'[1]'" in done["odd"].error
    assert sorted(line.split(":")[0] for line in said) == sorted(jobs)


def test_so_many_at_once_and_no_more(tmp_path):
    log = f"open({str(tmp_path / 'log')!r}, 'a').write"
    code = f"import time; {log}('+'); time.sleep(0.1); {log}('-')"
    jobs = dict.fromkeys(map(str, range(3)), python(f"{code}; print('{{\"compile_s\": 0}}')"))
    done = ahead.run_all(jobs, 1, 30.0, lambda line: None)
    assert (tmp_path / "log").read_text() == "+-" * 3
    assert all(outcome.seconds == 0 for outcome in done.values())
    with pytest.raises(ValueError, match="1 worker or more, got 0"):
        ahead.run_all(jobs, 0, 30.0)


def test_a_deadline_ends_workers_and_what_they_started(tmp_path):
    child = f"import time; time.sleep(1.5); open({str(tmp_path / 'alive')!r}, 'w')"
    parent = "import subprocess, sys, time; "
    parent += f"subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    began = time.perf_counter()
    jobs = {"slow": python(parent), "waiting": python("pass")}
    done = ahead.run_all(jobs, 1, 0.5, lambda line: None)
    assert time.perf_counter() - began < 5
    assert all("budget" in done[name].error for name in jobs)
    time.sleep(1.5)
    assert not (tmp_path / "alive").exists()


def test_caches_are_the_users_or_go_away(monkeypatch):
    monkeypatch.delenv(ahead.FOLDER, raising=False)
    monkeypatch.setenv(ahead.TRITON_FOLDER, "/mine")
    with ahead.caches():
        folder = os.environ[ahead.FOLDER]
        assert os.path.isdir(folder) and os.environ[ahead.TRITON_FOLDER] == "/mine"
    assert not os.path.exists(folder) and ahead.FOLDER not in os.environ
    assert os.environ[ahead.TRITON_FOLDER] == "/mine"


def test_a_real_worker_then_the_run_itself(one_run):
    runner.compiled_forms(one_run, [tiny("layer_norm")], workers=1)
    (row,) = one_run.rows
    assert row["error"] is None and row["compile_workers"] == 1
    assert row["compile_s"] > 0 and row["warm_compile_s"] > 0
    json.dumps(row)


def test_without_a_workers_result_it_compiles_in_line_and_last(one_run, monkeypatch):
    done = {"vit_block": Outcome(error="no room"), "layer_norm": Outcome(12.0)}
    monkeypatch.setattr(ahead, "run_all", lambda *args: done)
    runner.compiled_forms(one_run, [tiny(name) for name in done], workers=2)
    first, last = one_run.rows
    assert (first["case"], first["compile_s"]) == ("layer_norm", 12.0)
    assert (last["case"], last["warm_compile_s"]) == ("vit_block", None)
    assert 0 < last["compile_s"] < 12.0 and last["compile_workers"] == 0


def test_no_time_to_compile_ahead(one_run, monkeypatch):
    monkeypatch.setattr(ahead, "run_all", lambda *args: pytest.fail("started"))
    one_run.budget_s = -1.0
    runner.compiled_forms(one_run, [tiny("layer_norm")], workers=2)
    assert one_run.rows[0]["error"].startswith("not run: the budget")
