"""What hico-tiny is made of."""

from typing import Any

# space-time attention over clips of 4 frames at 224 pixels, 784 patches merged to 64 tokens
VISION: dict[str, Any] = {
    "image_size": 224,
    "patch_size": 16,
    "num_frames": 4,
    "hidden_size": 160,
    "num_hidden_layers": 7,  # the last one is not run, as in published towers
    "num_attention_heads": 5,
    "intermediate_size": 640,
}
CONFIG: dict[str, Any] = {
    "mm_vision_tower": "umt",
    "mm_hidden_size": 160,
    "vision_config": VISION,
    "video_sampling": "each_second",
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 320,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "tie_word_embeddings": True,
    "max_position_embeddings": 262_144,
    # one turn of the slowest frequency is far beyond the longest prompt
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e9},
    "mm_llm_compress": True,
    "llm_compress_type": "uniform0_attention",
    "llm_compress_layer_list": [2, 8],
    "llm_image_token_ratio_list": [1.0, 0.75, 0.25],
}
