"""bench model at tiny sizes: every case runs, and its rows say what the figures ask for."""

import json
from functools import cache

import pytest
import torch

from hico.bench import model, model_video
from hico.bench.__main__ import main
from hico.bench.model_cases import encoder_off
from hico.bench.model_setup import DRY, REAL, PlainEncoder, Setup
from hico.model import VideoChatFlashConfig

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def setup() -> Setup:
    return Setup(DRY, CPU)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@cache
def dry_run(out):
    """The rows of one dry run, and their file."""
    assert main(["model", "--dry", "--out", str(out)]) == 0
    return [json.loads(line) for line in out.read_text().splitlines()], out


@pytest.fixture
def dry(plain_on_cpu, folder):
    return dry_run(folder / "rows.jsonl")


def test_every_case_has_rows_without_errors(dry):
    rows, _ = dry
    planned = model_video.jobs(DRY, None, None)
    assert [(r["case"], r["provider"]) for r in rows] == [
        (case, provider) for case in model.CASES for provider, _ in planned[case]
    ]
    for row in rows:
        assert row["error"] is None and row["seconds"] > 0 and row["quick"] is True
        assert {"gpu", "torch", "transformers", "commit", "date", "dtype", "run"} <= row.keys()


def test_rows_say_what_the_figures_ask_for(dry):
    by_case = {row["case"]: row for row in dry[0]}
    assert by_case["encoder"]["off_plain"] < 1e-4 and by_case["encoder"]["must"] == 2.4
    asked = by_case["questions"]
    assert asked["memory_limit_bytes"] == 80_000_000_000 and asked["frames"] == DRY.frames
    assert asked["second_share"] == pytest.approx(asked["second_s"] / asked["seconds"])
    assert {"encoding", "watching", "first token"} <= asked["stages_s"].keys()
    dropped = next(row for row in dry[0] if row["case"] == "questions")
    assert (dropped["must"], dropped["target"], asked["must"]) == (10, 9, 17)
    assert dropped["tokens"] == [128, 96, 32] and asked["tokens"] == [128]
    assert "memory_verdict" in dropped
    steps = next(row for row in dry[0] if row["case"] == "decode")
    assert steps["ratio"] == pytest.approx(steps["tokens_s"] / steps["transformers_tokens_s"])
    assert len(steps["cache_lengths"]) == 3
    table = by_case["table"]
    assert tuple(table["stages_s"]) == model.STAGES and table["stages_s"]["reading"] is None
    assert sum(s for s in table["shares"].values() if s) == pytest.approx(1)
    assert table["stages_s"]["selection"] > 0 and table["stages_s"]["merging"] > 0


def test_plain_and_ours_agree_in_a_prompt(dry):
    ours, plain = (
        next(row for row in dry[0] if row["case"] == "prefill" and row["provider"] == name)
        for name in ("hico", "transformers")
    )
    assert ours["finite"] and ours["top_token"] == plain["top_token"]
    assert ours["top_logit"] == pytest.approx(plain["top_logit"], abs=1e-4)


def test_resume_leaves_out_what_is_there(dry, tmp_path, capsys):
    rows, _ = dry
    out = tmp_path / "rows.jsonl"
    kept = [row for row in rows if row["provider"] != "transformers"]
    out.write_text("".join(json.dumps(row) + "\n" for row in kept))
    options = ["model", "--dry", "--out", str(out), "--only", "prefill", "--resume"]
    assert main(options) == 0
    added = [json.loads(line) for line in out.read_text().splitlines()][len(kept) :]
    assert [row["provider"] for row in added] == ["transformers"]
    assert "prefill: hico, dropout: there is a row" in capsys.readouterr().err


def test_what_is_not_run_or_fails_is_said(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["model", "--dry", "--out", str(out), "--only", "decode"]
    assert main([*options, "--budget", "1e-9"]) == 1
    assert "not run: the budget of 1e-09 s was spent" in capsys.readouterr().out

    def fails(setup):
        raise RuntimeError("no memory")

    monkeypatch.setattr(model_video, "jobs", lambda *_: {"decode": [("hico", fails)]})
    assert main(options) == 1
    assert json.loads(out.read_text().splitlines()[-1])["error"] == "RuntimeError: no memory"


def test_show_prints_the_newest_rows(dry, capsys):
    rows, out = dry
    assert main(["model", "--show", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "| frames | seconds | GiB | reading | encoding | merging |" in text
    assert "| not measured |" in text and "second question" in text
    later = rows[0] | {"seconds": 0.25, "verdict": "must met"}
    assert "| encoder | eager | 0.250 s, must met |" in model.markdown([*rows, later])
    assert "0.250 s" in model.markdown([*rows, later, rows[0] | {"error": "broke"}])


def test_errors_name_what_was_expected(tmp_path, capsys):
    for options, said in (
        (["--only", "all"], "only: expected some of encoder"),
        (["--dry"], "out: expected a file of its own"),
        (["--budget", "0"], "more than 0"),
        (["--show", "--out", str(tmp_path / "none")], "found none at"),
    ):
        assert main(["model", *options]) == 2
        assert said in capsys.readouterr().err


def test_a_file_that_is_too_short_is_not_timed(tmp_path, setup):
    from hico.model.video import Clip

    def clip(path, most, least, size):
        return Clip(torch.zeros(3, size, size, 3, dtype=torch.uint8), None, None, 3.0, 1.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hico.model.video.read_clip", clip)
        assert model_video.read(tmp_path, 3, 32)[1] is not None
        frames, seconds = model_video.read(tmp_path, 8, 32)
    assert len(frames) == 8 and seconds is None


def test_models_share_weights_and_have_the_published_sizes(setup):
    ours, plain = setup.model, setup.transformers
    assert plain.lm_head.weight.data_ptr() == ours.lm_head.weight.data_ptr()
    assert type(plain).__module__.startswith("transformers")
    assert not any(weight.is_meta for weight in plain.parameters())
    assert encoder_off(ours.encoder, setup.clips(4)) < 1e-5
    assert PlainEncoder(ours.encoder)(setup.clips(4)).shape == (1, 256, 32)
    real = VideoChatFlashConfig(**REAL.config)
    assert (real.hidden_size, real.num_hidden_layers, real.num_key_value_heads) == (3584, 28, 4)
    assert REAL.dropout.layers == (4, 18) and REAL.dropout.ratios == (1.0, 0.75, 0.25)
    assert REAL.visual == 16 * REAL.frames and REAL.visual + REAL.text == 160_256
