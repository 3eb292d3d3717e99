"""Questions of whole videos, each a function from a Setup to a row: first tokens, and the table."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from hico.adapters._dropout import Dropout
from hico.bench import model_cases as cases
from hico.bench.limits import verdict
from hico.bench.model_setup import EVERYTHING, Setup
from hico.bench.record import Row
from hico.bench.timing import synchronize
from hico.model.session import VideoSession
from hico.model.settings import DropoutSettings
from hico.model.stats import GIB, measured

Job = tuple[str, Callable[[Setup], Row]]

FIRST, SECOND = "What happens in this video?", "Who is seen at the end of it?"


# ---- decoded frames to the first token, and a second question


@contextmanager
def memory_limit(device: torch.device, limit: int | None) -> Iterator[None]:
    """The process gets so many bytes of the device's memory and no more."""
    if limit is None or device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def questions(setup: Setup, settings: DropoutSettings, host: bool, limit: int | None) -> Row:
    """Frames -> first token of a question, then of another one of the same video."""
    frames = setup.frames(setup.sizes.frames)
    frames = frames.cpu() if host else frames
    seconds: dict[str, list[float]] = {"encoding": [], "first": [], "second": []}
    peaks: list[int] = []
    with memory_limit(setup.device, limit):
        with measured("cold", setup.device) as cold:  # kernels for lengths that are new
            watch(setup, frames, settings, 2)
        while len(peaks) < 3 and sum(seconds["first"]) < 20:
            session, encoding = watch(setup, frames, settings, 1)
            first = encoding.seconds + sum(stage.seconds for stage in session.stages)
            stages = {stage.name: stage.seconds for stage in session.stages}
            peaks.append(max(encoding.peak, *(stage.peak for stage in session.stages)))
            with measured("second", setup.device) as second:
                session.ask(SECOND, max_new_tokens=1)
            for name, value in zip(seconds, (encoding.seconds, first, second.seconds), strict=True):
                seconds[name].append(value)
            tokens = session.tokens
            del session
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = middle["second"] / middle["first"]
    return {
        "seconds": middle["first"], "samples_s": seconds["first"], "cold_s": cold.seconds,
        "second_s": middle["second"], "second_samples_s": seconds["second"],
        "second_share": ratio, "second_verdict": verdict(ratio, 0.4),
        "stages_s": stages | {"encoding": middle["encoding"]},
        "peak_bytes": max(peaks) if setup.device.type == "cuda" else None,
        "memory_limit_bytes": limit, "frames": setup.sizes.frames, "tokens": tokens,
        "frames_on": "host" if host else "device",
    } | limits(settings, middle["first"], max(peaks))  # fmt: skip


def limits(settings: DropoutSettings, seconds: float, most: int) -> Row:
    """The figures to reach, and whether they were."""
    if not settings.layers:
        return {"must": 17.0, "verdict": verdict(seconds, 17.0)}
    return {
        "must": 10.0, "target": 9.0, "verdict": verdict(seconds, 10.0, 9.0),
        "must_bytes": 40 * GIB, "memory_verdict": verdict(most, 40 * GIB, 24 * GIB),
    }  # fmt: skip


def watch(setup: Setup, frames: Tensor, settings: DropoutSettings, new: int) -> tuple[Any, Any]:
    """A session of the frames that has answered its first question; and the encoding's Stage."""
    count = len(frames)
    with measured("encoding", setup.device) as encoding:
        visual = setup.model.encode_video(frames)
    message = setup.processor.time_message(count, range(count))
    session = VideoSession(setup.model, setup.processor, visual, message, settings)
    session.ask(FIRST, max_new_tokens=new)
    return session, encoding


# ---- the table: where the time goes, by the number of frames


class Stopwatch:
    """Seconds of calls among others, added up without making the host wait for them."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.pairs: list[tuple[Any, Any]] = []

    def wrap(self, function: Callable) -> Callable:
        """The function, timed."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = self.now()
            result = function(*args, **kwargs)
            self.pairs.append((start, self.now()))
            return result

        return timed

    def now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @property
    def seconds(self) -> float:
        synchronize(self.device)
        if self.device.type != "cuda":
            return sum(end - start for start, end in self.pairs)
        return sum(start.elapsed_time(end) for start, end in self.pairs) / 1e3


