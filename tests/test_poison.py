"""The NaN that conftest.py puts into fresh memory: a kernel that forgets to write is found out."""

import types

import pytest
import torch


def inside(name, source, **values):
    """Runs source as if it stood in the module `name`."""
    module = types.ModuleType(name)
    module.__dict__.update(torch=torch, **values)
    exec(source, module.__dict__)
    return module


@pytest.mark.parametrize(
    "call", ["torch.empty(3, {})", "x.new_empty(3, {})", "torch.empty_like(x, {})"]
)
@pytest.mark.parametrize("name", ["hico.kernels.merge", "hico.ops.match"])
def test_fresh_memory_is_poisoned(name, call):
    x = torch.zeros(3)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert inside(name, "out = " + call.format(f"dtype={dtype}"), x=x).out.isnan().all()
    for dtype in (torch.int32, torch.int64):
        assert inside(name, "out = " + call.format(f"dtype={dtype}"), x=x).out.eq(-7).all()


def test_poison_leaves_fakes_and_compiled_code_alone():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert inside("hico.ops.match", "out = torch.empty(3)").out.shape == (3,)
    source = "def run(x):\n    return torch.empty_like(x).copy_(x) + x.new_empty(2, 3).fill_(1)"
    run = inside("hico.ops.match", source).run
    x = torch.randn(2, 3)
    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), x + 1)


def test_poison_leaves_devices_alone():
    with torch.device("meta"):
        assert inside("hico.ops.match", "out = torch.empty(3)").out.is_meta
        assert torch.nn.Linear(2, 3).weight.is_meta
