"""Worlds on their way out: drawn, as samples, as files, by the command line."""

import json
from itertools import pairwise

import pytest
import torch
from data_helpers import merging_tokenizer

from hico.cli import main
from hico.model import VideoChatFlashProcessor
from hico.model._pixels import normalize
from hico.model.training.collator import Collator
from hico.model.training.dataset import DataOptions, VideoChatDataset
from hico.model.training.sources import load_sources
from hico.model.training.worlds import make_world, write
from hico.model.training.worlds.dataset import WorldDataset
from hico.model.training.worlds.spec import DESCRIBE, FORMS, WorldSpec
from hico.model.video import open_video

SIZE = 64
OPTIONS = DataOptions(min_frames=32, max_frames=64)


@pytest.fixture(scope="module")
def processor():
    return VideoChatFlashProcessor(merging_tokenizer(), image_size=SIZE)


@pytest.fixture(scope="module")
def spec():
    return WorldSpec("needle", seed=4, frames=64, count=2, questions=2, split="test")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, spec):
    pytest.importorskip("av")
    path = tmp_path_factory.mktemp("worlds") / "new"
    write.write_worlds(spec, path, SIZE)
    return path


def test_frames_do_not_depend_on_how_they_are_asked_for():
    world = make_world("multihop", 2, 48, density=1.0)
    whole = world.all_frames(32)
    assert whole.shape == (48, 32, 32, 3) and whole.dtype == torch.uint8
    some = [47, 3, world.placements[2].start + 1, 3, 40]
    assert torch.equal(world.render(some, 32), whole[some])
    assert torch.equal(world.render(torch.tensor(some), 32), whole[some])
    assert torch.equal(torch.cat(list(world.stream(32, chunk=37))), whole)
    assert world.render([], 32).shape == (0, 32, 32, 3)
    for wrong in ([48], [-1]):
        with pytest.raises(ValueError, match="indices: expected 0 to 47"):
            world.render(wrong, 32)


def test_a_card_is_on_its_four_frames_and_the_haystack_goes_on_behind_it():
    world = make_world("needle", 2, 64)
    assert sum(world.shown >= 0) == 4 * len(world.placements)
    for i, placed in enumerate(world.placements):
        assert (world.shown[placed.start : placed.start + 4] == i).all()
    hay = world.hay[world.shown < 0]
    assert hay.tolist() == list(range(len(hay)))


def test_unknown_haystack():
    world = make_world("needle", 1, 64, haystack="nowhere")
    with pytest.raises(ValueError, match="haystack: expected .* got 'nowhere'"):
        world.render(slice(0, 64), 16)


def test_the_shipped_video_as_haystack():
    pytest.importorskip("av")
    world = make_world("needle", 1, 64, haystack="shipped")
    assert not torch.equal(world.all_frames(16), make_world("needle", 1, 64).all_frames(16))


def test_written_videos_are_what_is_drawn(spec, folder):
    for number in range(spec.count):
        drawn = spec.make(number).all_frames(SIZE)
        with open_video(folder / "videos" / f"needle_test_4_{number:05d}.mp4") as video:
            assert (video.frames, video.fps, video.duration) == (64, 1.0, 64.0)
            read = video.read(list(range(64)), SIZE)
        error = (read.float() - drawn.float()).abs().mean((1, 2, 3))
        other = (read.float() - drawn.roll(1, 0).float()).abs().mean((1, 2, 3))
        # colours are halved in both directions: at 64 pixels that shows
        assert error.mean() < 8 and error.max() < 16
        assert (error < other).float().mean() > 0.95


def test_rows_have_the_published_keys_and_what_else_is_known(spec, folder):
    rows = [json.loads(line) for line in (folder / "questions.jsonl").read_text().splitlines()]
    worlds = [spec.make(number) for number in range(spec.count)]
    assert len(rows) == sum(len(world.questions) for world in worlds)
    for row in rows:
        world = worlds[row["number"]]
        question = next(q for q in world.questions if q.text in row["conversations"][0]["value"])
        assert (folder / "videos" / row["video"]).is_file()
        assert [turn["from"] for turn in row["conversations"]] == ["human", "gpt"]
        assert row["conversations"][1]["value"] == row["answer"] == question.letter
        assert row["options"]["ABCD".index(row["answer"])] == row["free_answer"]
        start = world.placements[question.needles[0]].start
        assert row["needle_frames"] == [[start, start + 3]] and row["hops"] == 1


