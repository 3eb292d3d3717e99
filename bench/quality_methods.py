"""The ways to see less of a video that `python -m hico.bench quality` compares, as values."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hico.model.needle.running import SAMPLED
from hico.model.options import usual_dropout
from hico.model.settings import DropoutSettings
from hico.model.video.sampling import frame_indices
from hico.model.vision.clip_modes import MODES, kept_frames

LEVELS = ("clip", "video", "sampling", "baselines")
KINDS = ("uniform", "random", "attention", "uniform0_attention")
CLIPS = {
    "similarity": "similarity merge",
    "mean": "mean pool",
    "frames": "frame drop",
    "none": "no merge",
}
WORDS = {"uniform0_attention": "uniform then attention"}
ADAPTIVE = "adaptive"
BASELINES = {"blind": "blind", "single_frame": "one frame", "uniform_64": "64 uniform frames"}


@dataclass(frozen=True)
class Method:
    """What a model sees of a video, and what its layers drop of that.

    Attributes:
        clip: how the tokens of a clip become fewer, one of hico.model.vision.clip_modes.MODES.
        sample: which frames are looked at: "all"; "adaptive", the reader's published rule; or a
            number of frames, evenly spaced, the last one repeated where there are fewer.
        kind: which tokens the layers leave, as in hico.progressive_dropout; None = all.
        keep: the share of the first layer's visual tokens that is left in the last one.
        baseline: "blind", "single_frame" or "uniform_64": nothing else counts then.
    """

    clip: str = "similarity"
    sample: str = "all"
    kind: str | None = None
    keep: float = 1.0
    baseline: str | None = None

    @property
    def name(self) -> str:
        """In words, the same for one method whichever level it is measured for."""
        if self.baseline is not None:
            return BASELINES[self.baseline]
        if self.sample != "all":
            return "adaptive" if self.sample == ADAPTIVE else f"fixed {self.sample}"
        if self.kind is not None:
            return f"{WORDS.get(self.kind, self.kind)} {self.keep:g}"
        return CLIPS[self.clip]

    @property
    def levels(self) -> tuple[str, ...]:
        """What it is compared in."""
        if self.baseline is not None:
            return ("baselines",)
        if self.sample != "all":
            return ("sampling",)
        if self.kind is not None:
            return ("video",)
        return ("clip", "video") if self == PLAIN else ("clip",)

    def settings(self) -> dict[str, Any]:
        """As it is written down."""
        return asdict(self)

    def frames(self, frames: int, fps: float, patches: int, least: int, most: int) -> Tensor:
        """int64: the numbers of the frames that the encoder sees, of a video of whole clips.

        Args:
            patches: tokens of an unmerged clip.
            least, most: frames of the adaptive rule.
        """
        if self.sample == ADAPTIVE:
            return frame_indices(frames, fps, least, most)
        if self.sample != "all":
            return frame_indices(frames, fps, max_frames=int(self.sample), mode="middle")
        return kept_frames(frames, self.clip, patches)


PLAIN = Method()  # hico's merge, every frame, nothing dropped: what the others are compared with


def methods_of(level: str, ratios: Sequence[float], fixed: Sequence[int]) -> list[Method]:
    """All methods of a level.

    >>> from hico.bench.quality_methods import methods_of
    >>> [method.name for method in methods_of("video", [1.0, 0.25], [])][:3]
    ['similarity merge', 'uniform 0.25', 'random 0.25']
    """
    if level == "clip":
        return [Method(clip) for clip in MODES]
    if level == "video":
        shares = [keep for keep in ratios if keep < 1]
        return [PLAIN, *(Method(kind=kind, keep=keep) for keep in shares for kind in KINDS)]
    if level == "sampling":
        return [Method(sample=ADAPTIVE), *(Method(sample=str(count)) for count in fixed)]
    return [Method(baseline=name) for name in ("blind", *SAMPLED)]


def dropout_of(model: Any, method: Method, seed: int = 0) -> DropoutSettings | None:
    """What the layers drop, None = nothing: at the layers of the model's own settings.

    A stage whose own ratio is r, where the last one's is q, leaves 1 - (1 - keep)(1 - r)/(1 - q):
    [1, .75, .25] at keep = .25, and all kinds the same numbers of tokens in every layer.

    Raises:
        ValueError: own settings that drop nothing.

    >>> from hico.bench.quality_methods import Method, dropout_of
    >>> from hico.model.load import random_model
    >>> dropout_of(random_model(device="cpu")[0], Method(kind="random", keep=0.1), 3)
    DropoutSettings(layers=(1, 4), ratios=(1.0, 0.7, 0.1), kind='random', seed=3)
    """
    if method.kind is None:
        return None
    own = DropoutSettings.from_config(model.config) or usual_dropout(model)
    last = own.ratios[-1]
    if last == 1:
        raise ValueError(f"model: expected a config that drops visual tokens, got {own}")
    first = (1 - (1 - method.keep) * (1 - ratio) / (1 - last) for ratio in own.ratios[:-1])
    ratios = (*(round(max(ratio, method.keep), 6) for ratio in first), method.keep)
    return DropoutSettings(own.layers, ratios, method.kind, seed)


def layer_average(tokens: Sequence[int], layers: Sequence[int], depth: int) -> float:
    """The mean over all layers of the visual tokens that go into each.

    Args:
        tokens: of the first layer, then what each stage of dropout leaves.
        layers: before which it leaves them.

    >>> from hico.bench.quality_methods import layer_average
    >>> layer_average([16000, 12000, 4000], [2, 8], 12)
    10000.0
    """
    return sum(tokens[sum(at <= i for at in layers)] for i in range(depth)) / depth


def seen_share(numbers: Tensor, clips: Iterable[int]) -> list[float]:
    """The share of each clip's four frames that is among the numbers."""
    return [torch.isin(4 * clip + torch.arange(4), numbers).sum().item() / 4 for clip in clips]
