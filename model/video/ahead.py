"""Several decoders at once, each on its own groups of pictures, with the frames back in order."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .careful import Painter
from .table import FrameTable, open_file

MOST_THREADS = 8
WAITING_BYTES = 128 * 2**20  # of finished frames; 16 at least one a decoder
# what no other picture of these codecs refers to can be left out without a trace
DISPOSABLE = {"h264", "mpeg1video", "mpeg2video", "mpeg4"}


class Lost(Exception):
    """The quick way did not find a frame."""


@dataclass
class Job:
    """Wanted frames that all decode from one key frame.

    Attributes:
        key: its number in the table.
        indices: ascending frame numbers.
        done: frames that wait for their turn, as (index, pixels).
        over: no more will come; `indices` without one in `done` were not found.
    """

    key: int
    indices: list[int]
    done: deque[tuple[int, torch.Tensor]] = field(default_factory=deque)
    over: bool = False


def cpus() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_ahead(
    path: Path, table: FrameTable, indices: list[int], pixels: tuple[int, int], threads: int | None
) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield (index, uint8 [*pixels, 3]) in order, without those that the quick way cannot find.

    Args:
        path: a video file.
        table: of that file, with `pts`.
        indices: ascending frame numbers, none twice.
        pixels: (height, width).
        threads: how many decode at once; None for one a CPU, at most 8.
    """
    jobs = [Job(max(0, k), list(group)) for k, group in groupby(indices, table.key_of)]
    threads = threads or min(MOST_THREADS, cpus())
    workers = min(threads, len(jobs))
    room = max(2 * workers, WAITING_BYTES // (pixels[0] * pixels[1] * 3))
    board = Board(jobs, room)
    team = [
        threading.Thread(
            target=_work, args=(board, path, table, pixels, threads // workers), daemon=True
        )
        for _ in range(workers)
    ]
    for member in team:
        member.start()
    try:
        yield from board.frames()
    finally:
        board.stop()
        for member in team:
            member.join()


class Board:
    """Jobs are taken from it in order; frames are put on it and leave in order."""

    def __init__(self, jobs: list[Job], room: int) -> None:
        self.jobs, self.room = jobs, room
        self.stopped = False
        self._changed = threading.Condition()
        self._taken = self._front = self._waiting = 0

    def take(self) -> Job | None:
        """The next job, None if there is none left."""
        with self._changed:
            if self.stopped or self._taken == len(self.jobs):
                return None
            self._taken += 1
            return self.jobs[self._taken - 1]

    def put(self, job: Job, index: int, frame: torch.Tensor) -> bool:
        """Hand in a frame as soon as there is room; False if nobody wants it any more."""
        with self._changed:
            # the frame that everyone waits for always has room
            while self._waiting >= self.room and not (
                job is self.jobs[self._front] and not job.done
            ):
                if self.stopped:
                    return False
                self._changed.wait()
            job.done.append((index, frame))
            self._waiting += 1
            self._changed.notify_all()
            return not self.stopped

    def finish(self, job: Job) -> None:
        """Nothing more will come of this job."""
        with self._changed:
            job.over = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Nobody wants the rest."""
        with self._changed:
            self.stopped = True
            self._changed.notify_all()

    def frames(self) -> Iterator[tuple[int, torch.Tensor]]:
        """All frames in order."""
        for number, job in enumerate(self.jobs):
            with self._changed:
                self._front = number
                self._changed.notify_all()
            while True:
                with self._changed:
                    while not job.done and not job.over:
                        self._changed.wait()
                    if not job.done:
                        break
                    item = job.done.popleft()
                    self._waiting -= 1
                    self._changed.notify_all()
                yield item


def _work(
    board: Board, path: Path, table: FrameTable, pixels: tuple[int, int], threads: int
) -> None:
    """A thread's life: take jobs until there are none."""
    with ExitStack() as stack:
        decoder, painter = None, Painter()
        while (job := board.take()) is not None:
            try:
                if decoder is None:
                    decoder = stack.enter_context(closing(Quick(path, table, threads)))
                for index, frame in decoder.frames(job):
                    if not board.put(job, index, painter.paint(frame, pixels)):
                        return
            except Exception:
                # whatever it is, the careful way is next and says it; nobody hears a thread
                stack.close()
                decoder = None
            finally:
                board.finish(job)


class Quick:
    """A container and a decoder that decode from a key frame to the last wanted frame after it."""

    def __init__(self, path: Path, table: FrameTable, threads: int) -> None:
        self.path, self.table, self.threads = path, table, threads
        self._open()
        self.skips = not table.interlaced and disposable(self.context)

    def close(self) -> None:
        """Close the file."""
        self.container.close()

    def _open(self) -> None:
        self.container, self.stream = open_file(self.path, self.threads)
        self.context, self.at_start = self.stream.codec_context, True

    def frames(self, job: Job) -> Iterator[tuple[int, Any]]:
        """Yield the job's (index, decoded frame).

        Raises:
            Lost, FFmpegError (a ValueError or an OSError): the rest cannot be had this way.
        """
        assert self.table.pts is not None
        left = {int(self.table.pts[index]): index for index in job.indices}
        for frame in self._decoded(int(self.table.keys[job.key]), job.key, set(left)):
            index = left.pop(frame.pts, None)
            if index is None:
                continue
            if frame.is_corrupt:
                raise Lost
            yield index, frame
            if not left:
                return
        raise Lost

    def _decoded(self, start: int, key: int, missing: set[int]) -> Iterator[Any]:
        """What comes out while the packets go in from the key frame to the last missing one."""
        for packet in self._packets(start, key):
            wanted = packet.pts in missing
            missing.discard(packet.pts)
            if self.skips:
                self.context.skip_frame = "DEFAULT" if wanted else "NONREF"
            for frame in self.context.decode(packet):
                if self.skips and frame.interlaced_frame:
                    # of its two fields one may be needed where nothing refers to the other
                    raise Lost
                yield frame
            if not missing:
                break
        # what is still inside comes out; seeking then makes the decoder usable again
        yield from self.context.decode(None)

    def _packets(self, start: int, key: int) -> Iterator[Any]:
        """Packets from the key frame on, in the order of the file."""
        for back in (0, 1, 4):
            # mpegts, for one, may land behind the key frame it is asked for: then ask for earlier
            if key > back:
                self.container.seek(int(self.table.keys[key - back]), stream=self.stream)
            elif not self.at_start:
                self.close()
                self._open()
            self.at_start = begun = False
            for packet in self.container.demux(self.stream):
                if not packet.size:
                    continue
                if not begun:
                    if not packet.is_keyframe or packet.pts is None or packet.pts < start:
                        continue
                    if packet.pts > start:
                        break
                    begun = True
                if packet.is_corrupt:
                    raise Lost
                yield packet
            if begun:
                return
        raise Lost


def disposable(context: Any) -> bool:
    """Whether pictures marked as unused for reference can be left out, frame by frame exactly.

    HEVC's mark speaks of one temporal layer only, and vp9, av1 and others have no such mark.
    """
    if context.name == "hevc":
        record = bytes(context.extradata or b"")
        # hvcC, as in mp4 and mkv: three bits of byte 21 count the temporal layers
        return len(record) > 21 and record[0] == 1 and record[21] >> 3 & 7 == 1
    return context.name in DISPOSABLE
