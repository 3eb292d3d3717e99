"""Readers who see some frames of a world perfectly, and what they can make of it.

What a frame shows, they know: colours, words and numbers, and which of them stand together. What
they are certain of decides; options that they know to be wrong are out; among the others they go by
evidence, weighed as it served best in other worlds of the kind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from hico.model.training.worlds import Question, World
from hico.model.training.worlds.cards import Card

FEATURES = 6
OUT = -1e4


@dataclass(frozen=True)
class Sight:
    """What a frame shows of a card: its time from 0 to 1, its front, its back; None = not seen."""

    time: float
    front: tuple[str, str, str] | None
    back: str | None


@dataclass(frozen=True)
class Case:
    """What a reader makes of one question: evidence [4, FEATURES], and which options are out."""

    evidence: np.ndarray
    out: np.ndarray
    answer: int


def sights(world: World, frames: np.ndarray) -> list[Sight]:
    """What these frames show of cards."""
    found = []
    for frame in frames.tolist():
        place = int(world.shown[frame])
        if place >= 0:
            placed = world.placements[place]
            side = placed.sides[frame - placed.start]
            front = None if side == "back" else front_of(placed.card)
            back = None if side == "front" else back_of(placed.card)
            found.append(Sight(frame / world.frames, front, back))
    return found


def front_of(card: Card) -> tuple[str, str, str]:
    """Shape, colour and word."""
    return card.shape, card.colour, card.word


def back_of(card: Card) -> str:
    """The number, or where to go."""
    return f"go to {card.goto}" if card.goto else card.number


def case_of(world: World, question: Question, seen: list[Sight]) -> Case:
    """The question as this reader sees it."""
    evidence, out = np.zeros((4, FEATURES)), np.zeros(4, bool)
    READERS[world.kind](world, question, seen, evidence, out)
    if out.all():
        raise AssertionError("a perfect reader excluded the right answer")
    return Case(evidence, out, question.answer)


def three_named(world: World, question: Question) -> list[Card]:
    """The cards in the order in which the question names them."""
    order = [int(n) - 1 for n in question.options[question.answer].split(", ")]
    cards = [world.placements[i].card for i in question.needles]
    return [cards[order.index(n)] for n in range(3)]


def _named(question: Question, sight: Sight) -> tuple[bool, bool]:
    """Whether a sight's front and its back are what the question names."""
    named = dict(question.named)
    wanted = [named.get(a) for a in ("shape", "colour", "word")]
    known = [(a, b) for a, b in zip(wanted, sight.front or (), strict=False) if a is not None]
    front = sight.front is not None and bool(known) and all(a == b for a, b in known)
    return front, "number" in named and sight.back == named["number"]


def _gap(times: list[float], others: list[float]) -> float:
    return min((abs(a - b) for a in times for b in others), default=1.0)


def _needle(
    world: World, question: Question, seen: list[Sight], evidence: np.ndarray, out: np.ndarray
) -> None:
    forward = question.asked == "number"
    place = {"shape": 0, "colour": 1, "word": 2}.get(question.asked, 0)
    keys = [s.time for s in seen if any(_named(question, s))]
    for i, option in enumerate(question.options):
        told = [s.back if forward else s.front and s.front[place] for s in seen]
        own = [s for s, value in zip(seen, told, strict=True) if value == option]
        evidence[i, :3] = len(own), _gap([s.time for s in own], keys), bool(own)
        bound = [s for s in seen if s.front and s.back and any(_named(question, s))]
        if bound:
            sure = bound[0].back if forward else bound[0].front and bound[0].front[place]
            out[i] = sure != option
        elif forward and any(s.front and s.back for s in own):
            out[i] = True


def _multihop(
    world: World, question: Question, seen: list[Sight], evidence: np.ndarray, out: np.ndarray
) -> None:
    keys = [s.time for s in seen if _named(question, s)[0]]
    after = {f"{s.front[1]} {s.front[0]}": s for s in seen if s.front and s.back}
    at = " ".join(value for _, value in reversed(question.named))
    last = None
    for _ in range(question.hops):
        last = after.get(at)
        if last is None or last.back is None or not last.back.startswith("go to "):
            break
        at = last.back.removeprefix("go to ")
    ends = {s.front for s in seen if s.front and s.back and not s.back.startswith("go to ")}
    for i, option in enumerate(question.options):
        own = [s for s in seen if option in _says(question, s)]
        evidence[i, :3] = len(own), _gap([s.time for s in own], keys), bool(own)
        if last is not None and last.front in ends:
            out[i] = option not in _says(question, last)


