"""Colour histograms and nearest neighbours: an option's card is drawn, then looked for."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from hico.bench.worlds_readers import three_named
from hico.model.training.worlds import Question, World
from hico.model.training.worlds.cards import Card, random_style, render_cards
from hico.model.training.worlds.splits import VALUES
from hico.model.training.worlds.world import CLIP

BINS = 6  # of each colour
LOOKS = 3  # in which a card is drawn, as nobody knows its own
SIDES = ("front", "front", "back", "back")


@dataclass
class Searcher:
    """Looks for cards in one video by the colours of whole clips.

    Attributes:
        clips: float32 [clips, bins], a histogram of each clip of the video.
    """

    world: World
    clips: Tensor
    size: int
    device: torch.device

    @classmethod
    def of(cls, world: World, size: int, device: torch.device) -> "Searcher":
        """Draws the whole video once."""
        whole = world.frames // CLIP * CLIP
        pieces = [histograms(piece) for piece in world.stream(size, device, chunk=CLIP * 32)]
        return cls(world, torch.cat(pieces)[: whole // CLIP], size, device)

    def distances(self, cards: list[Card], rng: Random) -> Tensor:
        """[cards, clips] to the best of several looks of each card."""
        styles = [random_style(rng, self.world.split) for _ in range(LOOKS)]
        many = [(card, style) for card in cards for style in styles]
        drawn = render_cards(
            [card for card, _ in many],
            [style for _, style in many],
            size=self.size,
            frames=CLIP,
            device=self.device,
            side=[SIDES if self.world.card == "turned" else ("both",) * CLIP for _ in many],
        )
        found = torch.cdist(histograms(drawn.flatten(0, 1)), self.clips, p=1)
        return found.view(len(cards), LOOKS, -1).amin(1)

    def answer(self, question: Question, rng: Random) -> int:
        """The option whose card is found best."""
        return SEARCHES[self.world.kind](self, question, rng)


def histograms(frames: Tensor) -> Tensor:
    """uint8 [4 * n, S, S, 3] -> float32 [n, BINS**3], colours of each clip, in shares."""
    bins = frames.long() * BINS // 256
    codes = ((bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]).view(
        len(frames) // CLIP, -1
    )
    counts = torch.zeros(len(codes), BINS**3, device=frames.device)
    ones = torch.ones_like(codes, dtype=counts.dtype)
    return counts.scatter_add_(1, codes, ones) / codes.shape[1]


def _card(question: Question, rng: Random, **known: str) -> Card:
    """A card with what is known of it, and the rest at random."""
    drawn = {name: rng.choice(values) for name, values in VALUES.items()}
    number = str(rng.randrange(10, 100))
    return Card(**({**drawn, "number": number} | known))


def _optional(search: Searcher, question: Question, rng: Random) -> int:
    """Every option's own card; of a needle with what the question names of it."""
    cards = []
    for option in question.options:
        known = dict(question.named) if search.world.kind == "needle" else {}
        if question.asked == "caption":
            _, known["colour"], known["shape"] = option.split()
        else:
            known[question.asked] = option
        cards.append(_card(question, rng, **known))
    return int(search.distances(cards, rng).amin(1).argmin())


def _ordering(search: Searcher, question: Question, rng: Random) -> int:
    """The option that agrees best with where the three cards are found."""
    places = search.distances(three_named(search.world, question), rng).argmin(1).tolist()
    agreed = []
    for option in question.options:
        order = [places[int(n) - 1] for n in option.split(", ")]
        agreed.append(sum(a < b for i, a in enumerate(order) for b in order[i + 1 :]))
    return rng.choice([i for i, a in enumerate(agreed) if a == max(agreed)])


def _grounding(search: Searcher, question: Question, rng: Random) -> int:
    """The option in which the card is found best."""
    found = search.distances([_card(question, rng, **dict(question.named))], rng)[0]
    seconds = torch.arange(len(found), device=found.device) * CLIP / search.world.fps
    best = []
    for option in question.options:
        low, high = (float(option.split()[i]) for i in (1, 3))
        inside = (seconds >= low) & (seconds < high)
        best.append(float(found[inside].min()))
    return best.index(min(best))


def _counting(search: Searcher, question: Question, rng: Random) -> int:
    """The option behind which the distances grow most."""
    found = search.distances([_card(question, rng, **dict(question.named))], rng)[0].sort().values
    found = torch.cat([found.new_zeros(1), found])
    steps = [float(found[int(n) + 1] - found[int(n)]) for n in question.options]
    return steps.index(max(steps))


SEARCHES: dict[str, Callable[[Searcher, Question, Random], int]] = {
    "needle": _optional,
    "multihop": _optional,
    "ordering": _ordering,
    "grounding": _grounding,
    "counting": _counting,
}