def test_training_reads_what_was_written_as_it_reads_what_is_drawn(spec, folder, processor):
    rows = load_sources(folder / "data.yaml").rows
    written = VideoChatDataset(rows, processor, OPTIONS)
    drawn = WorldDataset(WorldSpec.of({**vars(spec), "questions": 1}), processor, OPTIONS)
    first, again = written[0], drawn[0]
    assert first["input_ids"].tolist() == again["input_ids"].tolist()
    assert first["labels"].tolist() == again["labels"].tolist()
    assert first["modalities"] == again["modalities"] == ["video"]
    a, b = first["pixel_values_videos"][0], again["pixel_values_videos"][0]
    assert a.shape == b.shape == (64, 3, SIZE, SIZE) and (a - b).abs().mean() < 0.2


@pytest.mark.parametrize("sampling", ["dynamic_fps1", "middle"])
def test_training_leaves_no_frame_of_a_written_world_out(folder, processor, sampling):
    """Whatever the stage's frames are: of 64 a stage of 16 would show one side of a card."""
    rows = load_sources(folder / "data.yaml").rows
    assert all(row.whole for row in rows)
    few = DataOptions(min_frames=4, max_frames=16, sampling=sampling)
    data = VideoChatDataset(rows, processor, few)
    sample = data[0]
    assert len(sample["pixel_values_videos"][0]) == 64
    taken = 16 * 64 + len(sample["input_ids"]) - 1
    assert 16 * 64 < data.lengths[0] and abs(data.lengths[0] - taken) < 0.15 * taken
    small = VideoChatDataset(rows, processor, DataOptions(max_length=512))
    with pytest.raises(ValueError, match="max_length: expected all 64 frames of .*mp4 within 512"):
        small.lengths  # noqa: B018


def test_who_reads_the_yaml_is_told_to_see_every_frame(folder):
    assert "Every frame has to be seen" in (folder / "data.yaml").read_text()


@pytest.mark.parametrize("form", FORMS)
def test_rows_say_what_the_form_says(form):
    spec = WorldSpec("needle", frames=64, questions=2, form=form)
    for number in range(8):
        world = spec.make(number)
        rows = write.rows_of(spec, number, world, "a.mp4")
        said = [tuple(turn["value"] for turn in row["conversations"]) for row in rows]
        assert [(f"<image>\n{ask}", answer) for ask, answer in spec.said(number, world)] == said
        if form == "describe":
            assert said == [(f"<image>\n{DESCRIBE}", world.description())]
            assert "answer" not in rows[0]
        if form in ("free", "steps"):
            assert not any("Options" in ask for ask, _ in said)
            answers = [row["conversations"][1]["value"] for row in rows]
            assert answers == [row["free_answer"] for row in rows]
        if form == "options":
            assert [row["answer"] for row in rows] == [answer for _, answer in said]


def test_a_world_that_does_not_fit_is_refused_before_any_is_drawn(processor, monkeypatch):
    entry = {"world": "needle", "frames": [64, 128], "questions": 3, "form": "mixed", "count": 40}
    whole = WorldDataset(entry, processor)
    monkeypatch.setattr(write.World, "render", None)
    texts = [len(whole._sample(*whole.spec.longest(i))["input_ids"]) - 1 for i in range(8)]
    most = 16 * 128 + max(texts)
    WorldDataset(entry, processor, DataOptions(max_length=most))
    for length, told in ((most - 1, "all answers of 3 questions within"), (2047, "all that is")):
        with pytest.raises(ValueError, match=f"max_length: expected .*{told}"):
            WorldDataset(entry, processor, DataOptions(max_length=length))


def test_a_text_longer_than_those_of_the_first_worlds_is_not_cut(processor):
    data = WorldDataset({"world": "needle", "frames": 64, "count": 1}, processor)
    data._fit.max_length = 16 * 64 + len(data._sample(*data.spec.longest(0))["input_ids"]) - 2
    with pytest.raises(ValueError, match="max_length: expected 64 frames and all answers"):
        data[0]