def stages(setup: Setup, count: int, video: Path | None, limit: int | None) -> Row:
    """Seconds of every stage, from the file if there is one to the last token of an answer."""
    frames, reading = setup.frames(count).cpu(), None
    if video is not None:
        frames, reading = read(video, count, setup.model.encoder.image_size)
    with memory_limit(setup.device, limit):
        watch(setup, frames[: setup.sizes.warm], setup.sizes.dropout, 2)
        found = [timed_stages(setup, frames)]
        # a short one is over before the machine is at its speed
        while sum(sum(one["stages_s"].values()) for one in found) < 5 and len(found) < 3:
            found.append(timed_stages(setup, frames))
    row = found[-1]
    row["stages_s"] = {"reading": reading, **row["stages_s"]}
    total = sum(s for s in row["stages_s"].values() if s is not None)
    shares = {name: s and s / total for name, s in row["stages_s"].items()}
    return row | {"seconds": total, "shares": shares, "frames": count, "runs": len(found)}


def timed_stages(setup: Setup, frames: Tensor) -> Row:
    """One run."""
    projector = setup.model.model.mm_projector
    merging, selection = Stopwatch(setup.device), Stopwatch(setup.device)
    with (
        mock.patch.object(projector, "forward", merging.wrap(projector.forward)),
        mock.patch.object(Dropout, "_drop", _method(selection, Dropout._drop)),
    ):
        session, encoding = watch(setup, frames, setup.sizes.dropout, setup.sizes.answer)
    of = {stage.name: stage for stage in session.stages}
    merged, selected = merging.seconds, selection.seconds
    most = max(encoding.peak, *(stage.peak for stage in of.values()))
    return {
        "stages_s": {
            "encoding": encoding.seconds - merged,
            "merging": merged,
            "prefill": of["watching"].seconds + of["first token"].seconds - selected,
            "selection": selected,
            "decode": of["decoding"].seconds,
        },
        "answer_tokens": setup.sizes.answer, "tokens": session.tokens,
        "peak_bytes": most if setup.device.type == "cuda" else None,
    }  # fmt: skip


def _method(watch: Stopwatch, method: Callable) -> Callable:
    timed = watch.wrap(method)

    def bound(self: Any, *args: Any) -> Any:
        return timed(self, *args)

    return bound


def read(video: Path, count: int, size: int) -> tuple[Tensor, float | None]:
    """So many frames of a file and the seconds that took; None if it had to repeat some."""
    from hico.model.video import read_clip

    start = time.perf_counter()
    found = read_clip(video, count, count, size).frames
    seconds = time.perf_counter() - start
    if len(found) >= count:
        return found[:count], seconds
    return found[torch.arange(count) % len(found)], None


def jobs(sizes: Any, video: Path | None, limit: int | None) -> dict[str, list[Job]]:
    """Case -> its rows' providers and what measures them."""
    dropped, whole = sizes.dropout, EVERYTHING
    return {
        "encoder": [
            ("eager", cases.encoder_plain),
            ("hico", cases.encoder_ours),
            ("compile", partial(cases.encoder_plain, compiled=True)),
            ("hico, compiled blocks", partial(cases.encoder_ours, compiled=True)),
        ],
        "prefill": [
            ("hico, dropout", partial(cases.prefill, settings=dropped)),
            ("hico", partial(cases.prefill, settings=whole)),
            ("transformers", partial(cases.prefill, settings=None)),
        ],
        "questions": [
            (
                f"hico{', dropout' * bool(settings.layers)}, "
                f"frames on the {'host' if host else 'device'}",
                partial(questions, settings=settings, host=host, limit=limit),
            )
            for settings, host in ((dropped, False), (dropped, True), (whole, False))
        ],
        "decode": [
            ("hico, dropout", partial(cases.decode, settings=dropped)),
            ("hico", partial(cases.decode, settings=whole)),
        ],
        "table": [
            (f"{count} frames", partial(stages, count=count, video=video, limit=limit))
            for count in sizes.counts
        ],
    }