def _says(question: Question, sight: Sight) -> set[str]:
    """All that a sight shows which could be an option."""
    found = {sight.back} if question.asked == "number" and sight.back else set()
    if sight.front and question.asked == "word":
        found.add(sight.front[2])
    if sight.front and question.asked == "caption":
        shape, colour, _ = sight.front
        found.add(f"{'an' if colour[0] in 'aeiou' else 'a'} {colour} {shape}")
    return found


def _ordering(
    world: World, question: Question, seen: list[Sight], evidence: np.ndarray, out: np.ndarray
) -> None:
    three = three_named(world, question)
    for i, option in enumerate(question.options):
        ranks = [int(n) - 1 for n in option.split(", ")]
        for side in (0, 1):
            means = np.full(3, 0.5)
            for j, card in enumerate(three):
                shown = (front_of(card), card.number)[side]
                times = [s.time for s in seen if (s.front, s.back)[side] == shown]
                means[j] = np.mean(times) if times else 0.5
            evidence[i, side] = sum((means[n] - 0.5) * (rank - 1) for rank, n in enumerate(ranks))
        known = {
            j: s.time
            for j, card in enumerate(three)
            for s in seen
            if s.front == front_of(card) and s.back == card.number
        }
        times = [known[n] for n in ranks if n in known]
        out[i] = times != sorted(times)


def _grounding(
    world: World, question: Question, seen: list[Sight], evidence: np.ndarray, out: np.ndarray
) -> None:
    for i, option in enumerate(question.options):
        words = option.split()
        low, high = (float(words[k]) / world.duration for k in (1, 3))
        inside = [s for s in seen if low <= s.time < high]
        both = [_named(question, s) for s in inside]
        evidence[i, :3] = sum(f for f, _ in both), sum(b for _, b in both), len(inside)
        full = [pair for s, pair in zip(inside, both, strict=True) if s.front and s.back]
        # a stretch shows every front once
        out[i] = any(f != b for f, b in full)
        if any(f and b for f, b in full):
            out[:] = True
            out[i] = False
            return


def _counting(
    world: World, question: Question, seen: list[Sight], evidence: np.ndarray, out: np.ndarray
) -> None:
    both = [_named(question, s) for s in seen]
    full = sum(f and b for f, b in both)
    fronts, backs = sum(f for f, _ in both), sum(b for _, b in both)
    for i, option in enumerate(question.options):
        count = int(option)
        evidence[i] = count, count * fronts, count * backs, count * full, count**2, full > 0
        # a card that is met twice is on four frames, and the frames are further apart
        out[i] = count < full


READERS: dict[str, Callable[..., None]] = {
    "needle": _needle,
    "multihop": _multihop,
    "ordering": _ordering,
    "grounding": _grounding,
    "counting": _counting,
}


def weights(cases: list[Case], penalty: float = 1e-2) -> np.ndarray:
    """[FEATURES] of the conditional logit P(option) ~ exp(evidence @ weights), fitted to cases."""
    evidence = torch.tensor(np.stack([case.evidence for case in cases]))
    scale = evidence.flatten(0, 1).std(0).clamp_min(1e-6)
    out = torch.tensor(np.stack([case.out for case in cases]))
    answers = torch.tensor([case.answer for case in cases])
    found = torch.zeros(FEATURES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([found], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        scores = (evidence / scale) @ found
        scores = scores.masked_fill(out, OUT)
        value = torch.nn.functional.cross_entropy(scores, answers) + penalty * found.square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    return (found.detach() / scale).numpy()


def right(case: Case, weight: np.ndarray) -> float:
    """The chance that this reader is right: 1 over the number of best options, if it is one."""
    scores = np.where(case.out, OUT, case.evidence @ weight)
    best = scores > scores.max() - 1e-9
    return float(best[case.answer]) / best.sum()
