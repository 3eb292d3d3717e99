"""What every test gets: a device, a seed, poisoned memory, and a count of what ran where."""

import contextlib
import functools
import importlib.util
import os
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils import _device

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("hico") is None:  # a bare checkout, and pytest started by its own name
    sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "tests"))  # the tests' own helper modules

# the kernels themselves run, on a GPU or in Triton's interpreter; else the plain PyTorch form does
KERNELS = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"
SENTINEL = -7
POISONED = ("hico.kernels", "hico.ops", "hico.reference")
poison = {"on": True}


def _poisoned(function: Callable) -> Callable:
    @functools.wraps(function)
    def empty(*args, **kwargs):
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        out = function(*args, **kwargs)
        caller = sys._getframe(1).f_globals.get("__name__", "")
        # a subclass is a fake or functional tensor: it has no memory
        if poison["on"] and caller.startswith(POISONED) and type(out) is torch.Tensor:
            if out.dtype.is_floating_point:
                out.detach().fill_(torch.nan)
            elif out.dtype.is_signed:
                out.fill_(SENTINEL)
        return out

    return empty


# the originals, so that torch.device("meta") still reaches them, however often the cache is cleared
_originals = _device._device_constructors()
_device._device_constructors = functools.lru_cache(1)(lambda: _originals)
# for the whole session and not test by test: torch.compile looks these functions up once
torch.empty = _poisoned(torch.empty)
torch.empty_like = _poisoned(torch.empty_like)
torch.Tensor.new_empty = _poisoned(torch.Tensor.new_empty)


@pytest.fixture
def unpoisoned() -> Iterator[None]:
    """Without the fills, for tests that count kernels."""
    poison["on"] = False
    yield
    poison["on"] = True


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    """The GPU where there is one, so that the whole suite runs on it too."""
    name = "cuda" if torch.cuda.is_available() else "cpu"
    request.node.user_properties.append(("device", name))
    return name


@pytest.fixture
def kernels() -> bool:
    """Whether the kernels run, rather than their plain PyTorch form."""
    return KERNELS


@pytest.fixture
def plain_on_cpu() -> Iterator[None]:
    """Ops in plain PyTorch on a CPU, for tests of what stands on them: interpreting is slow."""
    from hico.ops import (
        _register,
        attention,
        compact,
        match,
        merge,
        norm,
        project,
        score,
        segment,
        select,
    )

    ops = [compact._take_rows, project._norm_project, score._score, select._select]
    ops += [attention._attention, match._match, merge._rounds, norm._norm]
    ops += [segment._reduce, segment._gather, segment._weight_grad]
    with contextlib.ExitStack() as stack:
        for op in ops:
            if _register.INTERPRET:
                stack.enter_context(op.set_kernel_enabled("cpu", enabled=False))
        yield


@pytest.fixture
def compiler(device: str) -> CompileCounterWithBackend:
    """A counting backend for torch.compile; on a CPU not Inductor: half a minute a test."""
    torch.compiler.reset()
    return CompileCounterWithBackend("inductor" if device == "cuda" else "aot_eager")


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random numbers whatever ran before; afterwards the generators are as they were."""
    state = random.getstate()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        random.seed(0)
        yield
    random.setstate(state)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") is None or torch.cuda.is_available():
        return
    if os.environ.get("FAIL_WITHOUT_GPU") == "1":
        pytest.fail("FAIL_WITHOUT_GPU=1 and there is no CUDA GPU", pytrace=False)
    pytest.skip("needs a CUDA GPU")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = Counter(
        dict(report.user_properties).get("device", "none")
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        if getattr(report, "when", None) == "call"
    )
    skipped = len(terminalreporter.stats.get("skipped", []))
    on = {"cpu": "cpu (kernels interpreted)" if KERNELS else "cpu (plain PyTorch)"}
    counts = ", ".join(f"{on.get(name, name)} {n}" for name, n in sorted(ran.items()))
    terminalreporter.write_line(f"tests by device: {counts or 'none ran'}; skipped {skipped}")
