"""bench training at tiny sizes: every form makes a step, and its rows say what was measured."""

import json

import pytest
import torch

from hico.bench import training
from hico.bench.__main__ import main
from hico.bench.model_setup import DRY, Setup

pytestmark = pytest.mark.usefixtures("plain_on_cpu")


def test_every_form_makes_a_step(tmp_path, capsys):
    out = tmp_path / "rows.jsonl"
    assert main(["training", "--dry", "--frames", "4,8", "--steps", "1", "--out", str(out)]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["provider"], r["frames"]) for r in rows] == [
        (name, count) for name in training.FORMS for count in (4, 8)
    ]
    for row in rows:
        assert row["error"] is None and row["seconds"] > 0 and row["gradient_checkpointing"]
        assert row["tokens"] == 16 * row["frames"] + training.PROMPT + training.ANSWER - 1
        assert row["tokens_s"] == pytest.approx(row["tokens"] / row["seconds"])
    table = capsys.readouterr().out
    assert all(f"| {name} |" in table for name in training.FORMS) and " x |" in table


def test_the_published_merge_gives_the_same_loss():
    setup = Setup(DRY, torch.device("cpu"))
    batch, model = training.batch_of(setup, 8), setup.model
    ours = model(**batch).loss
    with training.published_merge(model):
        theirs = model(**batch).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert "forward" not in vars(model.model.mm_projector)


def test_every_weight_is_tuned_at_its_part_s_rate():
    setup = Setup(DRY, torch.device("cpu"))
    optimizer = training.ready(setup)
    rates = {id(w): g["lr"] for g in optimizer.param_groups for w in g["params"]}
    model = setup.model.model
    for part, rate in ((model.vision_tower, 2e-6), (model.mm_projector, 1e-5)):
        assert {rates[id(w)] for w in part.parameters()} == {rate}
    assert len(rates) == len(list(setup.model.parameters()))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--frames", "many"], "frames: expected counts"),
        (["--frames", "6", "--dry"], "multiples of 4"),
        (["--dry"], "a file of its own"),
    ],
)
def test_wrong_options(options, named, capsys):
    assert main(["training", *options]) == 2
    assert named in capsys.readouterr().err
