"""A model small enough to look for needles on a CPU in a second, and its features' store."""

import functools

import torch

from hico.model import (
    VideoChatFlashConfig,
    VideoChatFlashForConditionalGeneration,
    VideoChatFlashProcessor,
)
from hico.model.load import PUBLISHED, SIZES, byte_tokenizer

VISION = {"image_size": 32, "patch_size": 4, "num_frames": 4, "hidden_size": 32}
VISION |= {"num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 5}
SMALL |= {"mm_hidden_size": 32, "vision_config": VISION}


@functools.cache
def small_model(seed=0):
    """(model, processor) with random weights, whose answers depend on what is seen."""
    tokenizer = byte_tokenizer()
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = VideoChatFlashConfig(**PUBLISHED | SIZES["demo"] | SMALL | ends, bos_token_id=None)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = VideoChatFlashForConditionalGeneration._from_config(config, dtype=torch.float32)
    return model.eval(), VideoChatFlashProcessor(tokenizer, 32)
