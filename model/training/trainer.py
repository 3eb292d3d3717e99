"""transformers' Trainer with a stage's groups, order of rows, dropout and checkpoints."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

import hico

from . import parts
from .asking import last_rows
from .chance import Skipping, generator
from .saving import CHECKPOINT, checkpoints, write_model
from .settings import StageSettings
from .signals import undisturbed
from .together import WRAPPED, Touch, gather_once

UNFINISHED = ".saving"  # beside the checkpoints, until one is whole


@contextmanager
def undropped(config: Any) -> Iterator[None]:
    """What the config says of dropping is for inference: in training it is the stage that says."""
    drops, config.mm_llm_compress = config.mm_llm_compress, False
    try:
        yield
    finally:
        config.mm_llm_compress = drops


class StageTrainer(Trainer):
    """Trains what the stage tunes, each part at its own learning rate.

    The same global batch gives the same losses and steps whatever the number of processes: losses
    are means over the supervised tokens of a step, and what is drawn depends on the seed, the step
    and the place in the batch.

    Args:
        model: as hico.model.training.start gives it, already frozen and adapted.
        stage: its settings.
        args: see arguments.
        sampler: of the rows, in the order of global batches; it has set_epoch. None = as they are.
        processor: saved with the model.
    """

    def __init__(
        self,
        model: Any,
        stage: StageSettings,
        args: TrainingArguments,
        dataset: Any,
        collator: Any,
        sampler: Sampler[int] | None,
        processor: Any,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        self.stage, self.sampler, self.processor = stage, sampler, processor
        self.plain = model  # without what processes wrap around it
        self._passes = (-1, 0)
        if stage.dropout is not None:
            stage.dropout.check(model.config.num_hidden_layers)
        super().__init__(
            model, args, data_collator=collator, train_dataset=dataset, callbacks=list(callbacks)
        )
        self.remove_callback(PrinterCallback)  # Record tells
        self.add_callback(_Prepared)
        decoder = model.model
        if "encoder" in stage.tune or "connector" in stage.tune:
            Touch(model)
        self._skipping = None
        if stage.position_skips is not None:
            self._skipping = Skipping(stage.position_skips)
            decoder.register_forward_pre_hook(self._skipping, with_kwargs=True)
        header = processor.ids("<|im_start|>assistant\n")[0].tolist()
        self._asking = last_rows(header)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW with a group for each part and kind, at the learning rates of the stage."""
        if getattr(self, "optimizer", None) is None:
            made, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            stage = self.stage
            held = parts.for_optimizer(model or self.model, stage.tune, stage.weight_decay)
            self.optimizer = made(held, **options)
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return super()._get_train_sampler(train_dataset) if self.sampler is None else self.sampler

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)  # accelerate's wraps the one that works
        inner.worker_init_fn = _Worker(inner.worker_init_fn)
        return loader

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> AbstractContextManager:
        """Around hooks too: what is seen is encoded before the model's own forward begins."""
        return self.accelerator.autocast()

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kw: Any) -> Any:
        """The mean over the supervised tokens of the step's whole batch, dropout and gaps on."""
        place = self._place(len(inputs["input_ids"]))
        step = self.state.global_step
        if self._skipping is not None:
            self._skipping.at(self.stage.seed, step, self.state.max_steps, place)
        with ExitStack() as stack:
            stack.enter_context(undropped(self.plain.config))
            dropout = self.stage.dropout
            if dropout is not None:
                draw = torch.rand((), generator=generator(self.stage.seed, step, place))
                if float(draw) < dropout.share:
                    stack.enter_context(self._dropping())
            return super().compute_loss(model, inputs, *args, **kw)

    def _dropping(self) -> AbstractContextManager:
        dropout = self.stage.dropout
        assert dropout is not None
        rows: Any = self._asking if dropout.query_rows == "last" else "answers"
        return hico.progressive_dropout(
            self.plain,
            dropout.layers,
            dropout.ratios,
            dropout.kind,
            positions=dropout.positions,
            query_rows=rows,
        )

    def _place(self, rows: int) -> int:
        """Of the pass's first row in the step's global batch."""
        step, passes = self._passes
        passes = passes if step == self.state.global_step else 0
        self._passes = self.state.global_step, passes + 1
        return (passes * self.args.world_size + self.args.process_index) * rows

    def _get_output_dir(self, trial: Any) -> str:
        return os.path.join(self.args.output_dir, UNFINISHED)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As transformers does, but a checkpoint has its name only once it is whole."""
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            name = f"{CHECKPOINT}{self.state.global_step}"
            shutil.rmtree(folder / name, ignore_errors=True)
            os.replace(folder / UNFINISHED / name, folder / name)
            shutil.rmtree(folder / UNFINISHED, ignore_errors=True)
            for old in checkpoints(folder)[: -self.stage.keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights, config, tokenizer and processor; nothing that runs code when it is read."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        model: Any = self.model
        write_model(model, self.processor, folder, state_dict)


class _Worker:
    """What a worker that loads data does first."""

    def __init__(self, seeded: Any) -> None:
        self.seeded = seeded

    def __call__(self, number: int) -> None:
        undisturbed()
        if self.seeded is not None:
            self.seeded(number)


class _Prepared(TrainerCallback):
    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        gather_once(kwargs["model"])


def refuse_on_cpus(cpu: bool) -> None:
    """For FSDP2.

    Raises:
        ValueError: there are CPUs alone.
    """
    if cpu:
        raise ValueError("fsdp: expected GPUs, as accelerate shards nothing on CPUs, got none")


def arguments(stage: StageSettings, world: int) -> TrainingArguments:
    """The stage in the words of transformers.

    Raises:
        ValueError: a global batch that does not fit the number of processes.
    """
    cpu = stage.device == "cpu" or not torch.cuda.is_available()
    sharded: dict[str, Any] = {}
    if stage.fsdp and world > 1:
        refuse_on_cpus(cpu)
        # the encoder stays whole: its passes differ in number from process to process
        wrap = {"transformer_layer_cls_to_wrap": WRAPPED}
        sharded = {"fsdp": True, "fsdp_config": wrap | {"state_dict_type": "FULL_STATE_DICT"}}
    again: dict[str, Any] = {}
    if stage.gradient_checkpointing:
        again = {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
        again["gradient_checkpointing"] = True
    args = TrainingArguments(
        output_dir=str(stage.output),
        per_device_train_batch_size=stage.batch,
        gradient_accumulation_steps=stage.accumulation(world),
        num_train_epochs=stage.epochs,
        max_steps=stage.steps or -1,
        learning_rate=max(stage.tune.values()),
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup,
        weight_decay=stage.weight_decay,
        adam_beta1=stage.betas[0],
        adam_beta2=stage.betas[1],
        adam_epsilon=stage.eps,
        max_grad_norm=stage.clip,
        bf16=stage.precision == "bf16",
        tf32=stage.tf32 if not cpu else None,
        logging_steps=stage.log_every,
        logging_first_step=True,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=stage.save_every,
        dataloader_num_workers=stage.workers,
        dataloader_drop_last=stage.drop_last,
        dataloader_pin_memory=False,  # what worlds draw on a GPU is there already
        remove_unused_columns=False,
        ddp_find_unused_parameters=False,
        ddp_backend="gloo" if cpu and world > 1 else None,
        average_tokens_across_devices=True,
        report_to="none",
        disable_tqdm=True,
        seed=stage.seed,
        use_cpu=cpu,
        **again,
        **sharded,
    )
    # of several GPUs one process takes one: transformers would split a batch's tensors among them
    args._n_gpu = min(args.n_gpu, 1)
    return args
