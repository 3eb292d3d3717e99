"""Batches of stage 0b: rows of the bank, and the words around and behind them as ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from hico.adapters._dropout_rows import IGNORED
from hico.model.processing import SYSTEM, VideoChatFlashProcessor
from hico.model.training.worlds.cards import Card
from hico.model.training.worlds.families import apart

from .ahead import made_ahead
from .asking import FORMS, Turn, ask_chain, ask_one, chains_of, choose, watch
from .bank import Bank, Deck
from .levels import Level
from .picks import Kept, some_cards, word_lines

HEAD = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\n"
FRAMES = 4  # of a clip
DROPS = ("none", "uniform", "all")
FOUND = 2  # the first level that comes again later
ASKED = 4  # questions at most where all of them rank the tokens that stay
WATCHED = 4  # cards at most where all of them are to be told


@dataclass
class Batch:
    """Videos of one length with their questions.

    Attributes:
        clips: int64 [B, n], rows of the bank; seen: int64 [B, n, k], which of their tokens.
        head: int64 [H], what is said before every video.
        ids, labels: int64 [B, T], what is said behind it, and -100 for all but answers.
        gaps: int64 [B, n + 1], positions left out before each clip, and behind the last.
        spans: for each answer (row, first, stop) in ids, its form and its hops.
        level: number of the level; drop: which visual tokens are to be dropped, one of DROPS.
    """

    clips: Tensor
    seen: Tensor
    head: Tensor
    ids: Tensor
    labels: Tensor
    gaps: Tensor
    spans: list[tuple[int, int, int, str, int]] = field(default_factory=list)
    level: int = 0
    drop: str = "none"

    def to(self, device: Any) -> "Batch":
        """The same with its tensors on a device."""
        names = ("clips", "seen", "head", "ids", "labels", "gaps")
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return Batch(**moved, spans=self.spans, level=self.level, drop=self.drop)


class Drawer:
    """Draws batches of a level from the decks of a bank.

    Args:
        bank: only its decks and how many clips and tokens it has are looked at.
        tokenizer: of train_tokenizer.
        split: whose wordings are used.
    """

    def __init__(self, bank: Bank, tokenizer: Any, split: str = "train") -> None:
        self.hay, self.split = bank.hay, split
        self.count, self.tokens = bank.features.shape[:2]
        self.single = [deck for deck in bank.decks if deck.hops == 1]
        self.chained = [(deck, chains_of(deck)) for deck in bank.decks if deck.hops > 1]
        self.alike = _alike(self.single)
        self.encode = lru_cache(1 << 14)(
            lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        self.pad = tokenizer.pad_token_id

    def batch(self, rng: np.random.Generator, level: Level, number: int = 0) -> Batch:
        """One batch."""
        drop = DROPS[rng.choice(3, p=(1 - level.thin - level.drop, level.thin, level.drop))]
        clips = int(rng.integers(max(level.cards, level.clips // 2), level.clips + 1))
        turns = min(level.turns, ASKED) if drop == "all" else level.turns
        drawn = [self._video(rng, level, clips, turns) for _ in range(level.rows)]
        rows, spans = [], []
        for row, (_, _, said) in enumerate(drawn):
            ids: list[int] = []
            labels: list[int] = []
            for ask, turn in said:
                question, answer = self.encode(ask), self.encode(f"{turn.answer}<|im_end|>")
                first = len(ids) + len(question)
                spans.append((row, first, first + len(answer), turn.form, turn.hops))
                ids += [*question, *answer]
                labels += [*[IGNORED] * len(question), *answer]
            rows.append((ids, labels))
        width = max(len(ids) for ids, _ in rows)
        padded = [
            [one + [fill] * (width - len(one)) for one in some]
            for some, fill in zip(zip(*rows, strict=True), (self.pad, IGNORED), strict=True)
        ]
        return Batch(
            clips=torch.tensor(np.stack([at for at, _, _ in drawn])),
            seen=torch.from_numpy(self._seen(rng, level, clips)),
            head=torch.tensor(self.encode(HEAD)),
            ids=torch.tensor(padded[0]),
            labels=torch.tensor(padded[1]),
            gaps=torch.from_numpy(_gaps(rng, np.stack([on for _, on, _ in drawn]), level.skip)),
            spans=spans,
            level=number,
            drop=drop,
        )

    def _video(
        self, rng: np.random.Generator, level: Level, clips: int, turns: int
    ) -> tuple[np.ndarray, np.ndarray, list[tuple[str, Turn]]]:
        """Rows of the bank, which go on with a card, and the turns with the words before each."""
        chains: list[list[Kept]] = []
        parts = 1
        if level.hops > 1 and rng.random() < level.chained:
            parts, chains = self._chains(rng, level, clips)
            cards = [one for chain in chains for one in chain]
        elif self.alike and rng.random() < level.lined:
            cards = word_lines(rng, self.alike, min(level.cards, clips))
        else:
            fitting = [deck for deck in self.single if deck.parts <= clips]
            deck = fitting[rng.integers(len(fitting))]
            parts, most = deck.parts, room(level, deck, clips)
            cards = [_kept(deck, i) for i in some_cards(rng, deck.cards, most, level.hard)]
        cards = [cards[i] for i in rng.permutation(len(cards))]
        rows, more = np.array([one.row for one in cards]), parts - 1
        slots = np.sort(rng.choice(clips - more * len(cards), len(cards), replace=False))
        slots += more * np.arange(len(cards))
        found, goes_on = rng.integers(self.hay, self.count, clips), np.zeros(clips, bool)
        for part in range(parts):
            found[slots + part] = rows + part
            goes_on[slots + part] = part > 0
        shown = [one.card for one in cards]
        said = self._turns(rng, level, turns, shown, [[one.card for one in c] for c in chains])
        said += [choose(rng) for _ in range(level.choose)]
        asked = [(self._asked(rng, i, turn, clips), turn) for i, turn in enumerate(said)]
        return found, goes_on, asked

    def _turns(
        self,
        rng: np.random.Generator,
        level: Level,
        most: int,
        shown: list[Card],
        chains: list[list[Card]],
    ) -> list[Turn]:
        """No card and no chain is asked twice: the first answer would give away the second."""
        if len(shown) <= WATCHED and rng.random() < level.watch:
            return [watch(shown)]
        said = []
        for at in rng.permutation(len(chains) or len(shown))[:most].tolist():
            form = FORMS[rng.choice(len(FORMS), p=level.forms)]
            if chains and rng.random() < 0.75:
                steps = "steps" if form == "describe" else form
                said.append(ask_chain(rng, chains, at, steps, self.split))
                continue
            if chains:
                at = shown.index(chains[at][rng.integers(len(chains[at]))])
            said.append(ask_one(rng, shown, at, form, self.split))
        return said

    def _chains(
        self, rng: np.random.Generator, level: Level, clips: int
    ) -> tuple[int, list[list[Kept]]]:
        """Clips of each card of a deck, and some of its chains; of too long ones the ends."""
        fitting = [
            (deck, chains)
            for deck, chains in self.chained
            if room(level, deck, clips) >= 2 * min(deck.hops, level.hops)
        ]
        deck, chains = fitting[rng.integers(len(fitting))]
        long = min(deck.hops, level.hops)
        count = int(rng.integers(2, min(room(level, deck, clips) // long, len(chains)) + 1))
        order = rng.permutation(len(chains)).tolist()
        if rng.random() < level.hard:
            nearest = chains[order[0]][0]
            order.sort(key=lambda i: apart(chains[i][0], nearest))
        place = {card: i for i, card in enumerate(deck.cards)}
        ends = [chains[i][-long:] for i in order[:count]]
        return deck.parts, [[_kept(deck, place[card]) for card in one] for one in ends]

    def _seen(self, rng: np.random.Generator, level: Level, clips: int) -> np.ndarray:
        """int64 [rows, clips, k], ascending: tokens of each clip, as many as the level says."""
        shape = (level.rows, clips, self.tokens)
        if level.tokens is None:
            return np.broadcast_to(np.arange(self.tokens), shape).copy()
        some = rng.random(shape).argsort(-1)[..., : level.tokens]
        return np.sort(some, -1)

    def _asked(self, rng: np.random.Generator, turn: int, what: Turn, clips: int) -> str:
        """All words between what is known and the answer."""
        if turn:
            begin = "\n<|im_start|>user\n"
        else:  # with a newline as we ask, or without one as needles were published
            frames = clips * FRAMES
            told = VideoChatFlashProcessor.time_message(frames, range(frames)).strip()
            begin = ("", "\n", f"\n{told} ", f"\n{told} ")[rng.integers(4)]
        return f"{begin}{what.ask}<|im_end|>\n<|im_start|>assistant\n"


def _kept(deck: Deck, at: int) -> Kept:
    """A card of a deck."""
    return Kept(deck.cards[at], deck.first + at * deck.parts)


def _alike(decks: Sequence[Deck]) -> list[list[Kept]]:
    """The cards of decks that lie in one clip each, by shape and colour, where there are two."""
    found: dict[tuple[str, str], list[Kept]] = {}
    for deck in decks:
        for at, card in enumerate(deck.cards if deck.parts == 1 else ()):
            found.setdefault((card.shape, card.colour), []).append(_kept(deck, at))
    return [some for some in found.values() if len(some) > 1]


def room(level: Level, deck: Deck, clips: int) -> int:
    """For how many cards of the deck there is room among so many clips."""
    return min(level.cards, clips // deck.parts)


def _gaps(rng: np.random.Generator, goes_on: np.ndarray, skip: int) -> np.ndarray:
    """int64 [rows, clips + 1], not negative; each row adds up to something between 0 and skip.

    Args:
        goes_on: bool [rows, clips], clips that go on with a card: none is before these.
    """
    rows, clips = goes_on.shape
    total = (skip * rng.random((rows, 1))).astype(np.int64)
    cuts = np.sort((rng.random((rows, clips + 1)) * (total + 1)).astype(np.int64), axis=1)
    gaps = np.diff(cuts, axis=1, prepend=0)
    within = np.where(goes_on, gaps[:, :-1], 0)
    gaps[:, :-1] -= within
    gaps[:, 1:] += within
    return gaps


class Stream(IterableDataset):
    """Batches without end, of whatever level is on at the time, or of an earlier one.

    Args:
        level: int64 [1] in shared memory, so that workers see it change.
    """

    def __init__(
        self, drawer: Drawer, levels: Sequence[Level], level: Tensor, seed: int = 0
    ) -> None:
        self.drawer, self.levels, self.level, self.seed = drawer, levels, level, seed

    def __iter__(self) -> Iterator[Batch]:
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng([self.seed, info.id if info else 0])
        while True:
            number = int(self.level)
            if number > FOUND and rng.random() < self.levels[number].again:
                number = max(FOUND, number - int(rng.geometric(0.5)))
            yield self.drawer.batch(rng, self.levels[number], number)

    def loader(self, workers: int) -> DataLoader:
        """Batches drawn ahead by so many processes, 0 = by this one."""
        return made_ahead(self, workers, each=4)
