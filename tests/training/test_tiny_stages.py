"""python -m hico.model.training.tiny: from nothing to a folder, and on from there."""

import json
from dataclasses import replace
from functools import partial
from random import Random

import pytest
import torch
from tiny_helpers import SMALL, invented_bank, small_model

from hico.model import VideoChatFlashForConditionalGeneration
from hico.model.load import load_model
from hico.model.training.tiny import __main__, command, easel, perceive, weights
from hico.model.training.tiny import bank as banks
from hico.model.training.tiny.align import align
from hico.model.training.tiny.bank import paint_bank
from hico.model.training.tiny.levels import LEVELS
from hico.model.training.tiny.reading import HEADS
from hico.model.training.tiny.weights import new_model, open_model, write_model
from hico.model.training.worlds.fonts import stroke_fonts


@pytest.fixture
def small(monkeypatch):
    """new_model, of hardly any size."""

    def make(seed=0, device=None, dtype=None):
        return new_model(seed, device, dtype, **SMALL)

    monkeypatch.setattr(command, "new_model", make)
    monkeypatch.setattr(perceive, "training_fonts", stroke_fonts)  # all take seconds to draw
    return make


def test_a_bank_is_what_the_model_sees(small):
    """A card painted alone and encoded by the model is its row of the bank."""
    model, _ = small()
    bank = paint_bank(model, worlds=6, hay=5, batch=16, varied=0.0)
    assert bank.features.shape == (bank.hay + 5, 64, 40)
    assert [deck.hops for deck in bank.decks] == [1, 2, 1, 3, 1, 3]
    assert [deck.parts for deck in bank.decks] == [1] * 4 + [2] * 2
    assert bank.hay == sum(len(deck.cards) * deck.parts for deck in bank.decks)
    world = banks.draw_worlds(2)[1]
    one = world.placements[3]
    frames = world.render(slice(one.start, one.start + 4), 32)
    with torch.no_grad():
        row = model.model.mm_projector.mlp(bank.features[bank.decks[1].first + 3])
    torch.testing.assert_close(row, model.encode_video(frames), atol=2e-3, rtol=2e-3)


def test_cards_across_clips_are_whole():
    worlds = banks.draw_worlds(24)
    decks = banks.decks_of(worlds)
    looks = banks.looks_of(worlds, decks, 0.5, stroke_fonts(), seed=0)
    alike = []
    for world, deck in zip(worlds, decks, strict=True):
        rows = looks[deck.first :][: deck.parts * len(deck.cards)]
        for i, one in enumerate(world.placements):
            clips = rows[deck.parts * i :][: deck.parts]
            shown = [side for clip in clips for side in clip.sides]
            late = shown.index(next(filter(None, shown)))
            if deck.parts == 2:
                part = shown[late : late + 4]
                assert 1 <= late <= 3 and shown == [*[""] * late, *part, *[""] * (4 - late)]
                if late == 2:  # one side a clip
                    assert sorted(part) == sorted(one.sides)
                    assert all(len({*clip.sides} - {""}) == 1 for clip in clips)
                else:
                    assert part == list(one.sides)
                assert clips[0]._replace(sides=()) == clips[1]._replace(sides=())
            assert clips[0].lesson.card == one.card
        styles, drawn = {look.style for look in rows}, {one.style for one in world.placements}
        alike.append(len(styles) == 1)
        if alike[-1]:
            assert len({look.lesson._replace(card=None) for look in rows}) == 1
            assert len({look.around for look in rows}) == 1 and rows[0].around is not None
            assert rows[0].varied == (not styles <= drawn)
        else:
            assert any(look.varied for look in rows) and styles & drawn
    assert 6 <= sum(alike) <= 18 and [deck.parts for deck in decks[:6]] == [1] * 4 + [2] * 2
    assert 0.3 < sum(look.varied for look in looks) / len(looks) < 0.7


