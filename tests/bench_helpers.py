"""Tiny cases and made-up ceilings for the tests of the benchmark."""

from dataclasses import replace

import torch

from hico.bench.case import Case, Form
from hico.bench.cases import CASES
from hico.bench.ceilings import Ceilings

CPU = torch.device("cpu")
TOP = Ceilings(copy=4.0, read=2.0, write=5.0, matmul=700.0)
BY_NAME = {case.name: case for case in CASES}
EVERY = set(
    "kind suite case shape B N C M heads dtype seed error run date device gpu driver torch".split()
)
EVERY |= set("triton python commit dirty copy_tb_s read_tb_s matmul_tflop_s quick".split())
SPEED = EVERY | set("provider mode method samples median_ms p20_ms p80_ms launch_us gb_s".split())
SPEED |= set("share_of_one_read share_of_two_read tflop_s peak_bytes must target".split())


def tiny(name: str, **changes: object) -> Case:
    return replace(BY_NAME[name].on_cpu(), **changes)


def but(form: Form, run: object) -> tuple[Form, ...]:
    """The form alone, computing something else."""
    return (replace(form, run=run),)
