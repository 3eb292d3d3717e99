"""A model and its processor: the one that ships, from a folder or the Hub, or random."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ._tower import image_size

SHIPPED = Path(__file__).parent / "data" / "hico-tiny"
WEIGHTS = "model.safetensors"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# the published fields that all sizes share
PUBLISHED = {
    "mm_vision_select_layer": -2,
    "mm_projector_type": "tome16_mlp_hd64",
    "vision_encode_type": "video_image",
    "mm_local_num_frames": 4,
    "mm_patch_merge_type": "spatial_nopad",
    "mm_newline_position": "nothing",
    "image_aspect_ratio": "anyres_nopad",
    "frame_aspect_ratio": "square",
    "mm_llm_compress": False,
    "tokenizer_padding_side": "right",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
}
UMT_L = {"mm_vision_tower": "umt-large", "mm_hidden_size": 1024, "max_position_embeddings": 32768}
SIZES: dict[str, dict[str, Any]] = {
    "demo": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 32768,
        "mm_vision_tower": "umt-large",
        "mm_hidden_size": 64,
        "initializer_range": 0.4,  # large enough that answers depend on what is seen
        "vision_config": {
            "image_size": 224,
            "patch_size": 16,
            "num_frames": 4,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 16,
        },
    },
    "1.5b": UMT_L
    | {
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "7b": UMT_L
    | {
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
        "tie_word_embeddings": False,
    },
}


def shipped() -> Path:
    """The folder of hico-tiny, the trained model that is part of the package.

    Its README.md says what it can do. It holds safetensors and JSON alone.

    Raises:
        FileNotFoundError: its weights are not there, as in a checkout without them.
    """
    if not (SHIPPED / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"hico-tiny: no {WEIGHTS} in {SHIPPED}, where the trained model of this package "
            "belongs; name another model, or random:demo for random weights"
        )
    return SHIPPED


def load_model(
    id_or_path: str | os.PathLike[str] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Any, Any]:
    """(model in eval mode, processor) of an official-format folder, or of an id of the Hub.

    No code of the folder runs. An id is fetched as from_pretrained fetches it, and found in its
    cache without a network.

    Args:
        id_or_path: a folder with config.json, weights and a tokenizer, or "owner/name"; None =
            hico-tiny, see `shipped`.
        device: None = the GPU where there is one.
        dtype: None = bfloat16 on a GPU, float32 on a CPU.

    Raises:
        FileNotFoundError: no such folder, or no weights or tokenizer in it.
        ValueError: not the config of a VideoChat-Flash model, or weights that do not fit it.
        OSError: an id that can't be fetched.
    """
    device, dtype = _where(device, dtype)
    folder = shipped() if id_or_path is None else Path(id_or_path).expanduser()
    if folder.exists():
        _check_folder(folder)
        source = str(folder)
    elif HUB_ID.fullmatch(str(id_or_path)) and not str(id_or_path).startswith("."):
        source = str(id_or_path)
    else:
        raise FileNotFoundError(
            f"{id_or_path}: expected a folder of a model, or an id such as "
            "OpenGVLab/VideoChat-Flash-Qwen2-7B_res448"
        )
    from hico.model import VideoChatFlashForConditionalGeneration, VideoChatFlashProcessor

    try:
        if not folder.exists():
            _check_hub(source)
        processor = VideoChatFlashProcessor.from_pretrained(source)
        with _bars(sys.stderr.isatty() and id_or_path is not None):
            model = VideoChatFlashForConditionalGeneration.from_pretrained(source, dtype=dtype)
    except OSError as error:
        if folder.exists():
            raise
        raise OSError(
            f"{source}: no folder of this name, and not to be had from the Hugging Face Hub "
            f"({_first_sentence(error)})"
        ) from error
    return model.to(device).eval(), processor


def random_model(
    size: str = "demo",
    seed: int = 0,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[Any, Any]:
    """(model in eval mode, processor) of the official structure with random weights.

    Good for trying the path and for measuring; what it answers means nothing. The tokenizer takes
    bytes and is made in memory. The same seed gives the same weights on one kind of device.

    Args:
        size: "demo" (a megabyte), "1.5b" or "7b": the language model's; the latter with UMT-L.
        seed: of the weights; torch's own generators stay as they were.
        device, dtype: as in load_model.

    Raises:
        ValueError: another size.

    >>> from hico.model.load import random_model
    >>> model, processor = random_model(device="cpu")
    >>> sum(p.numel() for p in model.parameters()) < 1_000_000
    True
    """
    if size not in SIZES:
        raise ValueError(f"size: expected one of {', '.join(SIZES)}, got {size!r}")
    device, dtype = _where(device, dtype)
    from hico.model import (
        VideoChatFlashConfig,
        VideoChatFlashForConditionalGeneration,
        VideoChatFlashProcessor,
    )

    tokenizer = byte_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = VideoChatFlashConfig(**PUBLISHED, **SIZES[size], **ends, bos_token_id=None)
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.device(device):
        torch.manual_seed(seed)
        model = VideoChatFlashForConditionalGeneration._from_config(config, dtype=dtype)
    # of the random bytes, those that can be read
    wanted = set(tokenizer.convert_tokens_to_ids([chr(c) for c in range(33, 127)] + ["Ġ"]))
    model.generation_config.suppress_tokens = sorted(set(range(config.vocab_size)) - wanted)
    return model.to(device).eval(), VideoChatFlashProcessor(tokenizer, image_size(config))


def byte_tokenizer() -> Any:
    """Qwen2's tokenizer with a token for every byte and the three special ones of its prompts.

    >>> from hico.model.load import byte_tokenizer
    >>> ids = byte_tokenizer()("<|im_start|>né").input_ids
    >>> len(ids), byte_tokenizer().decode(ids)
    (4, '<|im_start|>né')
    """
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = sorted(bytes_to_unicode().values())
    end, start, stop = SPECIAL
    return Qwen2Tokenizer(
        vocab={letter: i for i, letter in enumerate(letters)},
        merges=[],
        unk_token=None,
        pad_token=end,
        eos_token=stop,
        extra_special_tokens=[start],
    )


def _where(
    device: torch.device | str | None, dtype: torch.dtype | None
) -> tuple[torch.device, torch.dtype]:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {device!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: expected cpu, as there is no CUDA GPU, got {device}")
    return device, dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)


@contextmanager
def _bars(wanted: bool) -> Iterator[None]:
    """With transformers' bars or without: hico-tiny is loaded too soon for one."""
    from transformers.utils import logging as bars

    if wanted or not bars.is_progress_bar_enabled():
        yield
        return
    bars.disable_progress_bar()
    try:
        yield
    finally:
        bars.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise ValueError(f"{folder}: expected the folder of a model, got a file")
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{folder}: no config.json in this folder")
    _check_config(str(folder), folder / "config.json")
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(f"{folder}: no tokenizer in this folder (tokenizer.json)")


def _check_hub(name: str) -> None:
    """Fetch the config alone, to learn soon and quietly whether the rest can be fetched."""
    from transformers.utils import cached_file

    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.ERROR)  # each of its attempts is a warning of several lines
    try:
        path = cached_file(name, "config.json")
    finally:
        log.setLevel(level)
    _check_config(name, Path(path))


def _check_config(source: str, path: Path) -> None:
    from hico.model import VideoChatFlashConfig

    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error
    found = fields.get("model_type") if isinstance(fields, dict) else None
    if found != VideoChatFlashConfig.model_type:
        expected = f"a VideoChat-Flash model (model_type {VideoChatFlashConfig.model_type})"
        raise ValueError(f"{source}: expected {expected}, got {found!r}")


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).split(". ")[0].rstrip(".")
