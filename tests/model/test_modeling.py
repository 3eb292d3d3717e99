"""The whole model against the published one's outputs, from an official-format folder."""

import json
from pathlib import Path

import pytest
import torch
from model_helpers import logits_by_hand, official, published_state, random_parts, write_folder
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM

import hico
from hico.model import (
    DropoutSettings,
    VideoChatFlashConfig,
    VideoChatFlashForConditionalGeneration,
)

GOLDEN = Path(__file__).parents[1] / "golden"
CLOSE = {"rtol": 0, "atol": 1e-3}
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
FORMS = ("safetensors", "sharded", "bin", "sharded bin")
pytestmark = pytest.mark.usefixtures("plain_on_cpu")

with safe_open(GOLDEN / "e2e" / "io.safetensors", "pt") as file:
    IO = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    DROPOUT = json.loads(file.metadata()["dropout"])
IDS = torch.cat([IO["prefix_ids"], torch.tensor([-200]), IO["suffix_ids"]])[None]
SETTINGS = DropoutSettings(DROPOUT["layers"], DROPOUT["ratios"], DROPOUT["type"])


@pytest.fixture(params=["sdpa", "eager"])
def golden(request, device):
    return VideoChatFlashForConditionalGeneration.from_pretrained(
        GOLDEN / "e2e", attn_implementation=request.param
    ).to(device)


def run(model, name, device, **kwargs):
    pixels = IO["pixel_values"].to(device)
    out = model.generate(
        IDS.to(device), pixel_values_videos=[pixels], return_dict_in_generate=True,
        output_logits=True, **GREEDY, **kwargs,
    )  # fmt: skip
    assert torch.equal(out.sequences[0].cpu(), IO[f"{name}.tokens"])
    steps = torch.cat(out.logits).cpu()
    torch.testing.assert_close(steps[1:], IO[f"{name}.step_logits"], **CLOSE)
    torch.testing.assert_close(steps[0], IO[f"{name}.prefill_logits"][-1], **CLOSE)


@torch.no_grad()
def test_golden(golden, device):
    pixels = IO["pixel_values"].to(device)
    visual = golden.encode_video(pixels, chunk=1)
    torch.testing.assert_close(visual.cpu(), IO["visual_features"], rtol=0, atol=1e-4)
    out = golden(IDS.to(device), pixel_values_videos=pixels, use_cache=False)
    torch.testing.assert_close(out.logits[0].cpu(), IO["plain.prefill_logits"], **CLOSE)
    run(golden, "plain", device)
    run(golden, "dropout", device, dropout=SETTINGS)
    tokens = golden.generate(IDS.to(device), visual_features=visual, **GREEDY)
    assert torch.equal(tokens[0].cpu(), IO["plain.tokens"])


@torch.no_grad()
def test_golden_kept_rows(golden, device):
    with SETTINGS.use(golden) as dropped:
        run(golden, "dropout", device)
        for stage, kept in enumerate(dropped.kept):
            assert torch.equal(kept[0].cpu(), IO[f"dropout.kept{stage}"])
        out = golden(IDS.to(device), pixel_values_videos=IO["pixel_values"].to(device))
    torch.testing.assert_close(out.logits[0].cpu(), IO["dropout.prefill_logits"], **CLOSE)


@torch.no_grad()
def test_config_switches_dropout_on(golden, device):
    config, ids, pixels = golden.config, IDS.to(device), IO["pixel_values"].to(device)
    config.mm_llm_compress, config.llm_compress_type = True, DROPOUT["type"]
    config.llm_compress_layer_list, config.llm_image_token_ratio_list = "2,4", "1.0,0.75,0.25"
    run(golden, "dropout", device)
    out = golden(ids, pixel_values_videos=pixels)
    torch.testing.assert_close(out.logits[0].cpu(), IO["dropout.prefill_logits"], **CLOSE)
    with hico.progressive_dropout(golden, [2], [1, 0.5], "uniform") as dropped:
        golden(ids, pixel_values_videos=pixels)
        with pytest.raises(ValueError, match="inside of hico.progressive_dropout"):
            golden.generate(ids, pixel_values_videos=pixels, dropout=SETTINGS)
    assert [rows.shape[1] for rows in dropped.kept] == [34 + 64]


