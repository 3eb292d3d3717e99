"""The model that a stage begins with, from any of the places where one can begin."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hico.model._loading import check_names
from hico.model._tower import TOWERS, VisionTower, image_size, tower_name
from hico.model.configuration import VideoChatFlashConfig
from hico.model.load import PUBLISHED, SIZES, load_model, random_model
from hico.model.modeling import VideoChatFlashForConditionalGeneration
from hico.model.processing import VideoChatFlashProcessor
from hico.model.vision import Connector

from .settings import StageSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOWER, CONNECTOR = "model.vision_tower.vision_tower.", "model.mm_projector."
RANDOM = "random:"
UMT_L_SIZES = {
    "patch_size": 16,
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
}
CHANNELS = {"internvideo2": 1408, "umt-hd": 1024, "umt": 1024}


def start(stage: StageSettings) -> tuple[Any, Any]:
    """(model on the CPU, processor): all weights, with the stage's tower and resolution.

    Raises:
        ValueError: no model named, weights that do not fit, or parts that are given twice.
        OSError: no such file or folder.
    """
    where, dtype = _where(stage), DTYPES[stage.weights]
    if _is_qwen2(Path(where)):
        model, tokenizer = _from_qwen2(Path(where), stage, dtype)
    else:
        if stage.encoder is not None:
            raise ValueError(
                f"encoder: expected none, as {where} has one of its own, got {stage.encoder}"
            )
        if where.startswith(RANDOM):
            model, processor = random_model(_size(where), stage.seed, "cpu", dtype)
        else:
            model, processor = load_model(where, "cpu", dtype)
        tokenizer = processor.tokenizer
    _retarget(model.config, stage)
    _fit_tower(model)
    if stage.connector is not None:
        _load_connector(model, Path(stage.connector))
    return model, VideoChatFlashProcessor(tokenizer, image_size(model.config))


def on_meta(stage: StageSettings) -> Any:
    """The same model without its weights: names, shapes and types.

    Raises:
        ValueError, OSError: as start, but for what only weights tell.
    """
    where = _where(stage)
    if where.startswith(RANDOM):
        config = VideoChatFlashConfig(**PUBLISHED, **SIZES[_size(where)])
    elif _is_qwen2(Path(where)):
        config = _qwen2_config(Path(where), stage)
    else:
        config = VideoChatFlashConfig.from_pretrained(where)
    _retarget(config, stage)
    with torch.device("meta"):
        return VideoChatFlashForConditionalGeneration._from_config(
            config, dtype=DTYPES[stage.weights]
        )


def _retarget(config: Any, stage: StageSettings) -> None:
    """Gives the config the stage's tower, resolution and record of what is tuned."""
    if stage.tower is not None:
        config.mm_vision_tower = stage.tower
    given, size = dict(config.vision_config or {}), stage.resolution
    if size is not None and size != image_size(config):
        known = TOWERS[tower_name(config)][0]
        rest = {name: value for name, value in given.items() if name != "image_size"}
        config.vision_config = (rest | ({} if size == known else {"image_size": size})) or None
    config.mm_tunable_parts = ",".join(stage.tune)
    config.mm_vision_tower_lr = stage.tune.get("encoder")
    config.mm_projector_lr = stage.tune.get("connector")


def _fit_tower(model: Any) -> None:
    """The encoder that the config now describes, with the weights that the model has.

    UMT's positions are computed for any resolution.
    """
    with torch.device("meta"):
        wanted = VisionTower(model.config)
    shapes = [
        {name: tuple(t.shape) for name, t in tower.state_dict().items()}
        for tower in (wanted, model.model.vision_tower)
    ]
    check_names(shapes[0], shapes[1], False)
    model.encoder.image_size = wanted.vision_tower.image_size


def _where(stage: StageSettings) -> str:
    if stage.model is None:
        raise ValueError("model: expected a model to start from (--model), got none")
    return stage.model


def _size(where: str) -> str:
    size = where.removeprefix(RANDOM)
    if size not in SIZES:
        raise ValueError(f"model: expected random:SIZE with one of {', '.join(SIZES)}, got {where}")
    return size


