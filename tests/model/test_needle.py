"""Needles in worlds: where they stand, what they share, how answers are counted."""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from needle_helpers import small_model

from hico.model import DropoutSettings
from hico.model.needle import record as record_module
from hico.model.needle.answering import Answerer
from hico.model.needle.features import Haystack, Store, fingerprint
from hico.model.needle.grid import share_of
from hico.model.needle.haystacks import open_haystack
from hico.model.needle.placement import placed
from hico.model.needle.record import Record
from hico.model.needle.running import run_cells
from hico.model.needle.timing import Clock
from hico.model.needle.worlds import WorldTask

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
DROPS = [None, DropoutSettings.parse("2:0.5,4:0.25"), DropoutSettings.parse("2:0.3", "attention")]
SHORT = {"max_new_tokens": 3}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("features"), small_model()[0], Clock("cpu"))


def task_of(kind="needle", needles=2, depths=(0.0, 0.5, 1.0), **more):
    return WorldTask(kind, needles, depths if kind == "needle" else (), **more)


def hay_of(task, store):
    return open_haystack(task.haystack, task.haystack_seed, task.split, store)


def films_of(task, frames, store):
    (cells,) = task.groups([frames])
    return list(task.films(cells, hay_of(task, store), store))


@pytest.mark.parametrize("kind, frames", [("needle", 32), ("multihop", 36)])
def test_cached_features_are_those_of_the_drawn_video(kind, frames, store):
    task, other = (task_of(kind, hops=1, source=one) for one in ("features", "pixels"))
    (film, *_), (drawn, *_) = (films_of(one, frames, store) for one in (task, other))
    torch.testing.assert_close(film.features(), drawn.features(), atol=1e-5, rtol=1e-5)
    assert film.asks == drawn.asks
    assert torch.equal(film.pixels([8, 3])[1], film.pixels([3])[0])


def test_a_world_as_a_file(store):
    pytest.importorskip("av")
    (film, *_) = films_of(task_of(source="mp4"), 32, store)
    (drawn, *_) = films_of(task_of(), 32, store)
    features, others = film.features(), drawn.features()
    assert features.shape == others.shape and film.asks == drawn.asks
    assert 0 < (features - others).norm() < others.norm()


