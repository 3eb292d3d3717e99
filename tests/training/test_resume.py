"""A run that a signal stops, at any pass, ends bit for bit where one that nobody stopped does."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import SMALL, tiny_folder, write_stage, write_videos

from hico.cli import main
from hico.model.training.trainer import StageTrainer

# two passes a step, three steps an epoch, two epochs; everything that is drawn at random is on
SETTINGS = SMALL | {
    "batch": 2,
    "global_batch": 4,
    "epochs": 2,
    "max_frames": 4,
    "dropout": {"layers": [1, 2], "ratios": [1, 0.5, 0.25], "kind": "random0_attention"},
    "position_skips": {"max": 600},
    "weight_decay": 0.1,
}
STEPS, PASSES = 6, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model and 14 rows, of which the last 2 fill no step."""
    root = tmp_path_factory.mktemp("resume")
    tiny_folder(root / "model", num_hidden_layers=3)
    write_videos(root / "data", 11, 0, texts=3)
    SETTINGS["dropout"]["share"] = 0.7
    return root


def stage(made, output, **changed):
    paths = {"model": made / "model", "data": made / "data" / "data.yaml", "output": output}
    return write_stage(output.with_suffix(".yaml"), extends="short", **SETTINGS | paths | changed)


@pytest.fixture(scope="module")
def whole(made):
    """The run that nobody stops."""
    assert main(["train", str(stage(made, made / "whole"))]) == 0
    return made / "whole"


def same(one, other):
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    logs = [(folder / "log.jsonl").read_text() for folder in (one, other)]
    assert logs[0] == logs[1] and len(logs[0].splitlines()) == STEPS
    kept = [torch.load(next(f.glob("checkpoint-*")) / "optimizer.pt") for f in (one, other)]
    assert str(kept[0]) == str(kept[1])


@pytest.mark.parametrize(
    ("at", "number", "status"),
    [(1, "SIGTERM", 143), (4, "SIGINT", 130), (6, "SIGTERM", 143), (9, "SIGTERM", 143)],
)
def test_a_signal_in_any_pass(made, whole, tmp_path, monkeypatch, capsys, at, number, status):
    passes, real = [], StageTrainer.compute_loss

    def interrupted(self, *args, **kwargs):
        passes.append(0)
        if len(passes) == at:
            os.kill(os.getpid(), getattr(signal, number))
        return real(self, *args, **kwargs)

    file, before = stage(made, tmp_path / "run"), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(StageTrainer, "compute_loss", interrupted)
    assert main(["train", str(file)]) == status
    step = -(-at // PASSES)
    assert len(passes) == step * PASSES and signal.getsignal(signal.SIGTERM) == before
    assert f"stopped by {number} after step {step} of {STEPS}" in capsys.readouterr().err
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left == {f"checkpoint-{step}", "log.jsonl", "stage.json", "lengths.json"}
    monkeypatch.setattr(StageTrainer, "compute_loss", real)
    assert main(["train", str(file)]) == 0
    same(tmp_path / "run", whole)


def test_a_process_that_is_told_to_end(made, whole, tmp_path):
    file = stage(made, tmp_path / "run", workers=1)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "hico.cli", "train", str(file)]
    process = subprocess.Popen(
        command, env=os.environ | threads, stderr=subprocess.PIPE, start_new_session=True
    )
    log, begun = tmp_path / "run" / "log.jsonl", time.time()
    while (not log.exists() or not log.read_text()) and time.time() < begun + 100:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)  # to those that load data as well
    _, told = process.communicate(timeout=100)
    assert process.returncode == 143, told.decode()
    assert b"stopped by SIGTERM" in told and b"Traceback" not in told
    assert not (tmp_path / "run" / "config.json").exists()
    assert main(["train", str(file), "--set", "workers=0"]) == 0
    same(tmp_path / "run", whole)


def test_a_checkpoint_that_was_never_finished(made, whole, tmp_path, monkeypatch):
    """A run that is killed while it saves goes on from the checkpoint before."""
    file = stage(made, tmp_path / "run", save_every=2)
    real = StageTrainer._save_optimizer_and_scheduler

    def killed(self, folder):
        if self.state.global_step == 4:
            raise MemoryError
        return real(self, folder)

    monkeypatch.setattr(StageTrainer, "_save_optimizer_and_scheduler", killed)
    with pytest.raises(MemoryError):
        main(["train", str(file)])
    assert [path.name for path in (tmp_path / "run").glob("checkpoint-*")] == ["checkpoint-2"]
    monkeypatch.setattr(StageTrainer, "_save_optimizer_and_scheduler", real)
    assert main(["train", str(file)]) == 0
    same(tmp_path / "run", whole)
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".")]


def test_what_is_done_stays_done(made, whole, tmp_path, capsys):
    written = (whole / "model.safetensors").stat().st_mtime_ns
    file = made / "whole.yaml"
    assert main(["train", str(file)]) == 0
    assert "finished already" in capsys.readouterr().err
    assert (whole / "model.safetensors").stat().st_mtime_ns == written
    for words, message in (
        (["resume=never"], "expected a new folder (resume: never)"),
        (["seed=5"], "seed: expected 0, as the run in"),
        (["tune.llm=1e-2"], "tune: expected"),
    ):
        assert main(["train", str(file), "--set", *words]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", str(file), "--output", str(made / "model")]) == 2
    assert "expected a new folder or a run's own" in capsys.readouterr().err


def test_what_is_logged(whole):
    lines = [json.loads(line) for line in (whole / "log.jsonl").open()]
    assert [line["lr_encoder"] for line in lines][0] == 0.0
    assert max(line["lr_llm"] for line in lines) == 1e-3
    assert all(line["grad_norm"] > 0 for line in lines)
