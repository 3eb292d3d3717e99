"""What a stage of training is: its YAML file, read strictly, as a value."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from hico.model.load import HUB_ID
from hico.ops import _check

from ._fields import built, place, within
from .extras import Dropout, Lora, Skips

STAGES = Path(__file__).parent / "stages"
PARTS = ("encoder", "connector", "llm")
# whose values are files or folders, relative to the YAML that names them
PATHS = ("model", "encoder", "connector", "data", "output")
MOST_FILES = 16  # that extend one another


@dataclass(frozen=True)
class StageSettings:
    """One stage. The defaults are what all published stages share.

    Attributes:
        name: in logs.
        model: where to start: a folder of the official format or an id of the Hub, a folder of a
            plain Qwen2, or "random:SIZE" as in hico.model.load.random_model.
        encoder: a file of encoder weights, for a plain Qwen2 (UMT-L_f4_vision.pt).
        connector: a file of connector weights, such as stage 1 writes (mm_projector.bin).
        tower: the config's mm_vision_tower from now on; None = as it is.
        resolution: pixels of a frame's side; None = the model's own.
        data: the data YAML.
        output: a folder for checkpoints, logs and, at the end, the model.
        tune: part (encoder, connector, llm) -> its learning rate; other parts are frozen.
        template, min_frames, max_frames, sampling, time_message, image_mode, max_length, backend,
            short_videos (there: short): as in hico.model.training.dataset.DataOptions.
        batch: rows of one pass of one process.
        global_batch: rows of one step of all processes; passes are added up to it.
        epochs, steps: steps = None means all epochs.
        warmup: share of the steps. The learning rates then fall as half a cosine.
        weights: type of the parameters and of what the optimiser keeps.
        precision: of the passes.
        lora, dropout, position_skips: None = off.
        fsdp: FSDP2 instead of DDP where there are several processes.
        save_every, keep: steps between checkpoints, and how many stay.
        resume: "auto" = go on from the newest checkpoint in output; "never" = output must be new.
        on_bad: "raise" or "skip" rows that can't be read; they are counted either way.

    Raises:
        ValueError: values that do not fit, each named with what was expected.

    >>> from hico.model.training.settings import StageSettings, load_stage
    >>> load_stage("short").tune
    {'encoder': 2e-06, 'connector': 1e-05, 'llm': 1e-05}
    >>> load_stage("short", ["tune.llm=2e-5", "lora={}"]).lora.rank
    64
    """

    name: str = "stage"
    model: str | None = None
    encoder: str | None = None
    connector: str | None = None
    tower: str | None = None
    resolution: int | None = None
    data: str | None = None
    output: str | None = None
    tune: dict[str, float] = field(default_factory=lambda: {"connector": 1e-3})
    template: Literal["qwen_2", "plain"] = "qwen_2"
    sampling: str = "dynamic_fps1"
    min_frames: int = 64
    max_frames: int = 512
    max_length: int = 32768
    time_message: Literal["short"] | None = "short"
    image_mode: Literal["square", "anyres"] = "anyres"
    short_videos: Literal["raise", "repeat"] = "raise"
    backend: str = "auto"
    batch: int = 1
    global_batch: int = 256
    epochs: int = 1
    steps: int | None = None
    warmup: float = 0.03
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    weights: Literal["float32", "bfloat16"] = "float32"
    precision: Literal["bf16", "fp32"] = "bf16"
    tf32: bool = True
    gradient_checkpointing: bool = True
    group_by_length: bool = True
    drop_last: bool = True
    lora: Lora | None = None
    dropout: Dropout | None = None
    position_skips: Skips | None = None
    fsdp: bool = False
    device: Literal["auto", "cpu"] = "auto"
    seed: int = 0
    workers: int = 4
    save_every: int = 1000
    keep: int = 1
    log_every: int = 1
    resume: Literal["auto", "never"] = "auto"
    on_bad: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        _check_tune(self.tune)
        for name in ("batch", "global_batch", "epochs", "max_length", "save_every", "keep"):
            _check.integer(name, getattr(self, name), 1, 1 << 31)
        _check.integer("log_every", self.log_every, 1, 1 << 31)
        _check.integer("workers", self.workers, 0, 1 << 16)
        _check.integer("seed", self.seed, 0, 1 << 32)
        for name in ("steps", "resolution"):
            if getattr(self, name) is not None:
                _check.integer(name, getattr(self, name), 1, 1 << 31)
        _check.integer("min_frames", self.min_frames, 1, 1 << 31)
        _check.integer("max_frames", self.max_frames, self.min_frames, 1 << 31)
        within("warmup", self.warmup, 0, 1)
        within("weight_decay", self.weight_decay, 0, float("inf"))
        within("clip", self.clip, 0, float("inf"))
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"betas: expected two numbers from 0 to below 1, got {self.betas}")
        if self.lora is not None and "llm" not in self.tune:
            raise ValueError(f"lora: expected llm among what is tuned, got {list(self.tune)}")

    def accumulation(self, world: int) -> int:
        """Passes of a process in one step.

        Raises:
            ValueError: a global batch that is no multiple of what the processes take at once.
        """
        at_once = self.batch * world
        if self.global_batch % at_once:
            raise ValueError(
                f"global_batch: expected a multiple of batch x processes = {self.batch} x {world}, "
                f"got {self.global_batch}"
            )
        return self.global_batch // at_once

    def plain(self) -> dict[str, Any]:
        """As YAML and JSON can hold it."""
        held = dataclasses.asdict(self)
        return {name: _listed(value) for name, value in held.items()}


def load_stage(source: str | os.PathLike[str], changes: Sequence[str] = ()) -> StageSettings:
    """The stage that a YAML file describes.

    `extends: other.yaml` in it takes what it does not say itself from another file, or from a stage
    that ships: align, short, joint, high_resolution. Paths are relative to the file they stand in.

    Args:
        source: a file, or the name of a stage that ships.
        changes: "key=value" with a YAML value; "tune.llm=1e-5" changes one entry of a mapping.

    Raises:
        ValueError: not YAML, an unknown key, a value of another kind or out of range.
        FileNotFoundError: no such file.
    """
    file = stage_file(source)
    held = _read(file, [])
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"--set: expected key=value, got {change!r}")
        try:
            place(held, key.strip().split("."), yaml.safe_load(value))
        except yaml.YAMLError:
            raise ValueError(f"--set: expected a YAML value, got {change!r}") from None
    return built(StageSettings, held, str(file))


def stage_file(source: str | os.PathLike[str]) -> Path:
    """The file of a stage: a path, or the name of one that ships.

    Raises:
        FileNotFoundError: neither.
    """
    file = Path(source).expanduser()
    if file.is_file():
        return file
    shipped = STAGES / f"{source}.yaml"
    if file.name == str(source) and shipped.is_file():
        return shipped
    names = ", ".join(sorted(path.stem for path in STAGES.glob("*.yaml")))
    raise FileNotFoundError(f"{source}: expected a stage's YAML file, or one of {names}")


def _read(file: Path, seen: list[Path]) -> dict[str, Any]:
    if file in seen or len(seen) == MOST_FILES:
        raise ValueError(f"{file}: extends itself, by way of {', '.join(map(str, seen))}")
    try:
        held = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from error
    held = {} if held is None else held
    if not isinstance(held, Mapping) or not all(isinstance(key, str) for key in held):
        raise ValueError(f"{file}: expected a mapping of names to values")
    own = {key: _beside(file, key, value) if key in PATHS else value for key, value in held.items()}
    other = own.pop("extends", None)
    if other is None:
        return own
    if not isinstance(other, str):
        raise ValueError(f"{file}: extends: expected a file or a stage's name, got {other!r}")
    beside = file.parent / other
    return _read(stage_file(beside if beside.is_file() else other), [*seen, file]) | own


def _beside(file: Path, key: str, value: Any) -> Any:
    """A relative path from the YAML's folder; an id of the Hub or a random model stay."""
    if not isinstance(value, str) or (key == "model" and value.startswith("random:")):
        return value
    path = Path(value).expanduser()
    path = path if path.is_absolute() else file.parent / path
    is_id = key == "model" and HUB_ID.fullmatch(value) and value[0] != "." and not path.exists()
    return value if is_id else str(path)


def _check_tune(tune: Mapping[str, float]) -> None:
    unknown = sorted(tune.keys() - set(PARTS))
    if unknown or not tune:
        raise ValueError(f"tune: expected some of {', '.join(PARTS)}, got {unknown or 'none'}")
    for part, rate in tune.items():
        if not 0 < rate < 10:
            raise ValueError(f"tune.{part}: expected a learning rate above 0, got {rate}")


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value
