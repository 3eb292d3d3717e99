"""Two processes do what one does with the same global batch; FSDP2 does what DDP does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from training_helpers import SMALL, tiny_folder, write_stage, write_videos

from hico.cli import main

SETTINGS = SMALL | {
    "batch": 2,
    "global_batch": 8,
    "steps": 4,
    "max_frames": 12,
    "min_frames": 4,
    "dropout": {"layers": [1, 2], "ratios": [1, 0.5, 0.25], "share": 0.6},
    "position_skips": {"max": 900},
}
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A model, and rows of which some batches of one process have nothing to see."""
    root = tmp_path_factory.mktemp("processes")
    tiny_folder(root / "model")
    write_videos(root / "data", 18, 0, texts=14)
    return root


def stage(made, name, **changed):
    paths = {"model": made / "model", "data": made / "data" / "data.yaml", "output": made / name}
    return write_stage(made / f"{name}.yaml", extends="short", **SETTINGS | paths | changed)


def launched(command):
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()[-4000:]


def same(one, other, error):
    """Losses, gradient norms and weights, within what another order of sums makes."""
    logs = [[json.loads(line) for line in (f / "log.jsonl").open()] for f in (one, other)]
    assert len(logs[0]) == len(logs[1]) == SETTINGS["steps"]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=error)
        assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=10 * error)
        assert {k: v for k, v in a.items() if k[:2] == "lr"} == {
            k: v for k, v in b.items() if k[:2] == "lr"
        }
    weights = [load_file(f / "model.safetensors") for f in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        # Adam makes a whole step of the last bit of a gradient that is nearly nothing
        close = (tensor - weights[1][name]).abs() < 1e-4 + error * tensor.abs()
        assert close.float().mean() > 0.999, name


def test_two_processes(made):
    """One test, so that the runs that are compared are made once."""
    here = Path(__file__).parent
    launched([*TORCHRUN, str(here / "group_ends.py"), "train", str(stage(made, "two"))])
    assert main(["train", str(stage(made, "one"))]) == 0
    same(made / "one", made / "two", 2e-5)
    assert not list((made / "two").glob(".*"))
    # FSDP2, and with the activations computed again
    file = stage(made, "sharded", fsdp=True, gradient_checkpointing=True)
    launched([*TORCHRUN, str(here / "as_if_gpus.py"), "train", str(file)])
    same(made / "two", made / "sharded", 2e-5)


@pytest.mark.gpu
def test_fsdp2_as_ddp(made):
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    found = {"device": "auto", "tf32": False}
    for name, changed in (("ddp", {}), ("fsdp", {"fsdp": True})):
        file = stage(made, name, **found | changed)
        launched([*TORCHRUN, "-m", "hico.cli", "train", str(file)])
    same(made / "ddp", made / "fsdp", 1e-4)
