"""The levels of stage 0b: what videos and questions they have, from one card to 10,000 frames."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Level:
    """How hard it is.

    Attributes:
        cards: at most so many; clips: of a video, at least half as many, cards included.
        hops: of the longest chains.
        hard: share of the videos whose cards are neighbours of each other.
        lined: share of the videos without chains whose cards are of all decks, in lines that
            differ in their words alone.
        rows: videos of a batch; turns: questions of each, at most one a card or chain.
        tokens: of each clip so many are there, any of them, where they would be if all were; None
            = all. How much of a video is card stays the same, and there is less to compute.
        skip: positions that gaps between clips add, at most.
        thin: share of the batches in which visual tokens are dropped that no question has a say in.
        drop: share of those in which all are dropped as in inference; these have few questions.
        again: share of the batches that are of an earlier level, of those where cards are found:
            half of these of the one before, a quarter of the one before that, and so on.
        chained: share of the videos with chains, from two hops on.
        watch: share of the videos of few cards in which all of them are to be told.
        choose: questions behind the others whose letter follows from their words alone.
        forms: shares of options, both, free and describe (steps, for chains), see Turn.
        right: share of the last answers that leads to the next level.
    """

    cards: int
    clips: int
    hops: int = 1
    hard: float = 0.0
    lined: float = 0.0
    rows: int = 32
    turns: int = 16
    tokens: int | None = None
    skip: int = 0
    thin: float = 0.0
    drop: float = 0.0
    again: float = 0.0
    chained: float = 0.6
    watch: float = 0.2
    choose: int = 0
    forms: tuple[float, float, float, float] = (0.35, 0.15, 0.25, 0.25)
    right: float = 0.9


TOLD = (0.0, 0.0, 0.5, 0.5)  # nothing but what is on cards: an option is one more thing to learn
SOME = 16  # of a clip's 64 tokens, each of which tells all that is on the card
ASKED = (0.45, 0.1, 0.3, 0.15)  # letters, and what is still wrong: neighbours, and the third hop
FAR = Level(40, 64, 3, rows=64, tokens=SOME, hard=0.75, chained=0.8, again=0.2, forms=ASKED)
LETTERS = (0.6, 0.05, 0.2, 0.15)
# chains are followed by then; what is still wrong, in short videos as in long ones, is one card
# taken for another one of its shape and colour, and more often in letters than in words
LONG = replace(
    FAR,
    clips=2500,
    rows=2,
    turns=40,
    lined=0.6,
    thin=0.7,
    drop=0.2,
    again=0.5,
    chained=0.35,
    forms=LETTERS,
)
LEVELS = (
    # of all on a card nothing wrong, and letters found by their texts
    Level(1, 2, rows=256, tokens=SOME, watch=1.0, choose=4, right=0.8),
    # of one or two cards finding is learned far later than of two to four
    Level(4, 6, rows=96, tokens=SOME, watch=0.05, choose=1, forms=TOLD),
    Level(8, 16, rows=64, tokens=SOME, hard=0.6),
    Level(16, 32, rows=32, tokens=SOME, hard=0.6, again=0.2),
    Level(16, 32, 2, rows=32, tokens=SOME, hard=0.5, again=0.2),
    # of two hops or less 96% are right before a third one is found at all
    replace(FAR, cards=24, clips=40, chained=0.9, right=0.93),
    # only now, when cards are found: gaps from the start keep finding from being learned
    replace(FAR, skip=4_000, thin=0.3, drop=0.3),
    replace(FAR, clips=128, rows=48, skip=40_000, thin=0.3, drop=0.4, again=0.3),
    replace(LONG, clips=256, rows=24, skip=170_000, thin=0.3, again=0.3),
    replace(LONG, clips=800, rows=8, skip=170_000),
    LONG,
    replace(LONG, rows=1, tokens=None, again=0.6),
)
