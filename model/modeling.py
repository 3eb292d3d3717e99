"""VideoChat-Flash: transformers' Qwen2 with a vision encoder and a connector in front."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForCausalLM, Qwen2Model, Qwen2PreTrainedModel

from hico.model._loading import check_checkpoint
from hico.model._seeing import Seeing, has_images
from hico.model._tower import VisionTower, connector
from hico.model.configuration import VideoChatFlashConfig
from hico.model.settings import DropoutSettings

POSITIONAL = ("input_ids", "attention_mask", "position_ids", "past_key_values", "inputs_embeds")
SEEN = ("pixel_values_videos", "visual_features", "modalities", "image_grids")


class VideoChatFlashModel(Qwen2Model):
    """The decoder, with the encoder and the connector beside its layers, as keys are published."""

    config: VideoChatFlashConfig
    config_class = VideoChatFlashConfig
    _no_split_modules = ["Qwen2DecoderLayer", "VisionTower"]

    def __init__(self, config: VideoChatFlashConfig) -> None:
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.mm_projector = connector(config, self.vision_tower.vision_tower)
        self.post_init()

    def forward(self, *args: Any, visual_spans: Any = None, **kwargs: Any) -> Any:
        """Qwen2Model's; visual_spans is for hico.progressive_dropout, which takes it out."""
        return super().forward(*args, **kwargs)


