"""The fields of the official config.json, with the values that were released."""

from dataclasses import field
from typing import Any

from transformers import Qwen2Config


class VideoChatFlashConfig(Qwen2Config):
    """Qwen2's fields and those of VideoChat-Flash; the defaults are the published 7B at 448 pixels.

    Every name of an official config.json is accepted and kept; `auto_map` is not, as no code is
    ever taken from a model's folder. Fields that only training or the published code's unused
    branches read are kept as they are.

    Args:
        mm_vision_tower: a name that contains "umt" (224 pixels), "umt-hd" (448) or "internvideo2".
        mm_hidden_size: channels of the encoder.
        mm_vision_select_layer: which of the encoder's layers is read, from its end.
        mm_local_num_frames: frames of a clip.
        video_sampling: how a session reads a file, see hico.model.video.frame_indices.
        mm_patch_merge_type: "spatial_nopad", or "flat", which leaves the tiles of an image apart.
        mm_llm_compress, llm_compress_type, llm_compress_layer_list, llm_image_token_ratio_list:
            progressive dropout, see hico.progressive_dropout.
        tokenizer_padding_side: where forward pads embedded rows that arrive without padding.
        vision_config: sizes of the encoder that differ from the published ones: image_size,
            patch_size, num_frames, hidden_size, num_hidden_layers (of which
            mm_vision_select_layer leaves out the last), num_attention_heads, intermediate_size.

    >>> from hico.model import VideoChatFlashConfig
    >>> VideoChatFlashConfig().model_type
    'videochat_flash_qwen'
    """

    model_type = "videochat_flash_qwen"
    default_theta = 1e6

    vocab_size: int = 152064
    hidden_size: int = 3584
    intermediate_size: int = 18944
    num_hidden_layers: int = 28
    num_attention_heads: int = 28
    num_key_value_heads: int | None = 4

    mm_vision_tower: str = "umt-hd-large"
    vision_tower_pretrained: str | None = None
    mm_hidden_size: int = 1024
    mm_vision_select_layer: int = -2
    mm_vision_select_feature: str = "patch"
    vision_config: dict | None = None

    use_mm_proj: bool = True
    mm_projector_type: str = "tome16_mlp_hd64"
    mm_pos_num_frames: int = 8
    mm_num_compress_latents: int = 128
    mm_num_compress_query_type: str = "learnable"
    mm_close_init: bool = False
    min_slow_num_frames: int = 4
    mm_spatial_pool_mode: str = "bilinear"

    vision_encode_type: str = "video_image"
    mm_local_num_frames: int = 4
    video_sampling: str = "dynamic_fps1"
    mm_patch_merge_type: str = "spatial_nopad"
    mm_newline_position: str = "nothing"
    image_aspect_ratio: str = "anyres_nopad"
    frame_aspect_ratio: str = "square"
    image_grid_pinpoints: list | str | None = None
    frame_grid_pinpoints: list | str | None = None
    max_num_pixels: int = 14745600000
    image_crop_resolution: int | None = None
    image_split_resolution: int | None = None

    mm_llm_compress: bool = False
    llm_compress_type: str = "attention"
    llm_compress_layer_list: list | str = field(default_factory=lambda: [8, 16, 24])
    llm_image_token_ratio_list: list | str = field(default_factory=lambda: [1.0, 0.5, 0.25, 0.125])

    tokenizer_padding_side: str = "right"
    tokenizer_model_max_length: int | None = 32768
    use_pos_skipping: bool = False
    pos_skipping_range: int = 4096

    mm_tunable_parts: str | None = None
    mm_projector_lr: float | None = None
    mm_vision_tower_lr: float | None = None
    mm_use_im_start_end: bool = False
    mm_use_im_patch_token: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        kwargs.pop("auto_map", None)
        super().__post_init__(**kwargs)
