"""What a run tells while it trains: a bar or lines, log.jsonl, and at the end a curve."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from .saving import write_text
from .signals import Signals

LOG, CURVE = "log.jsonl", "loss.png"


class Record(TrainerCallback):
    """Loss, gradient norm and the learning rate of every part, step by step.

    The log starts with what the checkpoint remembers, so that a resumed run's is whole, without
    the steps that it does again.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.file, self.name = folder / LOG, name
        self.rates: dict[str, float] = {}
        self.bar: Any = None
        self.shown = sys.stderr.isatty()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        past = [line for line in state.log_history if "loss" in line]
        write_text(self.file, "".join(json.dumps(line, sort_keys=True) + "\n" for line in past))
        look = {"unit": "step", "initial": state.global_step, "disable": not self.shown}
        self.bar = tqdm(None, self.name, state.max_steps, **look)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        groups = kwargs["optimizer"].param_groups
        self.rates = {f"lr_{group['part']}": group["lr"] for group in groups}

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"loss: expected a finite number in step {state.global_step}, got {logs['loss']} "
                "(a lower learning rate or a look at the data may help)"
            )
        state.log_history[-1].update(self.rates)
        state.log_history[-1].pop("learning_rate", None)
        if not state.is_world_process_zero:
            return
        line = state.log_history[-1]
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")
        if self.shown:
            self.bar.set_postfix(loss=f"{line['loss']:.4f}")
        else:
            told = f"step {state.global_step}/{state.max_steps}: loss {line['loss']:.4f}"
            print(f"{self.name}: {told}", file=sys.stderr, flush=True)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()


class Stop(TrainerCallback):
    """Ends training after the step in which a signal came, with a checkpoint."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.signals.training = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.signals.agreed(args.device) is not None:
            control.should_save = control.should_training_stop = True


class Epochs(TrainerCallback):
    """Tells the order of the rows, and the rows, which epoch begins, after a resume as well."""

    def __init__(self, *told: Any) -> None:
        self.told = told

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # sums of steps, as a fraction: a whole epoch may be a hair below its number
        epoch = math.floor((state.epoch or 0) + 1e-6)
        for one in self.told:
            if hasattr(one, "set_epoch"):
                one.set_epoch(epoch)


def curve(folder: Path, name: str) -> Path | None:
    """Draws the losses of the folder's log; None without matplotlib or anything to draw."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return None
    lines = [json.loads(line) for line in (folder / LOG).read_text(encoding="utf-8").splitlines()]
    if not lines:
        return None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([line["step"] for line in lines], [line["loss"] for line in lines])
    axes.set(xlabel="step", ylabel="loss", title=name)
    axes.grid(alpha=0.3)
    unfinished = folder / f".{CURVE}"
    figure.savefig(unfinished, format="png", dpi=120)
    os.replace(unfinished, folder / CURVE)
    return folder / CURVE
