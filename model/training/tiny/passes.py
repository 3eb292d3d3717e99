"""What a stage of hico-tiny is shown: worlds of one kind a pass, painted where the model is."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hico.adapters._dropout_rows import IGNORED
from hico.model.training.collator import Collator
from hico.model.training.feed import read_sources
from hico.model.training.media import DataOptions
from hico.model.training.settings import StageSettings
from hico.model.training.templates import header
from hico.model.training.worlds.cards import render_cards
from hico.model.training.worlds.dataset import WorldDataset
from hico.model.training.worlds.natural import NaturalHaystack
from hico.model.training.worlds.painting import frames_at_once
from hico.model.training.worlds.world import CLIP, World

from .ahead import made_ahead
from .asking import ask_chain, ask_one, chains_of
from .bank import Deck

NUMBERS = 1 << 32  # worlds of an entry
WORLDS = "worlds"  # of a pass
# kind and form of an entry -> forms of the questions that are added to its own
FORMS = {
    ("needle", "mixed"): ("options", "free", "describe"),
    ("needle", "free"): ("free",),
    ("multihop", "mixed"): ("options", "free", "steps"),
    ("multihop", "steps"): ("steps",),
}


class Unpainted(WorldDataset):
    """Samples with the world beside, and the numbers of its frames for pixels.

    Learned are answers and their ends alone, as in stage 0. The published labels also have what
    stands around them, which stage 0 never said: frozen, it would be the connector's to learn.
    """

    def numbered(self, number: int) -> dict[str, Any]:
        """Sample of world `number`, below NUMBERS, whatever the epoch."""
        world = self.spec.make(number)
        sample = self._sample(world, [*self.spec.said(number, world), *self._more(number, world)])
        begin = header(self.tokenizer, self.options.template)
        told = answers_of(sample["labels"], begin, self.tokenizer.eos_token_id)
        return sample | {"labels": told, "world": world}

    def _more(self, number: int, world: World) -> list[tuple[str, str]]:
        """Questions in stage 0's words, of needles and chains that the world does not ask for.

        A world leaves alone what its options show; here an option may be the answer of another
        turn. So a video of 1,000 frames is asked 32 times, and not 8.
        """
        forms = FORMS.get((world.kind, self.spec.form))
        if forms is None:
            return []
        cards = [one.card for one in world.placements]
        asked = {cards[i] for question in world.questions for i in question.needles}
        rng = np.random.default_rng([self.spec.seed, number, 3])
        if world.kind == "needle":
            left = [i for i, card in enumerate(cards) if card not in asked]
            ask = partial(ask_one, rng, cards)
        else:
            chains = chains_of(Deck(tuple(cards), 0, 1))
            left = [i for i, chain in enumerate(chains) if asked.isdisjoint(chain)]
            ask = partial(ask_chain, rng, chains)
        some = rng.permutation(left)[: self.spec.questions - len(world.questions)].tolist()
        turns = [ask(at, forms[rng.integers(len(forms))], self.spec.split) for at in some]
        return [(turn.ask, turn.answer) for turn in turns]


def answers_of(labels: Tensor, header: Sequence[int], end: int) -> Tensor:
    """int64 [L], the labels between each header and the next end, which is one of them.

    >>> import torch
    >>> from hico.model.training.tiny.passes import answers_of
    >>> answers_of(torch.tensor([-100, 9, 7, 8, 5, 6, 2, 9, 7, 4]), [7, 8], end=2)
    tensor([-100, -100, -100, -100,    5,    6,    2, -100, -100, -100])
    """
    wanted, size = torch.tensor(list(header)), len(header)
    told = torch.full_like(labels, IGNORED)
    ends = (labels == end).nonzero()[:, 0]
    for at in (labels.unfold(0, size, 1) == wanted).all(-1).nonzero()[:, 0] + size:
        stop = int(ends[ends >= at][0]) + 1
        told[at:stop] = labels[at:stop]
    return told


class Passes(IterableDataset):
    """Batches without end, each of one entry of the stage's data, the text alone.

    A pass has as many frames as `batch` of the longest rows that the stage allows: of shorter ones
    it has more, up to `global_batch`. So a GPU has the same to do in each, and nothing is padded
    but text. Of an entry there are passes in proportion to its `count`. Half of all have no time
    message, as needles are asked.

    Args:
        stage: with worlds for data.
        processor: the model's.

    Raises:
        ValueError, OSError: as load_sources and WorldDataset; data that is no world, or worlds of
            other lengths than min_frames to max_frames.
    """

    def __init__(self, stage: StageSettings, processor: Any) -> None:
        sources = read_sources(stage)
        if len(sources.rows):
            raise ValueError(f"data: expected worlds alone, got {len(sources.rows)} rows")
        self.seed, self.parts = stage.seed, []
        for message in (stage.time_message, None):
            how = DataOptions(
                template=stage.template, time_message=message, max_length=stage.max_length
            )
            self.parts += [Unpainted(entry, processor, how) for entry in sources.worlds]
        self.rows = [_rows(stage, part.spec.span) for part in self.parts]
        counts = np.array([len(part) for part in self.parts])
        self.shares = counts / counts.sum()
        self.collator = Collator(processor.tokenizer.pad_token_id, stage.max_length)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        while True:
            at = int(rng.choice(len(self.parts), p=self.shares))
            numbers = rng.integers(NUMBERS, size=self.rows[at]).tolist()
            samples = [self.parts[at].numbered(number) for number in numbers]
            yield self.collator(samples) | {WORLDS: [sample["world"] for sample in samples]}

    def loader(self, workers: int) -> DataLoader:
        """Passes made ahead by so many processes, 0 = by this one."""
        return made_ahead(self, workers)


def _rows(stage: StageSettings, span: tuple[int, int]) -> int:
    """Rows of a pass of worlds of so many frames."""
    low, high = span
    if low < stage.min_frames or high > stage.max_frames:
        raise ValueError(
            f"frames: expected worlds of {stage.min_frames} to {stage.max_frames}, as the stage "
            f"says, got {low} to {high}"
        )
    return min(stage.global_batch, stage.batch * stage.max_frames // high)


def paint_worlds(worlds: Sequence[World], size: int, device: Any) -> list[Tensor]:
    """All frames of every world, uint8 [T, size, size, 3] each, as World.all_frames gives them.

    A GPU paints 64 short worlds together in about the time of two alone, as it mostly waits for
    what to paint next.
    """
    device = torch.device(device)
    if any(world.haystack != "natural" for world in worlds):
        return [world.all_frames(size, device) for world in worlds]
    placed = [one for world in worlds for one in world.placements]
    cards = render_cards(
        [one.card for one in placed],
        [one.style for one in placed],
        size,
        CLIP,
        device,
        side=[one.sides for one in placed],
    )
    bare = [np.flatnonzero(world.shown < 0) for world in worlds]
    numbers = [world.hay[at] for world, at in zip(worlds, bare, strict=True)]
    seeds = np.repeat([world.haystack_seed for world in worlds], [len(at) for at in bare])
    scenes = iter(_scenes(np.concatenate(numbers), seeds, size, device).split(list(map(len, bare))))
    clips = iter(cards.split([len(world.placements) for world in worlds]))
    painted = []
    for world, at in zip(worlds, bare, strict=True):
        frames = torch.empty((world.frames, size, size, 3), dtype=torch.uint8, device=device)
        frames[torch.from_numpy(at).to(device)] = next(scenes)
        with_cards = torch.from_numpy(np.flatnonzero(world.shown >= 0)).to(device)
        frames[with_cards] = next(clips).flatten(0, 1)
        painted.append(frames)
    return painted


def _scenes(numbers: np.ndarray, seeds: np.ndarray, size: int, device: torch.device) -> Tensor:
    """Frames of haystacks, each of its own seed: what is hashed is hashed number by number."""
    done = [torch.zeros(0, size, size, 3, dtype=torch.uint8, device=device)]
    for i in range(0, len(numbers), step := frames_at_once(size, device)):
        some = slice(i, i + step)
        haystack = NaturalHaystack(seeds[some])  # type: ignore[arg-type]
        done.append(haystack.frames(torch.from_numpy(numbers[some]), size, device))
    return torch.cat(done)
