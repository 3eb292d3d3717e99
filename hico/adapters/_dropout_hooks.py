"""Progressive dropout's hooks on a stock model, and their undoing."""

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hico.adapters import _dropout_attention as attention
from hico.adapters._dropout import Dropout
from hico.adapters._dropout_cache import refusing_chunks
from hico.adapters._dropout_chunks import in_chunks, row_modules


@contextmanager
def installed(model: Any, base: Any, run: Dropout) -> Iterator[None]:
    """The hooks of run, on this model and for as long as the context lasts."""
    with ExitStack() as stack:

        def hooked(handle: Any) -> None:
            stack.callback(handle.remove)

        hooks, lean = _LayerHooks(run, base), _Lean(run, base)
        stack.callback(hooks.only, ())
        stack.callback(lean.off)  # no hook runs behind a pass that Ctrl-C has ended

        def begin(_: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            run.begin(args, kwargs)
            hooks.only(run.busy)
            lean.on()

        begin.dropout = run  # type: ignore[attr-defined]
        hooked(base.register_forward_pre_hook(begin, with_kwargs=True))
        hooked(base.register_forward_hook(lean.off, always_call=True))
        for i, layer in enumerate(base.layers):
            if hasattr(layer, "_gradient_checkpointing_func"):
                original = layer._gradient_checkpointing_func
                _replace(
                    stack, layer, "_gradient_checkpointing_func", _checkpoint(run, i, original)
                )
        if len(base.layers) in run.layers:
            hooked(base.norm.register_forward_pre_hook(lambda _, x: (run.leave(x[0]), *x[1:])))
        head = next((m for m in model.modules() if base in list(m.children())), None)
        if head is not None:
            loss = _Loss(run)
            hooked(head.register_forward_pre_hook(loss.before, with_kwargs=True))
            hooked(head.register_forward_hook(loss.after))
        for owner in model.modules():
            if hasattr(owner, "_prefill"):
                _replace(stack, owner, "_prefill", refusing_chunks(owner._prefill))
        yield


def _replace(stack: ExitStack, owner: nn.Module, name: str, value: Any) -> None:
    """Sets an attribute of one instance until the stack unwinds."""
    own = vars(owner)
    if name in own:
        stack.callback(setattr, owner, name, own[name])
    else:
        stack.callback(delattr, owner, name)
    setattr(owner, name, value)


def _checkpointed(layer: Any) -> bool:
    return layer.training and getattr(layer, "gradient_checkpointing", False)


def _before_layer(run: Dropout, i: int, layer: Any, args: tuple, kwargs: dict) -> tuple | None:
    if _checkpointed(layer):
        if not hasattr(layer._gradient_checkpointing_func, "drops"):
            raise ValueError(
                "gradient checkpointing: expected it to be enabled before progressive_dropout, "
                "got it enabled inside"
            )
        return None
    if run.busy is not None:
        run.turn(i, args[0], kwargs)
        return None
    hidden, kwargs = run.enter(i, args[0], kwargs)
    return (hidden, *args[1:]), kwargs


def _checkpoint(run: Dropout, i: int, original: Callable) -> Callable:
    """What the layer does under gradient checkpointing: the rows are settled before it begins.

    A drop inside would be done again in the backward pass, with hooks that may be gone by then.
    """

    def checkpoint(call: functools.partial, hidden: Tensor, *rest: Any) -> Any:
        hidden, kwargs = run.enter(i, hidden, call.keywords)
        return original(functools.partial(call.func, *call.args, **kwargs), hidden, *rest)

    checkpoint.drops = run  # type: ignore[attr-defined]
    return checkpoint


class _LayerHooks:
    """A hook before each layer, or before those alone that have something to do."""

    def __init__(self, run: Dropout, base: Any) -> None:
        self.run, self.layers = run, base.layers
        self.handles: dict[int, Any] = {}
        self.there: tuple[int, ...] | None = ()

    def only(self, layers: tuple[int, ...] | None) -> None:
        """The hooks of these layers; None = of all."""
        if layers == self.there:
            return
        self.there = layers
        wanted = set(range(len(self.layers)) if layers is None else layers)
        for i in self.handles.keys() - wanted:
            self.handles.pop(i).remove()
        for i in sorted(wanted - self.handles.keys() - {len(self.layers)}):
            hook = functools.partial(_before_layer, self.run, i)
            self.handles[i] = self.layers[i].register_forward_pre_hook(hook, with_kwargs=True)


class _Lean:
    """A pass without gradients in the memory that its rows need: chunks, and masks of keys alone.

    With gradients the layers may run again when the hooks are gone: then they stay as they are.
    """

    def __init__(self, run: Dropout, base: Any) -> None:
        self.run, self.base, self.undo = run, base, ExitStack()

    def on(self) -> None:
        if torch.is_grad_enabled():
            return
        if self.run.busy is not None:  # of one token the stock layers make no more than they need
            self.undo.enter_context(attention.unplanned())
            return
        config = self.base.config
        if config._attn_implementation == "sdpa":
            attention.register()
            self.undo.callback(setattr, config, "_attn_implementation", "sdpa")
            config._attn_implementation = attention.NAME
        for part in row_modules(self.base):
            _replace(self.undo, part, "forward", in_chunks(part.forward))

    def off(self, *_: Any) -> None:
        self.undo.close()


class _Loss:
    """Labels of the rows that are left: held back from the model, whose rows are all of them."""

    def __init__(self, run: Dropout) -> None:
        self.run = run
        self.rest: dict[str, Any] = {}

    def before(self, module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple:
        self.run._labels = kwargs.pop("labels", None)
        self.rest = {k: v for k, v in kwargs.items() if k == "num_items_in_batch"}
        return args, kwargs

    def after(self, module: Any, args: tuple, output: Any) -> Any:
        now = self.run._pass
        labels = now.labels if now.rows is None else now.rows.labels
        if labels is None:
            return output
        logits = output[0] if isinstance(output, tuple) else output.logits
        if logits.shape[1] != labels.shape[1]:
            raise ValueError(
                f"logits_to_keep: expected all {labels.shape[1]} rows with labels, "
                f"got {logits.shape[1]}"
            )
        labels, size = labels.to(logits.device), logits.shape[-1]
        loss = module.loss_function(logits=logits, labels=labels, vocab_size=size, **self.rest)
        if isinstance(output, tuple):
            return (loss, *output)
        output["loss"] = loss
        return output
