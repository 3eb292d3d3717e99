"""The video model: ask a question of a video or an image.

Importing this registers the model with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .configuration import VideoChatFlashConfig
from .modeling import VideoChatFlashForConditionalGeneration
from .processing import VideoChatFlashProcessor
from .session import VideoSession
from .settings import DropoutSettings
from .vision import Connector, InternVideo2Encoder, VisionEncoder

__all__ = [
    "Connector",
    "DropoutSettings",
    "InternVideo2Encoder",
    "VideoChatFlashConfig",
    "VideoChatFlashForConditionalGeneration",
    "VideoChatFlashProcessor",
    "VideoSession",
    "VisionEncoder",
]

AutoConfig.register(VideoChatFlashConfig.model_type, VideoChatFlashConfig, exist_ok=True)
for _auto in (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForMultimodalLM,
):
    _auto.register(VideoChatFlashConfig, VideoChatFlashForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VideoChatFlashConfig, VideoChatFlashProcessor, exist_ok=True)
