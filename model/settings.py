"""Which visual tokens a model drops, and after which layers: a value to pass around and print."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from torch import nn

from hico import progressive_dropout
from hico.adapters._dropout import Dropout
from hico.adapters._dropout_rows import Plan, Span


@dataclass(frozen=True)
class DropoutSettings:
    """Before layer layers[j], floor(n * ratios[j + 1]) of n visual tokens are left.

    Attributes:
        layers: ascending, from 1 on.
        ratios: one more than layers, from 1 down.
        kind: which tokens stay, as in hico.progressive_dropout.
        seed: of kinds that draw, as there.

    Raises:
        ValueError: ratios that do not fit or do not fall, another kind, or a negative seed.

    Source: VideoChat-Flash (arXiv 2501.00574), section 3.2.

    >>> from hico.model.settings import DropoutSettings
    >>> DropoutSettings.parse("4:0.75,18:0.25")
    DropoutSettings(layers=(4, 18), ratios=(1.0, 0.75, 0.25), kind='uniform0_attention', seed=None)
    """

    layers: tuple[int, ...]
    ratios: tuple[float, ...]
    kind: str = "uniform0_attention"
    seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "ratios", tuple(float(r) for r in self.ratios))
        Plan(self.layers, self.ratios, self.kind, "renumber", "auto", self.seed)

    @classmethod
    def parse(cls, text: str, kind: str = "uniform0_attention") -> "DropoutSettings":
        """The settings that `LAYER:RATIO,LAYER:RATIO` writes down, ascending.

        Raises:
            ValueError: another form, or settings that do not fit.
        """
        try:
            pairs = [stage.split(":") for stage in text.split(",")]
            stages = [(int(layer), float(ratio)) for layer, ratio in pairs]
        except ValueError:
            raise ValueError(
                f"dropout: expected LAYER:RATIO,LAYER:RATIO such as 4:0.75,18:0.25, got {text!r}"
            ) from None
        return cls(tuple(s[0] for s in stages), (1.0, *(s[1] for s in stages)), kind)

    @classmethod
    def from_config(cls, config: Any) -> "DropoutSettings | None":
        """What mm_llm_compress and the llm_ fields of a config ask for; None = nothing is dropped.

        Lists may also be written as in the published training scripts: "8,16,24".

        Raises:
            ValueError: fields that do not fit.
        """
        if not config.mm_llm_compress:
            return None
        layers = _numbers("llm_compress_layer_list", config.llm_compress_layer_list)
        ratios = _numbers("llm_image_token_ratio_list", config.llm_image_token_ratio_list)
        whole = tuple(int(layer) for layer in layers)
        return cls(whole, tuple(ratios), config.llm_compress_type)

    def use(
        self, model: nn.Module, visual_spans: Sequence[Span] | None = None
    ) -> AbstractContextManager[Dropout]:
        """hico.progressive_dropout of the model, with these settings."""
        return progressive_dropout(
            model, self.layers, self.ratios, self.kind, visual_spans, seed=self.seed
        )


def _numbers(name: str, given: Any) -> list[float]:
    try:
        return [float(n) for n in (given.split(",") if isinstance(given, str) else given)]
    except (TypeError, ValueError):
        raise ValueError(f"{name}: expected a list of numbers, got {given!r}") from None
