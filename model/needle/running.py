"""Runs the cells of a needle test that are not done yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

from tqdm import tqdm

from .asking import Ask, Cell, Film, is_free, is_letter, steps_right
from .features import Haystack, Store
from .record import Record, Tally

SAMPLED = {"single_frame": 1, "uniform_64": 64}  # baselines: frames that are seen


class Task(Protocol):
    """Where questions come from."""

    def groups(self, frames: Sequence[int]) -> list[list[Cell]]:
        """All cells of these lengths; those of a group share work."""
        ...

    def count(self, cells: Sequence[Cell]) -> int:
        """Questions of these cells of one group."""
        ...

    def films(self, cells: Sequence[Cell], hay: Haystack, store: Store) -> Iterable[Film]:
        """The videos of these cells of one group."""
        ...


def run_cells(
    task: Task,
    answerer: Any,
    hay: Any,
    store: Any,
    record: Record,
    frames: Sequence[int],
    free: int | None = None,
    baselines: float = 0,
    progress: bool = False,
) -> None:
    """Every cell of these lengths that the record has not, written there as soon as it is done.

    What is begun is written every 20 seconds, and gone on with.

    Args:
        answerer: an Answerer, or what opens films as it does.
        free: how many questions of each cell are also answered in words, None = all.
        baselines: how many of each cell are also asked without the video, with its middle frame,
            and with 64 uniform frames.
        progress: show a bar with the time left.
    """
    groups = [[cell for cell in group if cell not in record.cells] for group in task.groups(frames)]
    total = sum(task.count(cells) for cells in groups if cells)
    with tqdm(total=total, unit="question", disable=not progress) as bar:
        for cells in filter(None, groups):
            bar.set_description(f"{cells[0][0]:,} frames")
            tallies = {one.cell: one for one in record.tallies(cells, answerer.stages())}
            known = next(iter(tallies.values())).films
            for number, film in enumerate(task.films(cells, hay, store)):
                if number < known:
                    bar.update(len(film.asks))
                    continue
                for _ in _asked(film, answerer, tallies, free, baselines):
                    bar.update(1)
                for tally in tallies.values():
                    tally.films = number + 1
                record.keep(list(tallies.values()), answerer.clock.seconds)
            record.add([tally.result() for tally in tallies.values()], answerer.clock.seconds)


def _asked(
    film: Film, answerer: Any, tallies: dict[Cell, Tally], free: int | None, baselines: float
) -> Iterator[Ask]:
    """Asks all that is to be asked of a film; each question comes out when it is answered."""
    clock, session = answerer.clock, answerer.open(film)
    few = {}
    if any(ask.number < baselines for ask in film.asks):
        with clock("baselines"):
            few = {name: answerer.sampled(film, count) for name, count in SAMPLED.items()}
    for ask in film.asks:
        tally = tallies[ask.cell]
        with clock("letter"):
            tally.add(ask, "letter", is_letter(session.letter(ask.text), ask.letter))
        if answerer.stages():
            tally.survived(session.survivors(ask.needles))
        if free is None or ask.number < free:
            _say(ask, session, answerer, tally)
        if ask.number < baselines:
            with clock("baselines"):
                tally.add(ask, "blind", is_letter(answerer.blind(ask.text), ask.letter))
                for name, short in few.items():
                    tally.add(ask, name, is_letter(short.letter(ask.text), ask.letter))
        yield ask


def _say(ask: Ask, session: Any, answerer: Any, tally: Tally) -> None:
    """The answer in words, and the chain told step by step."""
    question, answers = ask.free
    with answerer.clock("free"):
        said = session.ask(question, max_new_tokens=max(map(answerer.room, answers)))
    tally.add(ask, "free", is_free(said, answers))
    if ask.steps is not None:
        question, answer, chain = ask.steps
        with answerer.clock("steps"):
            said = session.ask(question, max_new_tokens=answerer.room(chain))
        last, every = steps_right(said, answer, chain)
        tally.add(ask, "steps", last)
        tally.add(ask, "chain", every)
