"""Stages 1 to 4 of hico-tiny: the published ones, by our own trainer, in a given time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import TrainerCallback

from hico.adapters._dropout_attention import unplanned
from hico.adapters._dropout_rows import answer_rows
from hico.model._pixels import normalize
from hico.model.training import parts
from hico.model.training.settings import StageSettings, load_stage
from hico.model.training.start import start
from hico.model.training.trainer import StageTrainer, arguments

from .masters import cosine
from .passes import WORLDS, Passes, paint_worlds

FOLDER = Path(__file__).parent / "stages"
STAGES = {"1": "align", "2": "short", "3": "joint", "4": "high_resolution"}
ENDLESS = 1 << 30  # steps: the clock ends them
Tell = Callable[[dict[str, Any]], object]


def stage_of(number: str, given: Mapping[str, Any], peak: float | None = None) -> StageSettings:
    """Stage 1, 2, 3 or 4 as its file in stages/ says, with some settings changed.

    Args:
        given: name -> value, names such as "tune.llm" among them.
        peak: the highest rate; the others keep their proportion to it.

    Raises:
        ValueError: as load_stage.

    >>> from hico.model.training.tiny.tune import stage_of
    >>> stage_of("2", {"seed": 3}, peak=1e-4).tune["connector"]
    0.0001
    """
    changes = [f"{name}={json.dumps(value)}" for name, value in given.items()]
    stage = load_stage(FOLDER / f"{STAGES[number]}.yaml", changes)
    if peak is None:
        return stage
    highest = max(stage.tune.values())
    return replace(stage, tune={part: peak * rate / highest for part, rate in stage.tune.items()})


def tune(stage: StageSettings, seconds: float, tell: Tell) -> tuple[Any, Any]:
    """(model, processor) after so many seconds of a stage, its start included.

    As `hico train`, but: worlds are painted where the model is, passes are alike in frames and each
    is a step, only answers are learned (see Passes), and the schedule follows the clock: warm-up in
    the stage's share of the time, then half a cosine to a hundredth of the rates. Nothing but
    weights goes on to the next run, whose warm-up is there for that.

    Args:
        stage: with the folder to start from as `model`, and an `output` that nothing is left in.
        tell: called with step, seconds, loss, gradient norm and learning rates every log_every
            steps.

    Raises:
        ValueError, OSError: a folder or data that do not fit.
    """
    clock = Clock(seconds, stage.warmup, tell)
    model, processor = start(stage)
    parts.freeze(model, stage.tune)
    trainer = Tuner(model, stage, Passes(stage, processor), processor, clock)
    with unplanned():
        trainer.train()
    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    model.config.use_cache = True  # off only while it is trained
    return model, processor


class Clock(TrainerCallback):
    """Ends training in time, gives the learning rates, and tells of both.

    Args:
        seconds: from now on.
        warmup: share of the time behind the first step, which is slow: it draws fonts and compiles.
        tell: see tune.
    """

    def __init__(self, seconds: float, warmup: float, tell: Tell) -> None:
        self.warmup, self.tell = warmup, tell
        self.began = time.perf_counter()
        self.end = self.began + seconds
        self.first: float | None = None  # when the first step was done
        self.last = self.began

    @property
    def share(self) -> float:
        """Of the time between the first step and the end, what is over."""
        if self.first is None:
            return 0.0
        return min(1.0, (time.perf_counter() - self.first) / max(self.end - self.first, 1e-9))

    def rate(self, step: int = 0) -> float:
        """What a learning rate is to be multiplied with now, a hundredth to 1."""
        return max(0.01, cosine(self.share, 1.0, self.warmup))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        took, self.last = now - self.last, now
        if self.first is None:
            self.first, took = now, 0.0
        # another step as long would not fit
        control.should_training_stop = now + took > self.end
        control.should_log |= control.should_training_stop
        # what grows with the steps, such as gaps between positions, is to grow with the time
        steps = math.ceil(state.global_step / max(self.share, 1 / ENDLESS))
        state.max_steps = max(state.global_step + 2, steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"loss: expected a finite number in step {state.global_step}, got {logs['loss']}"
            )
        rates = {f"lr_{group['part']}": group["lr"] for group in kwargs["optimizer"].param_groups}
        record = {"step": state.global_step, "seconds": round(self.last - self.began, 2)}
        self.tell(record | {name: logs[name] for name in ("loss", "grad_norm")} | rates)


class Tuner(StageTrainer):
    """StageTrainer on Passes, by the clock.

    Raises:
        ValueError: as StageTrainer; several processes, which would not stop in the same step.
    """

    train_dataset: Passes

    def __init__(
        self, model: Any, stage: StageSettings, data: Passes, processor: Any, clock: Clock
    ) -> None:
        # a pass is a step
        args = arguments(replace(stage, global_batch=stage.batch, steps=ENDLESS), 1)
        if args.world_size > 1:
            raise ValueError(f"processes: expected 1, got {args.world_size}")
        args.save_strategy = "no"
        self.clock = clock
        super().__init__(model, stage, args, data, data.collator, None, processor, [clock])
        # of labels that are answers alone, the rows ahead are those that inference ranks from
        self._asking = answer_rows

    def get_train_dataloader(self) -> DataLoader:
        return self.train_dataset.loader(self.stage.workers)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Learning rates by the clock."""
        chosen = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, self.clock.rate)
        self.lr_scheduler = chosen
        return chosen

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The text on the device, and the worlds as pixels."""
        given = super()._prepare_inputs(inputs)
        size, device = self.plain.encoder.image_size, self.args.device
        pixels: list[Tensor] = [normalize(x) for x in paint_worlds(given.pop(WORLDS), size, device)]
        return given | {"pixel_values_videos": pixels}
