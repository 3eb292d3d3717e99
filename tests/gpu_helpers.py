"""What the GPU tests share: graphs, traces, and how many kernels are compiled."""

import importlib
import pkgutil
from collections.abc import Callable

import torch


def replay(run: Callable[[], object], change: Callable[[], None]) -> object:
    """Captures run() in a CUDA graph, changes its inputs in place, replays it: run()'s outputs."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # compiles, and gives the allocator its sizes
        for _ in range(2):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run()
    change()
    graph.replay()
    torch.cuda.synchronize()
    return out


def jit_functions() -> list:
    """Every Triton function of hico.kernels."""
    from triton.runtime.jit import JITFunction

    package = importlib.import_module("hico.kernels")
    names = [f"hico.kernels.{m.name}" for m in pkgutil.iter_modules(package.__path__)]
    found = {
        id(value): value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, JITFunction)
    }
    return list(found.values())


def compiled() -> int:
    """How many binaries the kernels of hico have by now."""
    return sum(len(cache[0]) for fn in jit_functions() for cache in fn.device_caches.values())


def trace(run: Callable[[], object]) -> list[str]:
    """The names of everything that run() puts on the GPU, copies and fills included."""
    run()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        run()
        torch.cuda.synchronize()
    cuda = torch.autograd.DeviceType.CUDA
    return [event.name for event in profile.events() if event.device_type == cuda]


def many_rows(tokens: int, channels: int) -> torch.Tensor:
    """[B, tokens, channels] bfloat16 of just over 2**31 elements: the last rows lie past int32."""
    batch = (1 << 31) // (tokens * channels) + 9
    x = torch.empty(batch, tokens, channels, dtype=torch.bfloat16, device="cuda")
    return x.normal_(generator=torch.Generator("cuda").manual_seed(0))


def some_rows(batch: int) -> list[slice]:
    """The first rows, those around the middle, the last."""
    return [slice(0, 4), slice(batch // 2 - 2, batch // 2 + 2), slice(batch - 6, batch)]