def _is_qwen2(folder: Path) -> bool:
    try:
        held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(held, dict) and held.get("model_type") == "qwen2"


def _qwen2_config(folder: Path, stage: StageSettings) -> Any:
    held = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    own = {name: value for name, value in held.items() if name not in ("model_type", "auto_map")}
    own["architectures"] = None
    tower = stage.tower or "umt-large"
    published = {name: v for name, v in PUBLISHED.items() if name not in own and name[:4] != "rope"}
    if "rope_theta" not in own and "rope_parameters" not in own:
        published["rope_theta"] = PUBLISHED["rope_theta"]
    config = VideoChatFlashConfig(**published | {"mm_vision_tower": tower}, **own)
    config.mm_hidden_size = CHANNELS[tower_name(config)]
    return config


def _from_qwen2(folder: Path, stage: StageSettings, dtype: torch.dtype) -> tuple[Any, Any]:
    """(model, tokenizer): a plain language model gets an encoder's file and a new connector."""
    from transformers import AutoTokenizer, Qwen2ForCausalLM

    if stage.encoder is None:
        raise ValueError(
            f"encoder: expected a file of weights for {folder}, a language model without an "
            "encoder, got none"
        )
    encoder = _encoder_of(Path(stage.encoder), stage)
    config = _qwen2_config(folder, stage)
    config.mm_hidden_size = encoder.channels
    sizes = _vision_sizes(encoder)
    if "internvideo2" not in tower_name(config) and sizes != UMT_L_SIZES:
        config.vision_config = sizes
    with torch.random.fork_rng([]):
        torch.manual_seed(stage.seed)
        connector = Connector(encoder.channels, config.hidden_size, encoder.num_heads)
    llm = Qwen2ForCausalLM.from_pretrained(folder, dtype=dtype, trust_remote_code=False)
    state = dict(llm.state_dict())
    state |= {TOWER + name: t for name, t in encoder.state_dict().items()}
    state |= {CONNECTOR + name: t for name, t in connector.state_dict().items()}
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    return _loaded(config, state, dtype), tokenizer


def _encoder_of(file: Path, stage: StageSettings) -> Any:
    from hico.model.vision import InternVideo2Encoder, VisionEncoder

    state = read_tensors(file)
    if "internvideo2" in (stage.tower or ""):
        return InternVideo2Encoder.from_published(state)
    return VisionEncoder.from_published(state)


def _vision_sizes(encoder: Any) -> dict[str, int]:
    return {
        "patch_size": encoder.patch_size,
        "hidden_size": encoder.channels,
        "num_hidden_layers": len(encoder.trunk.blocks) + 1,
        "num_attention_heads": encoder.num_heads,
    }


def _loaded(config: Any, state: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """A model of this config with these weights, every name and shape checked."""
    model = VideoChatFlashForConditionalGeneration
    with torch.device("meta"):
        expected = model._from_config(copy.deepcopy(config)).state_dict()
    shapes = [{n: tuple(t.shape) for n, t in held.items()} for held in (expected, state)]
    check_names(shapes[0], shapes[1], config.tie_word_embeddings)
    return model.from_pretrained(None, config=config, state_dict=dict(state), dtype=dtype)


def _load_connector(model: nn.Module, file: Path) -> None:
    state = read_tensors(file)
    own = {name.split("mm_projector.")[-1]: t for name, t in state.items()}
    connector: Any = model.get_submodule("model.mm_projector")
    fresh = Connector.from_published(own, connector.num_heads)
    shapes = [(c.channels, c.mlp[0].out_features) for c in (connector, fresh)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"{file}: expected a connector of {shapes[0]} channels, got {shapes[1]}")
    connector.load_state_dict(fresh.state_dict())


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, or of one that torch reads without running code.

    Raises:
        OSError: no such file.
        ValueError: not a file of tensors.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(file)
        held = torch.load(file, map_location="cpu", weights_only=True)
        held = held.get("module", held)
        return {name: t for name, t in held.items() if isinstance(t, Tensor)}
    except Exception as error:  # of many libraries, and each means the same
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file}: expected a file of tensors, got {reason}") from error
