"""bench quality: what methods see and drop, what is asked and written, and how a run goes on."""

import json
from types import SimpleNamespace

import pytest
import torch
from needle_helpers import small_model

from hico.bench import quality, quality_measure, quality_table
from hico.bench.quality_measure import Subject, measure
from hico.bench.quality_methods import (
    KINDS,
    PLAIN,
    Method,
    dropout_of,
    layer_average,
    methods_of,
    seen_share,
)
from hico.bench.quality_tally import Tally, row_of, tally_of
from hico.model.needle.answering import Answerer
from hico.model.needle.worlds import WorldTask

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
FOREVER = float("inf")


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    model, processor = small_model()
    return Subject("small", model, processor, tmp_path_factory.mktemp("cache"), "ask", 32, 40)


def task_of(kind="needle", needles=3):
    return WorldTask(kind, needles, (0.0, 0.5, 1.0) if kind == "needle" else (), hops=1)


def asks_of(subject, task, frames):
    hay = subject.haystack(task, "similarity")
    films = task.films(task.cells(frames), hay, hay.store)
    return [list(film.asks) for film in films]


def test_methods_have_names_of_their_own_and_share_what_is_the_same():
    every = [one for level in quality.LEVELS for one in methods_of(level, [1, 0.5, 0.02], [64])]
    assert len({one.name for one in every}) == len(set(every)) == len(every) - 1  # PLAIN
    assert [one.levels for one in every].count(("clip", "video")) == 2
    for level in quality.LEVELS:
        assert all(level in one.levels for one in methods_of(level, [0.5], [64]))


@pytest.mark.parametrize("keep", [1.0, 0.75, 0.25, 0.1, 0.02])
def test_kinds_leave_equal_numbers_in_every_layer(keep):
    model = small_model()[0]
    found = [dropout_of(model, Method(kind=kind, keep=keep), 7) for kind in KINDS]
    assert len({(one.layers, one.ratios, one.seed) for one in found}) == 1
    first, middle, last = found[0].ratios
    assert last == keep and first >= middle >= last
    assert middle == pytest.approx(1 - (1 - keep) / 3, abs=1e-6)  # its own are [1, .75, .25]
    assert [one.kind for one in found] == list(KINDS)


def test_layers_and_frames_are_counted():
    assert layer_average([100], [], 5) == 100
    assert layer_average([100, 50, 10], [1, 3], 5) == (100 + 50 + 50 + 10 + 10) / 5
    assert seen_share(torch.tensor([0, 2, 3, 9, 9]), [0, 1, 2]) == [0.75, 0, 0.25]


@pytest.mark.parametrize(
    "method, frames, wanted",
    [
        (PLAIN, 12, list(range(12))),
        (Method("none"), 8, list(range(8))),
        (Method("frames"), 32, [2, 6, 10, 14, 18, 22, 26, 30]),
        (Method(sample="adaptive"), 40, list(range(40))),
        (Method(sample="adaptive"), 80, list(range(0, 80, 2))),
        (Method(sample="8"), 64, [3, 11, 19, 27, 35, 43, 51, 59]),
        (Method(sample="8"), 4, [0, 1, 2, 3, 3, 3, 3, 3]),
    ],
)
def test_frames_that_are_looked_at(method, frames, wanted):
    assert method.frames(frames, 1.0, 256, 32, 40).tolist() == wanted


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_to_keep_all_is_to_drop_nothing(subject, kind):
    task = task_of()
    hay = subject.haystack(task, "similarity")
    film = next(task.films(task.cells(32), hay, hay.store))
    model, processor = subject.model, subject.processor
    whole = Answerer(model, processor).open(film)
    dropout = dropout_of(model, Method(kind=kind, keep=1.0))
    other = Answerer(model, processor, dropout).open(film)
    for ask in film.asks:
        torch.testing.assert_close(whole.logits(ask.text), other.logits(ask.text))
        assert other.survivors(ask.needles) == [[1.0]] * len(dropout.layers)


class Knowing:
    """An answerer that is right of every second question of a cell, whatever it is shown."""

    def __init__(self, model, processor, dropout, prompt):
        self.model, self.dropout = model, dropout or SimpleNamespace(layers=())

    def stages(self):
        return [{"layer": layer, "ratio": 0.5} for layer in self.dropout.layers]

    def watch(self, visual, film, frames):
        right = {ask.text: ask.letter if ask.number % 2 else "?" for ask in film.asks}
        left = [len(visual), *(1 for _ in self.dropout.layers)]
        return SimpleNamespace(
            letter=right.get,
            tokens=left,
            survivors=lambda needles, tokens: [[0.5] * len(needles) for _ in self.dropout.layers],
        )