def test_samples(processor):
    entry = {"world": "multihop", "frames": [64, 80], "count": 3, "questions": 2, "hops": 2}
    entry |= {"density": 1.0}
    data = WorldDataset(entry, processor, OPTIONS)
    assert len(data) == 3 and data.modalities == ["visual"] * 3
    samples = [data[i] for i in range(3)]
    for i, sample in enumerate(samples):
        world = data.world(i)
        assert torch.equal(sample["pixel_values_videos"][0], normalize(world.all_frames(SIZE)))
        said = processor.tokenizer.decode(sample["labels"][sample["labels"] >= 0])
        for question in world.questions:
            assert f"assistant\n{question.letter}" in said
        taken = 16 * world.frames + len(sample["input_ids"]) - 1
        assert abs(data.lengths[i] - taken) < 0.15 * taken
    batch = Collator(pad_id=0, max_length=4096)(samples)
    assert batch["modalities"] == ["video"] * 3
    assert torch.equal(data[-1]["input_ids"], samples[2]["input_ids"])
    with pytest.raises(IndexError):
        data[3]
    data.set_epoch(1)
    assert data.world(0) not in [data.spec.make(i) for i in range(3)]
    assert data.world(0) == data.spec.make(3)


def test_conversations_alternate_and_show_the_video_once(processor):
    data = WorldDataset({"world": "needle", "questions": 4, "form": "mixed"}, processor)
    for i in range(5):
        turns = data.turns(i)
        assert len(turns) == 8 and sum("<image>" in text for _, text in turns) == 1
        assert all(a[0] != b[0] for a, b in pairwise(turns))


def test_descriptions_for_the_first_stage(processor):
    entry = {"world": "needle", "frames": 8, "cards": 2, "density": 1.0, "form": "describe"}
    data = WorldDataset(entry, processor, DataOptions(template="plain"))
    sample, cards = data[0], [p.card for p in data.world(0).placements]
    said = processor.tokenizer.decode(sample["labels"][sample["labels"] >= 0])
    assert said.count(";") == 1 and all(c.word in said and c.number in said for c in cards)
    with pytest.raises(ValueError, match="questions: expected 1"):
        WorldDataset({**entry, "questions": 2}, processor, DataOptions(template="plain"))


def test_command(tmp_path, capsys):
    pytest.importorskip("av")
    words = ["world", "multihop", "--frames", "96", "--count", "1", "--size", "32", "--hops", "2:3"]
    words += ["-o", str(tmp_path / "out"), "--preview", str(tmp_path / "some.png")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "1 videos, 1 questions" in said and "reads all 96 of a video, 1,536 tokens" in said
    assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")
    names = sorted(path.name for path in (tmp_path / "out").rglob("*"))
    assert names == ["data.yaml", "multihop_train_0_00000.mp4", "questions.jsonl", "videos"]
    assert main(words) == 2
    assert "expected a folder without worlds" in capsys.readouterr().err


@pytest.mark.parametrize("size", [15, 33, 8])
def test_sizes_that_no_video_has(tmp_path, spec, size):
    with pytest.raises(ValueError, match="size: expected an even"):
        write.write_worlds(spec, tmp_path, size)
    assert not list(tmp_path.iterdir())


def test_nothing_half_written_is_left(tmp_path, spec, monkeypatch):
    pytest.importorskip("av")
    drawn = write.World.stream

    def breaks(world, *args, **kwargs):
        yield next(drawn(world, *args, **kwargs))
        raise OSError("disk full")

    monkeypatch.setattr(write.World, "stream", breaks)
    other = tmp_path / "old" / "videos" / "mine.mp4"
    other.parent.mkdir(parents=True)
    other.touch()
    for folder in (tmp_path, tmp_path / "some" / "new", tmp_path / "old"):
        with pytest.raises(OSError, match="disk full"):
            write.write_worlds(spec, folder, 32)
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "old", other.parent, other]


def test_what_was_written_before_an_error_is_removed(tmp_path, spec, monkeypatch):
    pytest.importorskip("av")
    wrote = write.write_video

    def breaks(path, *args):
        if "00001" in path.name:
            raise ValueError("damaged haystack")
        wrote(path, *args)

    monkeypatch.setattr(write, "write_video", breaks)
    with pytest.raises(ValueError, match="damaged haystack"):
        write.write_worlds(spec, tmp_path / "new", 32)
    assert not list(tmp_path.iterdir())
