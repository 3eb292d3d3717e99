"""How an op is registered: the Triton launcher on a GPU, the plain PyTorch form elsewhere."""

import os
from collections.abc import Callable
from typing import Any

import torch

# the interpreter runs the real kernels on a CPU; Triton reads the variable when it is imported
INTERPRET = os.environ.get("TRITON_INTERPRET", "0") == "1"


def register(name: str, launch: Callable[..., Any], reference: Callable[..., Any]) -> Any:
    """The custom op "hico::name": kernels on CUDA and in the interpreter, else the reference."""
    # without defaults in the schema the dispatcher hands every argument on, also to autograd
    schema = torch.library.infer_schema(reference, mutates_args=()).replace("=None", "")
    # autocast would choose other types for some of its products
    reference = torch.autocast("cpu", enabled=False)(reference)
    op = torch.library.custom_op(f"hico::{name}", reference, mutates_args=(), schema=schema)
    op.register_kernel("cuda")(launch)
    if INTERPRET:
        op.register_kernel("cpu")(launch)
    return op
