"""Official-format folders of small models with random weights, and their parts run by hand."""

import json

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from hico.model.vision import Connector, InternVideo2Encoder, VisionEncoder

VISION = {
    "image_size": 40,
    "patch_size": 4,
    "num_frames": 4,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "eos_token_id": 59,
    "mm_vision_tower": "umt-large",
    "mm_hidden_size": 32,
    "vision_config": VISION,
}
TOWER, PROJECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."


def official(**changed):
    """The fields of a config.json; changed ones that are None stay out."""
    auto = {name: f"modeling_videochat_flash.{name}" for name in ("AutoConfig", "AutoModel")}
    config = {"model_type": "videochat_flash_qwen", "torch_dtype": "float32", "auto_map": auto}
    config["architectures"] = ["VideoChatFlashQwenForCausalLM"]
    return config | SIZES | changed


def random_parts(config, seed=0):
    """Qwen2ForCausalLM, VisionEncoder and Connector, every parameter random."""
    names = [name for name in SIZES if name not in ("vision_config", "rope_theta", "rope_scaling")]
    rope = {"rope_type": "default", **(config["rope_scaling"] or {})}
    rope |= {"rope_theta": config["rope_theta"], "rope_type": rope.get("type", rope["rope_type"])}
    sizes = {name: config[name] for name in names if not name.startswith("mm_")}
    vision = config["vision_config"]
    make = InternVideo2Encoder if config["mm_vision_tower"] == "internvideo2" else VisionEncoder
    encoder = make(
        image_size=vision["image_size"], patch_size=vision["patch_size"],
        channels=vision["hidden_size"], depth=vision["num_hidden_layers"] - 1,
        num_heads=vision["num_attention_heads"],
    )  # fmt: skip
    connector = Connector(encoder.channels, config["hidden_size"], encoder.num_heads)
    decoder = Qwen2ForCausalLM(Qwen2Config(**sizes, rope_parameters=rope))
    generator = torch.Generator().manual_seed(seed)
    for part in (decoder, encoder, connector):
        for p in part.parameters():
            offset = 1.0 if p.ndim == 1 else 0.0
            nn.init.normal_(p, offset, 0.3 if p.ndim == 1 else 0.15, generator=generator)
    return decoder.eval(), encoder.eval(), connector.eval()


def published_state(decoder, encoder, connector):
    """The parts' weights under their official names."""
    state = dict(decoder.state_dict())
    state |= {TOWER + name: t for name, t in encoder.state_dict().items()}
    state |= {PROJECTOR + name: t for name, t in connector.state_dict().items()}
    if decoder.config.tie_word_embeddings:
        del state["lm_head.weight"]
    return {name: t.clone() for name, t in state.items()}


def write_folder(path, config, state, form="safetensors"):
    """config.json and weights: "safetensors", "sharded", "bin" or "sharded bin"."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    end = "bin" if form.endswith("bin") else "safetensors"
    stem = "pytorch_model" if end == "bin" else "model"
    names = sorted(state)
    pieces = [names[::2], names[1::2]] if form.startswith("sharded") else [names]
    where = {}
    for i, piece in enumerate(pieces, 1):
        name = f"{stem}-{i:05}-of-{len(pieces):05}.{end}" if len(pieces) > 1 else f"{stem}.{end}"
        where |= dict.fromkeys(piece, name)
        held = {key: state[key].contiguous() for key in piece}
        if end == "bin":
            torch.save(held, path / name)
        else:
            save_file(held, path / name, {"format": "pt"})
    if len(pieces) > 1:
        index = {"metadata": {}, "weight_map": where}
        (path / f"{stem}.{end}.index.json").write_text(json.dumps(index))
    return path


@torch.no_grad()
def logits_by_hand(decoder, encoder, connector, ids, frames):
    """[L, vocabulary] of ids [n] with one -200, from the parts one after another."""
    at = ids.tolist().index(-200)
    seen = connector(encoder(frames.unflatten(0, (-1, 4)))).flatten(0, 1)
    embed = decoder.model.embed_tokens
    embeds = torch.cat([embed(ids[:at]), seen, embed(ids[at + 1 :])])
    return decoder(inputs_embeds=embeds[None]).logits[0]
