"""The encoder and the connector that a config asks for."""

from typing import Any

from torch import nn

from hico.model.vision import Connector, InternVideo2Encoder, VisionEncoder
from hico.ops import _check

# by what the tower's name contains, the more particular first: pixels, blocks in its file
TOWERS = {"internvideo2": (224, 40), "umt-hd": (448, 24), "umt": (224, 24)}
# of vision_config -> of the encoder
SIZES = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "num_frames": "num_frames",
    "hidden_size": "channels",
    "num_hidden_layers": "depth",
    "num_attention_heads": "num_heads",
    "intermediate_size": "mlp_channels",
}


class VisionTower(nn.Module):
    """Holds the encoder under its published name."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.vision_tower = _encoder(config)


def image_size(config: Any) -> int:
    """Pixels of a frame's side.

    Raises:
        ValueError: an unknown mm_vision_tower.
    """
    return (config.vision_config or {}).get("image_size", TOWERS[tower_name(config)][0])


def tower_name(config: Any) -> str:
    """Which of TOWERS mm_vision_tower means.

    Raises:
        ValueError: none of them.
    """
    name = str(config.mm_vision_tower).lower()
    found = next((known for known in TOWERS if known in name), None)
    if found is None:
        raise ValueError(
            f"mm_vision_tower: expected a name with {', '.join(map(repr, TOWERS))}, "
            f"got {config.mm_vision_tower!r}"
        )
    return found


def _encoder(config: Any) -> Any:
    name, given = tower_name(config), dict(config.vision_config or {})
    unknown = sorted(given.keys() - SIZES.keys())
    if unknown:
        raise ValueError(f"vision_config: expected only {', '.join(SIZES)}, got {unknown}")
    size, depth = TOWERS[name]
    sizes = {"image_size": size, "num_frames": config.mm_local_num_frames, "depth": depth}
    sizes |= {SIZES[key]: value for key, value in given.items()}
    # blocks behind the layer that is read are not built
    sizes["depth"] += config.mm_vision_select_layer + 1
    encoder: Any = (InternVideo2Encoder if name == "internvideo2" else VisionEncoder)(**sizes)
    if encoder.channels != config.mm_hidden_size:
        raise ValueError(
            f"mm_hidden_size: expected the encoder's {encoder.channels} channels, "
            f"got {config.mm_hidden_size}"
        )
    return encoder


def connector(config: Any, encoder: Any) -> Connector:
    """The connector between this encoder and the language model.

    Raises:
        ValueError: a layout of visual tokens that was never released.
    """
    for name, known in (
        ("mm_projector_type", ("tome16_mlp_hd64",)),
        ("vision_encode_type", ("video_image",)),
        ("mm_patch_merge_type", ("spatial_nopad", "flat")),
        ("mm_newline_position", ("nothing",)),
    ):
        _check.one_of(name, getattr(config, name), known)
    return Connector(encoder.channels, config.hidden_size, encoder.num_heads)
