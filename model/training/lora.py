"""Low-rank adapters of the language model, put in place and merged by peft."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from .extras import Lora
from .parts import part_of


def adapt(model: nn.Module, lora: Lora) -> None:
    """Adapters on every linear layer of the language model whose name ends in a target.

    The model stays of its class, so that checkpoints hold all of it.

    Raises:
        ImportError: peft is not installed.
        ValueError: targets that are nowhere in the language model.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError("lora needs peft: pip install 'hico[lora]'") from error
    names = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and part_of(name + ".") == "llm"
        and name.split(".")[-1] in lora.targets
    ]
    missing = sorted(set(lora.targets) - {name.split(".")[-1] for name in names})
    if missing:
        raise ValueError(f"lora.targets: expected layers of the language model, got {missing}")
    given: dict[str, Any] = {"lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
    config: Any = LoraConfig(r=lora.rank, target_modules=names, **given)
    inject_adapter_in_model(config, model)


def merged(state: Mapping[str, Tensor], lora: Lora) -> dict[str, Tensor]:
    """The weights of a model with adapters as those of one without: W + alpha / rank * B A."""
    found = {}
    for name, tensor in state.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        stem = name.removesuffix("base_layer.weight")
        if stem != name:
            a, b = (state[f"{stem}lora_{x}.default.weight"].float() for x in "AB")
            tensor = (tensor.float() + lora.alpha / lora.rank * (b @ a)).to(tensor.dtype)
        found[plain] = tensor
    return found
