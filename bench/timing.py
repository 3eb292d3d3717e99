"""Times with a cold L2, launch overhead, peak memory, and the ceilings of the machine.

On a GPU a sample is a pair of CUDA events around one call. Before it, outside the events, a buffer
four times the L2 is read (reading leaves clean lines; a written one would go back to memory on the
op's time), and the input sets rotate: nothing of the call's data is left in the cache. On a CPU the
same functions take wall-clock times, for smoke runs only.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

Inputs = tuple[Any, ...]
Setup = Callable[..., Inputs]

# data that passes through the L2 between two uses of it, as a multiple of its size
FLUSH = 4
WARM_UP = 3


@dataclass(frozen=True)
class Times:
    """Milliseconds of one call: median, 20th and 80th percentile, and how they were taken."""

    median: float
    p20: float
    p80: float
    samples: int
    method: str

    @classmethod
    def of(cls, samples: list[float], method: str) -> "Times":
        """The summary of the samples, in milliseconds.

        >>> Times.of([3.0, 1.0, 2.0], "events").median
        2.0
        """
        if not samples:
            raise ValueError("samples: expected at least one, got none")
        ends = [samples[0]] * 4
        if len(samples) > 1:
            ends = statistics.quantiles(samples, n=5, method="inclusive")
        return cls(statistics.median(samples), ends[0], ends[3], len(samples), method)


def device_of(inputs: Sequence[Inputs]) -> torch.device:
    """The device of the first tensor."""
    if not inputs:
        raise ValueError("inputs: expected at least one input set, got none")
    tensors = [t for args in inputs for t in args if isinstance(t, Tensor)]
    return tensors[0].device if tensors else torch.device("cpu")


def input_bytes(inputs: Inputs) -> int:
    """Bytes of the tensors of one input set."""
    return sum(t.numel() * t.element_size() for t in inputs if isinstance(t, Tensor))


def l2_bytes(device: torch.device) -> int:
    """Size of the L2, or 0 on a CPU."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0