def test_both_stages_and_on_from_weights(small, tmp_path, capsys, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    settings = {"batch": 4, "pool": 16, "painted": 8, "tested": 8, "every": 1}
    given = ["--device", "cpu", "--seconds"]
    assert not command.main(
        ["0a", *given, "0.5", "--out", str(first), "--workers", "0"]
        + ["--set", json.dumps(settings)]
    )
    record = json.loads((first / "curve-0a.jsonl").read_text().splitlines()[0])
    assert record["step"] == 1 and set(record["test"]) > set(HEADS)
    bank = invented_bank(4, 16, channels=40)
    monkeypatch.setattr(command, "paint_bank", lambda *_, **__: bank)
    monkeypatch.setattr(command, "LEVELS", [replace(one, rows=2, right=0.0) for one in LEVELS])
    monkeypatch.setattr(command, "align", partial(align, steps=2, batch=8))
    quick = json.dumps({"every": 1, "warm": 1})
    found = [*given, "1", "--from", str(first), "--out", str(second), "--set", quick]
    found += ["--workers", "0", "--tested", "4", "--level", "1", "--until"]
    assert not command.main(["0b", *found, "1"])
    curve = [json.loads(x) for x in (second / "curve-0b.jsonl").read_text().splitlines()]
    assert curve[0]["align"] < 8 and curve[1]["step"] == 2
    assert [x["tested"] for x in curve if "tested" in x] == [0, 1]
    _, _, notes = open_model(second, "cpu")
    assert notes["level"] == 1 and [run["stage"] for run in notes["runs"]] == ["0a", "0b"]
    before, _ = load_model(first, "cpu")
    after, processor = load_model(second, "cpu")
    assert isinstance(after, VideoChatFlashForConditionalGeneration)
    assert all(map(torch.equal, before.encoder.parameters(), after.encoder.parameters()))
    both = zip(before.model.layers.parameters(), after.model.layers.parameters(), strict=True)
    assert not any(torch.equal(*pair) for pair in both if pair[0].ndim > 1)
    answer = after.ask(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), "What?", processor)
    assert isinstance(answer, str)
    assert not list(second.glob(".*")) and not (second / command.SO_FAR).exists()
    kept = [(folder / command.HEADS).read_bytes() for folder in (first, second)]
    assert kept[0] == kept[1]  # stage 0a may go on from there
    (second / "training.json").unlink()  # as what ships: nothing is learned anew
    assert not command.main(
        ["0b", *found, "1", "--from", str(second), "--out", str(tmp_path / "c")]
    )
    assert "align" not in (tmp_path / "c" / "curve-0b.jsonl").read_text()
    with pytest.raises(ValueError, match="--until: expected 0 to 11, got 12"):
        command.main(["0b", *found, "12"])
    capsys.readouterr()


def test_what_was_learned_is_there_if_a_run_is_ended(small, tmp_path, capsys, monkeypatch):
    write_model(*small(), tmp_path / "a", {"level": 1})
    (tmp_path / "a" / command.HEADS).write_bytes(b"heads")
    monkeypatch.setattr(command, "paint_bank", lambda *_, **__: invented_bank(4, 16, channels=40))
    monkeypatch.setattr(command, "EACH", 0)
    given = ["0b", "--device", "cpu", "--seconds", "60", "--from", str(tmp_path / "a")]
    given += ["--workers", "0", "--set", json.dumps({"every": 1, "warm": 1, "steps": 2})]
    real, written = command.write_model, []

    def ended(*args):
        written.append(args[2])
        if len(written) == 2:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(command, "write_model", ended)
    with pytest.raises(KeyboardInterrupt):
        command.main([*given, "--out", str(tmp_path / "b")])
    model, _, notes = open_model(tmp_path / "b" / command.SO_FAR, "cpu")
    assert (tmp_path / "b" / command.SO_FAR / command.HEADS).read_bytes() == b"heads"
    begun, _ = load_model(tmp_path / "a", "cpu")
    assert notes == {"level": 1} and not (tmp_path / "b" / "model.safetensors").exists()
    assert not torch.equal(model.get_input_embeddings().weight, begun.get_input_embeddings().weight)
    monkeypatch.setattr(command, "write_model", real)
    on = [*given[:-1], '{"every": 100, "steps": 2}', "--out", str(tmp_path / "b")]
    assert not command.main([*on, "--from", str(tmp_path / "b" / command.SO_FAR)])
    assert (tmp_path / "b" / command.HEADS).read_bytes() == b"heads"
    assert open_model(tmp_path / "b", "cpu")[2]["level"] == 1
    capsys.readouterr()


def test_a_run_too_short_for_a_record_has_a_level(small, tmp_path, capsys, monkeypatch):
    """And heads, where it began with the encoder at hand: stage 0a may go on from there."""
    monkeypatch.setattr(command, "paint_bank", lambda *_, **__: invented_bank(4, 16, channels=40))
    monkeypatch.setattr(command, "align", partial(align, steps=2, batch=8))
    monkeypatch.setattr(command, "take_reader", lambda model: None)
    given = ["0b", "--device", "cpu", "--seconds", "60", "--workers", "0", "--set", '{"steps": 2}']
    assert not command.main([*given, "--out", str(tmp_path / "a")])
    assert (tmp_path / "a" / command.HEADS).read_bytes() == weights.READING.read_bytes()
    assert open_model(tmp_path / "a", "cpu")[2]["level"] == 0
    on = ["--from", str(tmp_path / "a"), "--out", str(tmp_path / "b")]
    assert '"align"' in capsys.readouterr().out and not command.main([*given, *on])
    assert not (tmp_path / "b" / "curve-0b.jsonl").exists()