SHAPES = [
    {"mm_vision_tower": "internvideo2"},
    {"num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64},
    {"tie_word_embeddings": True, "num_key_value_heads": 1},
    {"rope_theta": 1e4, "max_position_embeddings": 64, "rope_scaling": {"type": "yarn",
     "factor": 4.0, "original_max_position_embeddings": 64}},
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize("form, changed", list(zip(FORMS, SHAPES, strict=True)), ids=FORMS)
def test_other_sizes(form, changed, tmp_path, device):
    config = official(**changed)
    parts = random_parts(config, seed=len(form))
    write_folder(tmp_path, config, published_state(*parts), form)
    model = AutoModelForCausalLM.from_pretrained(tmp_path).to(device)
    assert type(model) is VideoChatFlashForConditionalGeneration and not model.training
    ids, frames = torch.tensor([5, 6, -200, 7, 8, 9]), torch.randn(8, 3, 40, 40)
    want = logits_by_hand(*parts, ids, frames)
    got = model(ids[None].to(device), pixel_values_videos=frames.to(device)).logits[0].cpu()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    tied = model.lm_head.weight is model.model.embed_tokens.weight
    assert tied == config["tie_word_embeddings"]


@torch.no_grad()
@pytest.mark.parametrize("changed", [SHAPES[0], SHAPES[2]], ids=["internvideo2", "tied"])
def test_save_pretrained(changed, tmp_path):
    config = official(**changed)
    state = published_state(*random_parts(config))
    folder = write_folder(tmp_path / "a", config, state, "bin")
    model = VideoChatFlashForConditionalGeneration.from_pretrained(folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16
    model.save_pretrained(tmp_path / "b")
    with safe_open(tmp_path / "b" / "model.safetensors", "pt") as file:
        saved = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert saved.keys() == state.keys()
    assert all(torch.equal(saved[name], state[name].bfloat16()) for name in state)
    again = VideoChatFlashForConditionalGeneration.from_pretrained(tmp_path / "b")
    assert again.dtype == torch.bfloat16
    fields = [m.config.to_dict() for m in (again, model)]
    own = {"architectures", "_name_or_path"}
    assert {k for k in fields[0] if fields[0][k] != fields[1][k]} <= own
    ids, frames = torch.tensor([[5, -200, 7]]), torch.randn(4, 3, 40, 40)
    a, b = (m(ids, pixel_values_videos=frames).logits for m in (model, again))
    assert torch.equal(a, b)


OFFICIAL = {
    "qwen2_7b": {"mm_vision_tower": "umt-large"},
    "qwen2_5_2b": {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip


@pytest.fixture
def meta(monkeypatch):
    """torch.device("meta"), which does not know the tests' wrappers of what makes tensors."""
    known = torch.utils._device._device_constructors
    for name in ("empty", "empty_like"):
        monkeypatch.setattr(torch, name, getattr(torch, name).__wrapped__)
    known.cache_clear()
    yield torch.device("meta")
    known.cache_clear()


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_names_and_shapes(name, meta):
    want = json.loads((GOLDEN / f"state_dict_{name}.json").read_text())
    with meta:
        model = VideoChatFlashForConditionalGeneration(VideoChatFlashConfig(**OFFICIAL[name]))
    assert {name: list(t.shape) for name, t in model.state_dict().items()} == want
    assert model.encoder.image_size == (224 if "7b" in name else 448)


def test_config_is_as_released(tmp_path):
    config = VideoChatFlashConfig()
    assert (config.llm_compress_layer_list, config.mm_llm_compress) == ([8, 16, 24], False)
    assert config.rope_parameters == {"rope_theta": 1e6, "rope_type": "default"}
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict() | {"_name_or_path": str(tmp_path)}
    given = VideoChatFlashConfig.from_dict(official(unheard_of=3))
    assert given.unheard_of == 3 and not hasattr(given, "auto_map")
