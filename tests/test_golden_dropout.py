"""hico.progressive_dropout in stock transformers against the published model's own numbers."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen2Config, Qwen2ForCausalLM

import hico

GOLDEN = Path(__file__).parent / "golden" / "llm.safetensors"
with safe_open(GOLDEN, "pt") as file:
    META = {name: json.loads(text) for name, text in file.metadata().items()}
CLOSE = {"rtol": 0, "atol": 1e-3}
CASES = [pytest.param(case, id=f"case{case['case']}") for case in META["cases"]]


def load(name, device):
    with safe_open(GOLDEN, "pt") as file:
        return file.get_tensor(name).to(device)


@pytest.fixture(params=["sdpa", "eager"])
def model(request, device):
    config = {k: v for k, v in META["config"].items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": META["config"]["rope_theta"]}
    config = Qwen2Config(**config, rope_parameters=rope, attn_implementation=request.param)
    model = Qwen2ForCausalLM(config).eval()
    with safe_open(GOLDEN, "pt") as file:
        names = [name for name in file.keys() if name.startswith("state.")]  # noqa: SIM118
        state = {name.removeprefix("state."): file.get_tensor(name) for name in names}
    model.load_state_dict(state)
    return model.to(device)


def dropout(model, case):
    first = case["first_visual"]
    return hico.progressive_dropout(
        model, case["layers"], case["ratios"], case["compress_type"],
        visual_spans=[(first, first + case["num_visual"])],
    )  # fmt: skip


def check_kept(run, name, device):
    for stage, kept in enumerate(run.kept):
        assert torch.equal(kept[0], load(f"{name}.kept{stage}", device))


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_steps(case, model, device):
    name = f"case{case['case']}"
    embeds = load(f"{name}.inputs_embeds", device)
    tokens, want = load(f"{name}.tokens", device), load(f"{name}.step_logits", device)
    with dropout(model, case) as run:
        out = model(inputs_embeds=embeds, use_cache=True)
        torch.testing.assert_close(out.logits[0], load(f"{name}.prefill_logits", device), **CLOSE)
        assert len(run.kept) == len(case["layers"])
        check_kept(run, name, device)
        for step in range(len(want)):
            assert out.logits[0, -1].argmax() == tokens[step]
            out = model(input_ids=tokens[step].view(1, 1), past_key_values=out.past_key_values)
            torch.testing.assert_close(out.logits[0, -1], want[step], **CLOSE)


@torch.no_grad()
@pytest.mark.usefixtures("plain_on_cpu")
@pytest.mark.parametrize("case", CASES)
def test_generate(case, model, device):
    name = f"case{case['case']}"
    embeds, tokens = load(f"{name}.inputs_embeds", device), load(f"{name}.tokens", device)
    with dropout(model, case) as run:
        got = model.generate(
            inputs_embeds=embeds, max_new_tokens=8, min_new_tokens=8, do_sample=False
        )
        assert torch.equal(got[0], tokens)
        check_kept(run, name, device)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training(checkpointing, model, device):
    embeds, labels = load("train.inputs_embeds", device), load("train.labels", device)
    embeds.requires_grad_()
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    with dropout(model, META["train"]) as run:
        loss = model(inputs_embeds=embeds, labels=labels).loss
    check_kept(run, "train", device)
    torch.testing.assert_close(loss, load("train.loss", device)[0], rtol=1e-5, atol=1e-5)
    loss.backward()
    seen = embeds.grad[0].abs().sum(1) > 0
    assert seen.any() and model.lm_head.weight.grad.isfinite().all()