def test_weights_too_large_are_not_written(monkeypatch, tmp_path, small):
    monkeypatch.setattr(weights, "LARGEST", 1000)
    with pytest.raises(ValueError, match="at most 1000 bytes"):
        write_model(*small(), tmp_path, {})
    assert not (tmp_path / "model.safetensors").exists()


def test_the_encoder_at_hand_reads_what_training_never_shows():
    """Fonts, layouts and combinations of the split "test"; each of 64 tokens tells it all."""
    whole, _ = new_model()
    heads, fonts = weights.take_reader(whole), stroke_fonts()
    drawn = easel.draft(Random(7), 32, 4, "test", fonts)
    seen = easel.Easel(whole.encoder, fonts)(drawn, torch.zeros(32, 4, 224, 224, 3).byte())
    found = perceive.Reader(whole, heads).examined(seen)
    told = {name: found[name] for name in HEADS}
    assert min(told.values()) > 0.95 and sum(told.values()) / len(told) > 0.985, told


def test_the_whole_model_fits():
    model = small_model()
    assert model.config.rope_parameters["rope_theta"] == 1e9
    whole, processor = new_model()
    assert 2 * sum(p.numel() for p in whole.parameters()) < weights.LARGEST - (1 << 16)
    assert len(processor.tokenizer) == whole.config.vocab_size
    again, _ = new_model()
    assert all(map(torch.equal, whole.parameters(), again.parameters()))


@pytest.mark.parametrize(
    "words, said",
    [
        ("0a --seconds 0", "--seconds: expected more than 0, got 0.0"),
        ("0b --seconds nan", "--seconds: expected more than 0, got nan"),
        ("1", "--seconds: expected more than 0, got None"),
        ("0b --seconds 1 --level -1", "--level: expected 0 or more, got -1"),
        ("0b --seconds 1 --level 12", "--level: expected 0 to 11, got 12"),
        ("0b --seconds 1 --level 5 --until 4", "--level: expected at most --until 4, got 5"),
        ("0b --seconds 1 --tested -1", "--tested: expected 0 or more, got -1"),
        ("0b --seconds 1 --peak nan", "--peak: expected more than 0, got nan"),
        ('0a --seconds 1 --set {"rows":1}', "--set: expected some of frames, batch, reuse"),
        ('0b --seconds 1 --set {"level":1}', "--set: expected some of peak, warm"),
        ("0b --seconds 1 --set 5", "argument --set: expected a JSON object, got 5"),
        ("0b --seconds 1 --from nowhere", "nowhere: expected a folder of a model"),
        (f"0b --seconds 1 --out {__file__}", f"--out: expected a folder, got the file {__file__}"),
        (f"all --out {__file__}", f"--out: expected a folder, got the file {__file__}"),
        ("1 --seconds 1", "--from: expected a folder of the stage before 1, got none"),
    ],
)
def test_clear_errors_before_any_work(words, said, tmp_path, monkeypatch, capsys):
    """In one line each, and nothing is painted or written."""
    monkeypatch.setattr(command, "paint_bank", None)
    out = [] if "--out" in words else ["--out", str(tmp_path / "a")]
    monkeypatch.setattr("sys.argv", ["tiny", *words.split(), *out])
    try:
        assert __main__.run() == 2
    except SystemExit as ended:  # argparse's
        assert ended.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())


def test_weights_are_written_last(small, tmp_path, monkeypatch):
    """`all` takes a folder with weights for a run that is done."""
    real, names = weights.os.replace, []

    def replace_one(source, target):
        names.append(target.name)
        real(source, target)

    monkeypatch.setattr(weights.os, "replace", replace_one)
    write_model(*small(), tmp_path / "a", {})
    moved = [name for name in names if (tmp_path / "a" / name).is_file()]
    assert moved[-1] == "model.safetensors" and {"config.json", "training.json"} < set(moved)


def test_models_that_would_not_be_written_are_not_trained(small, tmp_path, monkeypatch):
    write_model(*small(), tmp_path / "a", {})
    monkeypatch.setattr(weights, "LARGEST", 1000)
    monkeypatch.setattr(command, "paint_bank", None)
    for stage in ("0b", "2"):
        words = [stage, "--seconds", "1", "--from", str(tmp_path / "a"), "--device", "cpu"]
        with pytest.raises(ValueError, match="at most 1000 bytes"):
            command.main([*words, "--out", str(tmp_path / "b")])
    assert not (tmp_path / "b").exists()