def sets_needed(one: int, device: torch.device, most: int = 16) -> int:
    """Input sets of `one` bytes such that FLUSH times the L2 passes before a set's next turn.

    >>> sets_needed(1000, torch.device("cpu"))
    1
    """
    through = FLUSH * l2_bytes(device)
    # a set that large pushes itself out
    return 1 if one >= through else min(most, 1 + -(-through // max(one, 1)))


@cache
def _flush_buffer(device: torch.device) -> Tensor:
    return torch.ones(FLUSH * l2_bytes(device) // 4, device=device)


def flush(device: torch.device) -> None:
    """Fills the L2 with clean lines of something else; nothing to do on a CPU."""
    if device.type == "cuda":
        _flush_buffer(device).sum()


def synchronize(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_gpu(
    fn: Callable[..., Any],
    inputs: Sequence[Inputs],
    *,
    setup: Setup | None = None,
    budget_s: float = 1.0,
    min_samples: int = 5,
    max_samples: int = 100,
) -> Times:
    """Times of one call fn(*inputs[i]), cold L2, host launches as they come.

    Args:
        fn: what is timed.
        inputs: input sets, used in turn.
        setup: run on the input set before each call, outside the time; fn gets what it returns (a
            backward needs a fresh forward).
        budget_s: seconds that the samples may take, `setup` and flush included.
        min_samples, max_samples: bounds that hold whatever the budget says.
    """
    device = device_of(inputs)
    prepare = setup or _unchanged
    started = 0.0
    for i in range(WARM_UP):
        synchronize(device)
        started = time.perf_counter()
        fn(*prepare(*inputs[i % len(inputs)]))
        flush(device)
        synchronize(device)
    each = time.perf_counter() - started
    count = _sample_count(each, budget_s, min_samples, max_samples)
    sample = _sample_events if device.type == "cuda" else _sample_clock
    method = "events" if device.type == "cuda" else "wall clock"
    return Times.of(sample(fn, inputs, prepare, count, device), method)


def _unchanged(*args: Any) -> Inputs:
    return args


def _sample_count(each_s: float, budget_s: float, low: int, high: int) -> int:
    if not 1 <= low <= high:
        raise ValueError(f"min_samples: expected 1 <= min <= max_samples, got {low} and {high}")
    if not budget_s > 0:
        raise ValueError(f"budget_s: expected more than 0 seconds, got {budget_s}")
    return max(low, min(high, int(budget_s / max(each_s, 1e-9))))


def _sample_events(
    fn: Callable[..., Any],
    inputs: Sequence[Inputs],
    prepare: Setup,
    count: int,
    device: torch.device,
) -> list[float]:
    pairs = []
    for i in range(count):
        args = prepare(*inputs[i % len(inputs)])
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        # the flush also keeps the device busy while the host prepares the first launch
        flush(device)
        start.record()
        fn(*args)
        end.record()
        pairs.append((start, end))
        if i % 8 == 7:
            # a full launch queue would make the host wait inside the events
            torch.cuda.synchronize(device)
    torch.cuda.synchronize(device)
    return [start.elapsed_time(end) for start, end in pairs]


def _sample_clock(
    fn: Callable[..., Any], inputs: Sequence[Inputs], prepare: Setup, count: int, _: torch.device
) -> list[float]:
    samples = []
    for i in range(count):
        args = prepare(*inputs[i % len(inputs)])
        start = time.perf_counter()
        fn(*args)
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def time_graph(
    fn: Callable[..., Any],
    inputs: Sequence[Inputs],
    *,
    budget_s: float = 1.0,
    min_samples: int = 5,
    max_samples: int = 100,
) -> Times:
    """Times of one call inside a CUDA graph, as a model that is replayed as a graph sees it.

    One graph holds one call for each input set, one after the other; a sample is a replay divided
    by the number of sets. With `sets_needed` sets each call finds its inputs outside the L2, which
    is also flushed before each replay. Nothing is subtracted: the gaps between kernels and the one
    launch of a replay are in the time. Scratch memory is reused from call to call, as in a model.
    On a CPU: wall clock.
    """
    device = device_of(inputs)
    if device.type != "cuda":
        return time_gpu(
            fn, inputs, budget_s=budget_s, min_samples=min_samples, max_samples=max_samples
        )
    side = torch.cuda.Stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(side):
        # compiles kernels and makes library handles, which a capture may not
        for _ in range(WARM_UP):
            fn(*inputs[0])
    torch.cuda.current_stream(device).wait_stream(side)
    torch.cuda.synchronize(device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for args in inputs:
            fn(*args)

    def replay(_: Tensor) -> None:
        graph.replay()

    anchor = torch.empty(1, device=device)
    times = time_gpu(
        replay, [(anchor,)], budget_s=budget_s, min_samples=min_samples, max_samples=max_samples
    )
    k = len(inputs)
    return Times(times.median / k, times.p20 / k, times.p80 / k, times.samples, "graph")


def launch_overhead(
    fn: Callable[..., Any], args: Inputs, *, setup: Setup | None = None, samples: int = 15
) -> float | None:
    """Median host microseconds until fn(*args) returns, the device idle before; None on a CPU."""
    device = device_of([args])
    if device.type != "cuda":
        return None
    micros = []
    for _ in range(samples + 1):
        ready = setup(*args) if setup else args
        torch.cuda.synchronize(device)
        start = time.perf_counter()
        result = fn(*ready)
        micros.append((time.perf_counter() - start) * 1e6)
        del ready, result
    torch.cuda.synchronize(device)
    return statistics.median(micros[1:])


def peak_memory(fn: Callable[..., Any], args: Inputs, *, setup: Setup | None = None) -> int | None:
    """Most bytes that fn(*args) had allocated at a time on top of what was there before it.

    Outputs count; inputs, and what `setup` left for a backward, exist already. None on a CPU.
    """
    device = device_of([args])
    if device.type != "cuda":
        return None
    ready = setup(*args) if setup else args
    gc.collect()
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    result = fn(*ready)
    torch.cuda.synchronize(device)
    peak = torch.cuda.max_memory_allocated(device) - before
    del result
    return peak