class VideoChatFlashForConditionalGeneration(Seeing, Qwen2ForCausalLM):
    """Answers questions of videos and images: logits of the tokens that follow.

    Wherever input_ids holds -200, the tokens of the next video (16 a frame) or image (64 a tile)
    go in: pixels that forward and generate encode, or features that encode_video or encode_images
    made before. Rows of a batch may differ in length, be padded on either side and hold no -200.

    With `mm_llm_compress` in the config, or settings given to generate, or inside of
    hico.progressive_dropout, visual tokens are dropped between the layers.

    Raises:
        ValueError: an unknown tower, connector or layout in the config; weights whose names or
            shapes differ; a count of -200, frames or tiles that does not fit.

    Source: VideoChat-Flash (arXiv 2501.00574).

    >>> import torch
    >>> from hico.model import VideoChatFlashConfig, VideoChatFlashForConditionalGeneration
    >>> vision = {"image_size": 32, "patch_size": 4, "hidden_size": 32, "num_hidden_layers": 2}
    >>> config = VideoChatFlashConfig(
    ...     vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
    ...     num_attention_heads=2, num_key_value_heads=1, mm_hidden_size=32, vision_config=vision,
    ... )
    >>> model = VideoChatFlashForConditionalGeneration(config).eval()
    >>> out = model(torch.tensor([[7, -200, 8]]), pixel_values_videos=torch.randn(8, 3, 32, 32))
    >>> out.logits.shape  # 2 rows of text and 2 clips of 64 tokens
    torch.Size([1, 130, 50])
    """

    config: VideoChatFlashConfig
    config_class = VideoChatFlashConfig
    _no_split_modules = VideoChatFlashModel._no_split_modules
    # a prompt's layers differ in length when tokens are dropped
    _can_compile_fullgraph = False

    def __init__(self, config: VideoChatFlashConfig) -> None:
        Qwen2PreTrainedModel.__init__(
            self, config
        )  # Qwen2ForCausalLM's would make a second decoder
        self.model = VideoChatFlashModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        # before the hooks of progressive_dropout, which take labels of embedded rows
        self.register_forward_pre_hook(_embed_first, with_kwargs=True)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """The model of an official folder or of one that save_pretrained wrote.

        As in transformers, but: names and shapes are compared before a weight is read, and no code
        is taken from the folder, whatever is asked for.

        Raises:
            ValueError: missing or unknown names, other shapes, files that are not weights.
            OSError: no config or weights there.
        """
        return super().from_pretrained(*args, **kwargs | {"trust_remote_code": False})

    @staticmethod
    def _load_pretrained_model(
        model: Any, state_dict: Any, checkpoint_files: Any, load_config: Any, *args: Any, **kw: Any
    ) -> Any:
        if checkpoint_files and load_config.hf_quantizer is None:
            check_checkpoint(model, checkpoint_files, model.config.tie_word_embeddings)
        return Qwen2ForCausalLM._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, *args, **kw
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._dropping():
            return super().__call__(*args, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        visual_spans: Any = None,
        pixel_values_videos: Any = None,
        visual_features: Any = None,
        modalities: Sequence[str] | None = None,
        image_grids: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> Any:
        """Qwen2ForCausalLM's, of the embedded sequence.

        Args:
            input_ids: int64 [B, L], -200 where a video or an image goes.
            attention_mask: [B, L], 0 = padding.
            labels: [B, L]; visual tokens get -100.
            pixel_values_videos: normalised [T, 3, S, S] for each -200, T a multiple of a clip's
                frames, or 1 for an image: a list, or one tensor, also [B, T, 3, S, S].
            visual_features: instead, [n, D] for each -200.
            modalities: "video", "image" (T is a count of tiles) or "text" for each of the pixels.
            image_grids: (rows, columns) of an image's tiles behind the first, None for a video.
            visual_spans: of inputs_embeds, see hico.progressive_dropout.

        Rows that come out unpadded are padded on the side on which attention_mask pads, else on
        config.tokenizer_padding_side.
        """
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            visual_spans=visual_spans,
            **kwargs,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: Any = None,
        *,
        dropout: DropoutSettings | None = None,
        **kwargs: Any,
    ) -> Any:
        """transformers' generate: [B, n], only the new tokens.

        Args:
            inputs: input_ids, as in forward, with the same keywords for what is seen.
            dropout: which visual tokens to drop; None = as the config says.

        Raises:
            ValueError: as in forward, or dropout inside of hico.progressive_dropout.
        """
        ids = kwargs.pop("input_ids", inputs)
        fresh = kwargs.get("past_key_values") is None and kwargs.get("inputs_embeds") is None
        if ids is not None and fresh:
            visual = self.visual_features(**{name: kwargs.pop(name, None) for name in SEEN})
            mask = kwargs.pop("attention_mask", None)
            embedded = self.embed(ids, visual, mask, padding_side="left")._asdict()
            kwargs |= {name: value for name, value in embedded.items() if value is not None}
            ids = None
        with self._dropping(dropout):
            return super().generate(ids, generation_config, **kwargs)

    def ask(
        self,
        video: Any,
        question: str,
        processor: Any = None,
        frames: int = 512,
        dropout: DropoutSettings | None = None,
        **options: Any,
    ) -> str:
        """The answer to one question of a video or an image; VideoSession asks more of one video.

        Args:
            video, frames, dropout: as VideoSession.open.
            processor: None = that of the folder from which the model came.
            options: for generate, such as max_new_tokens.

        Raises:
            ValueError, OSError, ModuleNotFoundError: as VideoSession.open and its ask.
        """
        from hico.model.processing import VideoChatFlashProcessor
        from hico.model.session import VideoSession

        processor = processor or VideoChatFlashProcessor.from_pretrained(self.name_or_path)
        session = VideoSession.open(self, processor, video, frames, dropout)
        return session.ask(question, **options)

    def _dropping(self, settings: DropoutSettings | None = None) -> AbstractContextManager:
        """The dropout that is asked for here or in the config, unless a context is open."""
        if any(hasattr(hook, "dropout") for hook in self.model._forward_pre_hooks.values()):
            if settings is not None:
                raise ValueError(
                    "dropout: expected None inside of hico.progressive_dropout, got settings"
                )
            return nullcontext()
        settings = DropoutSettings.from_config(self.config) if settings is None else settings
        return nullcontext() if settings is None else settings.use(self)


def _embed_first(model: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """Before forward: what is seen, and each -200, becomes part of inputs_embeds."""
    given = dict(zip(POSITIONAL, args, strict=False)) | kwargs
    seen = {name: given.pop(name, None) for name in SEEN}
    ids, cache = given.get("input_ids"), given.get("past_key_values")
    # behind a cache there are only words, and to look for -200 is to wait for the device
    begun = cache is not None and cache.get_seq_length() > 0
    if all(value is None for value in seen.values()) and (begun or not has_images(ids)):
        return (), given
    for name in ("position_ids", "inputs_embeds"):
        if given.get(name) is not None:
            raise ValueError(f"{name}: expected None with videos or images, got some")
    visual = model.visual_features(**seen)
    names = ("input_ids", "attention_mask", "labels")
    ids, mask, labels = (given.pop(name, None) for name in names)
    return (), given | model.embed(ids, visual, mask, labels)._asdict()
