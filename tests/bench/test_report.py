"""The README's table: which rows it takes, and that nothing is rounded in our favour."""

import json
import sys

from hico.bench import measure, record, report
from hico.bench.__main__ import main
from hico.bench.cases import CASES


def gpu_row(provider: str, ms: float, run: str = "1", **changes: object) -> dict:
    case = CASES[0]
    row = measure.describe(case, provider) | {
        "suite": "merge", "run": run, "method": "events", "median_ms": ms, "tflop_s": None,
        "share_of_one_read": 0.3999,
        "share_of_two_read": 0.7999, "peak_bytes": 801_000_001,
        "verdict": "must met, target missed by 3.9%",
        "device": "cuda", "quick": False, "gpu": "GPU", "driver": "1", "torch": "2", "triton": "3",
        "python": "3.12", "commit": "abc", "dirty": False, "date": "2026-11-22T00:00:00Z",
        "copy_tb_s": 4.0, "read_tb_s": 4.0, "write_tb_s": 4.0,
    }  # fmt: skip
    return row | changes


def test_report_rounds_nothing_in_our_favour():
    rows = [gpu_row("hico", 2.70001), gpu_row("eager", 39.1999), gpu_row("compile", 13.9)]
    rows[1]["peak_bytes"] = 8_309_999_999
    text = report.markdown(rows)
    assert "| 39.199 ms, 8.30 GB, 14.5 x | 13.900 ms, 0.80 GB, 5.1 x |" in text
    assert "| **2.701 ms**, 0.81 GB | 79% of two reads |" in text
    assert "| 3 ms / 2.6 ms | must met, target missed by 3.9% |" in text


def test_report_takes_the_newest_run_and_its_own_baselines():
    old = [gpu_row("hico", 3.0), gpu_row("eager", 39.0)]
    new = [gpu_row("hico", 2.0, run="2", commit="def"), gpu_row("hico", 1.0, run="3", quick=True)]
    text = report.markdown(old + new)
    assert "| – | – | **2.000 ms**, 0.81 GB |" in text
    assert "commit def" in text and "commit abc" not in text
    assert "**1.000 ms**" in report.markdown(old + new, anything=True)


def test_report_shows_our_errors():
    failed = {"error": "WrongResult: no", "method": None}
    text = report.markdown([gpu_row("hico", 0.0, **failed), gpu_row("eager", 39.0)])
    assert "| 39.000 ms, 0.80 GB | – | – | – |" in text and "WrongResult: no |" in text


def test_report_takes_the_graph_where_there_is_one():
    rows = [gpu_row("hico", 0.2), gpu_row("hico", 0.1, method="graph")]
    assert "| **0.100 ms**, 0.81 GB |" in report.markdown(rows[::-1])


def test_report_without_matplotlib(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(gpu_row("hico", 2.0)) + "\n")
    assert main(["report", "--results", str(path), "--plot", str(tmp_path / "a.png")]) == 2
    assert "hico[plot]" in capsys.readouterr().err


def test_report_says_where_its_rows_come_from():
    text = report.markdown([gpu_row("hico", 2.0, dirty=True)])
    assert "GPU, driver 1, torch 2, triton 3, python 3.12, commit abc, with changes" in text
    assert "copy 4.00, read 4.00, write 4.00 TB/s" in text


def test_report_has_a_table_for_each_suite(tmp_path, monkeypatch, capsys):
    work = {"suite": "retain", "share_of_two_read": None, "share_of_one_read": None, "run": "9"}
    other = [
        gpu_row("floor", 0.9, **work, share_of_floor=None),
        gpu_row("hico", 1.2, **work, share_of_floor=0.7599),
        gpu_row("lean PyTorch", 3.2, **work, tflop_s=180.2),
    ]
    old = gpu_row("hico", 2.0)
    del old["suite"], old["shape"], old["tflop_s"]
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    for name, rows in (("merge", [old]), ("retain", other)):
        for row in rows:
            record.append(tmp_path / f"{name}.jsonl", row)
    assert main(["report"]) == 0
    first, second = capsys.readouterr().out.split("\n\n")[:2]
    assert first.startswith("| case | eager | compile | hico |")
    assert "[2500, 784, 1024] -> 64 | – | – | **2.000 ms**, 0.81 GB |" in first
    assert "| 3.200 ms, 0.80 GB, 181 TFLOP/s, 2.6 x | – | 0.900 ms, 0.80 GB |" in second
    assert "| **1.200 ms**, 0.81 GB | 75% of the floor |" in second


def test_report_without_any_results(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    assert main(["report"]) == 2
    assert "found none in" in capsys.readouterr().err