@pytest.mark.parametrize("kind, frames", [("needle", 32), ("multihop", 64)])
@pytest.mark.parametrize("method", [PLAIN, Method("frames"), Method(kind="random", keep=0.25)])
def test_outcomes_stand_in_the_order_of_the_questions(subject, monkeypatch, kind, frames, method):
    monkeypatch.setattr(quality_measure, "Answerer", Knowing)
    task, tally, told = task_of(kind), Tally(), []
    measure(subject, task, frames, method, tally, FOREVER, told.append)
    films = asks_of(subject, task, frames)
    kinds = ["needle"] if kind == "needle" else ["caption", "qa"]
    for one in kinds:
        wanted = "".join("01"[ask.number % 2] for film in films for ask in film if ask.kind == one)
        assert tally.outcomes[one] == wanted and "1" in wanted
    assert tally.complete and told == [len(film) for film in films]
    row = row_of(tally, 5, 0.5)
    assert row["accuracy"] == sum(map(int, "".join(tally.outcomes.values()))) / row["questions"]
    assert row["survival"][0] == {
        "stage": "frames",
        "hops": [0.25 if method.clip == "frames" else 1],
    }
    assert [stage["hops"] for stage in row["survival"][1:]] == [[0.5]] * len(tally.layers)


def test_a_tally_goes_on_where_a_row_ended(subject, monkeypatch):
    monkeypatch.setattr(quality_measure, "Answerer", Knowing)
    task, method = task_of(needles=5), Method(kind="uniform", keep=0.5)
    whole, part = Tally(), Tally()
    measure(subject, task, 32, method, whole, FOREVER)
    stop = iter([FOREVER] * 2 + [0.0])

    class Until:
        """A time that comes with the third film."""

        __lt__ = lambda self, now: now > next(stop)  # noqa: E731

    measure(subject, task, 32, method, part, Until())
    assert part.films == 2 and not part.complete and whole.films > 3
    row = json.loads(json.dumps(row_of(part, 5, 0.5) | {"error": None}))
    again = tally_of(row)
    assert row_of(again, 5, 0.5) == row_of(part, 5, 0.5)
    measure(subject, task, 32, method, again, FOREVER)
    assert again.outcomes == whole.outcomes and again.complete
    assert len(again.watching) == whole.films == again.films
    assert again.survival == whole.survival
    assert tally_of(None) == tally_of({"error": "OutOfMemoryError"}) == Tally()


@pytest.mark.parametrize("clip, tokens", [("none", 256), ("frames", 256), ("mean", 64)])
def test_needles_are_followed_in_every_clip_mode(subject, clip, tokens):
    task, method = task_of(), Method(clip, kind=None if clip == "frames" else "uniform", keep=0.5)
    tally = Tally()
    measure(subject, task, 32, method, tally, FOREVER)
    hay, beside = subject.haystack(task, clip), asks_of(subject, task, 32)
    films = [film.asks for film in task.films(task.cells(32), hay, hay.store)]
    for own, other in zip(sum(films, ()), sum(beside, []), strict=True):
        assert own.text == other.text
        assert [at // tokens for at in own.needles] == [at // 64 for at in other.needles]
    clips = 2 if clip == "frames" else 8
    assert tally.tokens[0] == clips * tokens and tally.frames == 4 * clips
    if clip != "frames":
        left = [stage["hops"][0] / tally.count for stage in tally.survival]
        assert left[0] == 1 and left[1] == pytest.approx(5 / 6, abs=0.02)
        assert left[2] == pytest.approx(0.5, abs=0.02)


def row_like(model, method, outcomes, **settings):
    base = {"weights": model, "frames": 8, "method": method.settings()}
    return {
        "model": model, "case": "needle", "frames": 8, "provider": method.name, "error": None,
        "settings": base | settings, "outcomes": {"needle": outcomes}, "questions": len(outcomes),
    }  # fmt: skip


def test_rows_are_paired_question_by_question():
    mean = Method("mean")
    plain, other = row_like("a", PLAIN, "1100"), row_like("a", mean, "1010")
    seed = row_like("a", PLAIN, "0000", seed=1)
    twin = row_like("b", mean, "0111")
    rows = [seed, plain, other, twin]
    assert quality_table.reference_of(other, rows) is plain
    assert quality_table.reference_of(twin, rows) is None
    assert quality_table.twin_of(twin, rows) is other
    assert quality_table.pair(plain, other) == {"lost": 1, "gained": 1, "p": 1.0, "asked": 4}
    assert quality_table.paired_text(twin, other) == "-1 +2 of 4, p 1"
    none = row_like("a", Method("none"), "1110") | {"complete": True, "tokens": 9}
    drop = row_like("a", Method(kind="uniform0_attention", keep=0.25), "0011")
    drop |= {"complete": True, "tokens": 1, "tokens_a_layer": 1, "accuracy": 0.5}
    tuned = drop | row_like("c", Method(kind="uniform0_attention", keep=0.25), "0111")
    for told, end in zip(
        quality_table.both_levels([twin, none, other, drop, tuned]),
        ("-2 +1 of 4, p 1", "-1 +1 of 4, p 1"),
        strict=True,
    ):
        assert "uniform then attention 0.25: 50.0%" in told and told.endswith(end)
        assert "beside a without merge" in told
    renamed = row_like("a", PLAIN, "1111") | {"settings": plain["settings"] | {"weights": "new"}}
    assert quality_table.newest_models([*rows, renamed]) == [twin, renamed]


def test_what_does_not_fit_is_said(subject):
    assert subject.too_long(PLAIN, 1 << 20) is None
    assert subject.too_long(Method("none"), 32) is None
    assert "2,097,152 visual tokens" in subject.too_long(Method("none"), 1 << 15)