@pytest.mark.parametrize("frames", [32, 64, 400, 2000])
def test_first_needles_stand_at_their_depths(frames):
    task = task_of(needles=5)
    (cells,) = task.groups([frames])
    filled = []
    for number, asked in task.videos(frames):
        base = task.drawn(number, frames)
        world = placed(base, frames, {i: cell[1] for i, cell, _ in asked}, 3)
        starts = [one.start for one in world.placements]
        assert starts == sorted(set(starts)) and all(s % 4 == 0 for s in starts)
        assert 0 <= starts[0] and starts[-1] <= frames - 4
        for i, cell, place in asked:
            old, new = base.questions[i], world.questions[i]
            start = world.placements[new.needles[0]].start
            assert start == 4 * round(cell[1] * (frames // 4 - 1))
            for before, after in zip(old.needles + old.foils, new.needles + new.foils, strict=True):
                assert (before < 0) == (after < 0)
                if before >= 0:
                    assert base.placements[before].card == world.placements[after].card
            filled.append((cell, place))
    assert sorted(filled) == [(cell, place) for cell in cells for place in range(5)]


def test_both_questions_of_a_chain_are_about_its_last_card(store):
    for film in films_of(task_of("multihop", hops=2, needles=4), 64, store):
        for caption, detail in zip(film.asks[::2], film.asks[1::2], strict=True):
            assert (caption.kind, detail.kind) == ("caption", "qa")
            assert caption.needles == detail.needles and caption.number == detail.number
            assert len(caption.needles) == 2
            assert caption.text.split(" Locate")[0] == detail.text.split(" Locate")[0]
            assert "choose the captions" in caption.text and "answer the" in detail.text
            for ask in (caption, detail):
                (answer,) = ask.free[1]
                assert f"({ask.letter}) {answer}\n" in ask.text
                assert ask.steps[2].endswith(f", then {answer}")
            assert caption.steps[2].split(", then ")[:2] == detail.steps[2].split(", then ")[:2]
            assert caption.steps[2].split(", then ")[1] == caption.free[1][0]


@pytest.mark.parametrize(
    "dropout, prompt", [(DROPS[0], "ask"), (DROPS[1], "published"), (DROPS[2], "ask")]
)
def test_shared_prefill_equals_full_runs(dropout, prompt, store):
    model, processor = small_model()
    (film, *_) = films_of(task_of("multihop", hops=1), 32, store)
    answerer = Answerer(model, processor, dropout, prompt)
    session = answerer.open(film)
    assert len({ask.text for ask in film.asks}) == len(film.asks) == 2
    visual, found = film.features(), []
    for ask in film.asks:
        embedded = model.embed(ids_of(ask.text, processor, prompt), [visual])
        with answerer.dropout.use(model, [session._span]) as run, torch.no_grad():
            full = model(inputs_embeds=embedded.inputs_embeds, logits_to_keep=1).logits[0, -1]
            kept = list(run.kept)
        found.append(session.logits(ask.text))
        torch.testing.assert_close(found[-1], full, atol=1e-4, rtol=1e-4)
        assert found[-1].argmax() == full.argmax()
        assert all(torch.equal(a, b) for a, b in zip(session.kept, kept, strict=True))
        assert session.survivors(ask.needles) == by_hand(kept, embedded, session, ask.needles)
    out = model.generate(
        ids_of(ask.text, processor, prompt), visual_features=[visual],
        dropout=answerer.dropout, do_sample=False, **SHORT,
    )  # fmt: skip
    said = processor.tokenizer.decode(out[0], skip_special_tokens=True).strip()
    assert session.ask(ask.text, **SHORT) == said
    first = processor.tokenizer.decode([int(found[0].argmax())])
    assert session.letter(film.asks[0].text) == first


def ids_of(question, processor, prompt):
    """The whole prompt of a film of 32 frames, -200 included."""
    if prompt == "published":
        return processor.ids(processor.prompt(f"<image>{question}"))
    message = processor.time_message(32, range(32))
    return processor.ids(processor.prompt(question, (), message))


def by_hand(kept, embedded, session, needles):
    """Shares of needles' rows, followed one by one through the stages."""
    left, found = list(range(embedded.inputs_embeds.shape[1])), []
    for index in kept:
        left = [left[i] for i in index[0].tolist()]
        own = [{session._span[0] + start + i for i in range(64)} for start in needles]
        found.append([len(rows & set(left)) / 64 for rows in own])
    return found


class Rule:
    """An answerer that sees the truth of a film and answers by a rule."""

    def __init__(self, letter, words):
        self.clock, self.opened = Clock("cpu"), 0
        self._letter, self._words = letter, words

    def stages(self):
        return [{"layer": 2, "ratio": 0.5}]

    def open(self, film):
        self.opened += 1
        asks = {ask.text: ask for ask in film.asks}
        words = {ask.free[0]: ask.free[1][0] for ask in film.asks}
        words |= {ask.steps[0]: ask.steps[2] for ask in film.asks if ask.steps}
        return SimpleNamespace(
            letter=lambda text: self._letter(asks[text]),
            ask=lambda text, max_new_tokens: self._words(words[text]),
            survivors=lambda needles: [[1 / (1 + i) for i in range(len(needles))]],
        )

    def sampled(self, film, count):
        return self.open(film)

    def blind(self, text):
        return "A"

    def room(self, answer):
        return len(answer)


def run(task, answerer, frames, store, record=None, **more):
    record = record or Record(None, {}, {"run": "1"})
    run_cells(task, answerer, hay_of(task, store), store, record, frames, **more)
    return record


@pytest.mark.parametrize("kind, frames", [("needle", [32, 64]), ("multihop", [64])])
def test_a_perfect_and_a_stubborn_reader(kind, frames, store):
    task = task_of(kind, needles=8, hops=2)
    asks = [ask for n in frames for film in films_of(task, n, store) for ask in film.asks]
    perfect = run(task, Rule(lambda ask: ask.letter, str.upper), frames, store, baselines=8)
    no = Rule(lambda ask: "A", lambda words: "no")
    stubborn = run(task, no, frames, store, free=3, baselines=2)
    kinds = ["needle"] if kind == "needle" else ["caption", "qa"]
    for place, cell in perfect.cells.items():
        other = stubborn.cells[place]
        for one in kinds:
            own = [ask for ask in asks if ask.cell == place and ask.kind == one]
            share = sum(ask.letter == "A" for ask in own) / 8
            forms = ["letter", "free", *(["steps", "chain"] if kind == "multihop" else [])]
            assert all(cell[one][form]["score"] == 1 for form in forms)
            assert cell[one]["letter"]["outcomes"] == "1" * 8 == cell[one]["uniform_64"]["outcomes"]
            assert cell[one]["blind"]["score"] == other[one]["letter"]["score"] == share
            assert other[one]["free"]["outcomes"] == "000"
            assert {other[one][form]["count"] for form in ("blind", "single_frame")} == {2}
        hops = [1.0, 0.5][: 1 if kind == "needle" else 2]
        assert cell["survival"] == [{"layer": 2, "ratio": 0.5, "hops": hops}]
        if kind == "multihop":
            assert cell["pairs"]["both"] == 8 and cell["pairs"]["score"] == 1
    assert len(perfect.cells) == (6 if kind == "needle" else 1)


def test_a_run_goes_on_where_it_was(tmp_path, store):
    path, task = tmp_path / "found.json", task_of(needles=3)
    settings = task.settings()

    def go(frames, resume, answerer=None):
        record = Record(path, settings, {"run": str(resume)}, resume)
        answerer = answerer or Rule(lambda ask: ask.letter, str)
        run(task, answerer, frames, store, record)
        return answerer.opened, record

    assert go([32], False)[0] > 0
    before = path.read_text()

    class Broken(Rule):
        def open(self, film):
            if film.frames == 64 and self.opened == 2:
                raise KeyboardInterrupt
            return super().open(film)

    with pytest.raises(KeyboardInterrupt):
        go([32, 64], True, Broken(lambda ask: ask.letter, str))
    assert path.read_text() == before and list(tmp_path.iterdir()) == [path]
    opened, record = go([32, 64], True)
    assert opened == len(films_of(task, 64, store))
    assert [cell["run"] for cell in record.content()["cells"]] == ["False"] * 3 + ["True"] * 3
    assert go([32, 64], True)[0] == 0
    for other in ({"seed": 1}, {"extra": 1}):
        with pytest.raises(ValueError, match=f"others in {next(iter(other))}"):
            Record(path, settings | other, {}, True)
    whole, wrong = json.loads(path.read_text()), ["{", "[]", "{}"]
    cells = whole["cells"]
    odd = [{}, {"frames": 32, "depth": 0.0}, cells[0] | {"frames": "32"}, cells[0] | {"depth": []}]
    odd += [cells[0] | {"needle": {"letter": {}}}, 5]
    changes = [{"cells": [*cells[1:], cell]} for cell in odd] + [{"cells": {}}, {"settings": []}]
    changes.append({"cells": [cell | {"frames": "32"} for cell in cells]})
    for change in [*changes, {"runs": None}, {"runs": 5}]:
        wrong.append(json.dumps(whole | change))
    for text in wrong:
        path.write_text(text)
        with pytest.raises(ValueError, match="expected results of a needle test"):
            Record(path, settings, {}, True)


@pytest.mark.parametrize("kind, frames", [("needle", 64), ("multihop", 128)])
def test_what_is_begun_is_gone_on_with(kind, frames, tmp_path, store, monkeypatch):
    task = task_of(kind, needles=8, hops=2)
    films = films_of(task, frames, store)
    assert len(films) > 2
    right = iter([True, False, True] * 100)
    wanted = {id(ask): next(right) for film in films for ask in film.asks}
    known = {ask.text: wanted[id(ask)] for film in films for ask in film.asks}
    monkeypatch.setattr(record_module, "EACH", 0.0)

    def go(name, stop=None):
        class Ended(Rule):
            def open(self, film):
                if self.opened == stop:
                    raise KeyboardInterrupt
                return super().open(film)

        record = Record(tmp_path / name, task.settings(), {"run": "1"}, True)
        rule = Ended(lambda ask: ask.letter if known[ask.text] else "no", str)
        try:
            run(task, rule, [frames], store, record, free=3)
        except KeyboardInterrupt:
            assert not record.cells
        return rule.opened, json.loads((tmp_path / name).read_text())

    opened, whole = go("whole.json")
    assert opened == len(films) and "begun" not in whole
    _, part = go("part.json", stop=2)
    assert {one["films"] for one in part["begun"]} == {2} and not part["cells"]
    (tmp_path / "odd.json").write_text(json.dumps(part | {"begun": [{"frames": 64}]}))
    with pytest.raises(ValueError, match="expected results of a needle test"):
        Record(tmp_path / "odd.json", task.settings(), {}, True)
    left, found = go("part.json")
    assert left == len(films) - 2
    assert found["cells"] == whole["cells"] and "begun" not in found


def test_several_runs_share_a_file(tmp_path):
    path, share = tmp_path / "found.json", {"letter": share_of([True])}

    def go(run):
        record = Record(path, {"needles": 1}, {"run": str(run)}, resume=True)
        for depth in range(5):
            record.add([{"frames": run, "depth": depth / 4, "needle": share}], {"letter": run})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(go, range(8)))
    found = json.loads(path.read_text())
    places = [(cell["frames"], cell["run"]) for cell in found["cells"]]
    assert places == [(i // 5, str(i // 5)) for i in range(40)]
    seconds = {run["run"]: run["seconds"]["letter"] for run in found["runs"]}
    assert len(found["runs"]) == 8 and seconds == {str(run): run for run in range(8)}
    assert list(tmp_path.iterdir()) == [path]


def test_features_are_made_once(tmp_path):
    model, calls = small_model()[0], []

    def frames(numbers, size, device):
        calls.append(numbers.tolist())
        return numbers[:, None, None, None].expand(-1, size, size, 3).to(torch.uint8)

    def hay(*mode):
        return Haystack("grey", frames, Store(tmp_path, model, Clock("cpu"), *mode))

    first = hay()
    eight = first.clips(8)
    assert torch.equal(first.clips(3), eight[:3]) and torch.equal(hay().clips(8), eight)
    assert calls == [list(range(32))]
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(hay().clips(8), eight) and len(calls) == 2
    other = Haystack("grey", frames, Store(tmp_path, small_model(1)[0], Clock("cpu")))
    assert not torch.equal(other.clips(8), eight) and len(calls) == 3
    assert not torch.equal(hay("mean").clips(8), eight) and len(calls) == 4
    assert fingerprint(model) != fingerprint(small_model(1)[0])
    assert fingerprint(model) == fingerprint(model) != fingerprint(model, "lm_head.")
