"""Rows as samples: frames, images, text, and what happens to rows that turn out bad."""

import logging

import pytest
import torch
from data_helpers import merging_tokenizer, write_data
from model_helpers import official, published_state, random_parts, write_folder
from torch.utils.data import DataLoader
from video_helpers import draw, make, read_bars, save

from hico.model import VideoChatFlashForConditionalGeneration, VideoChatFlashProcessor
from hico.model._pixels import MEAN, STD, normalize
from hico.model.training.annotations import BadRowError, Row, read_rows
from hico.model.training.collator import Collator, visual_counts
from hico.model.training.dataset import DataOptions, VideoChatDataset
from hico.model.training.fitting import Fit
from hico.model.training.templates import encode
from hico.model.video import frame_indices, open_video, read_image
from hico.model.vision import image_tiles, square_image, tile_grid

pytest.importorskip("av")
SIZE = 64
OPTIONS = DataOptions(min_frames=8, max_frames=16)
TURNS = (("human", "<image>\nWhat?"), ("gpt", "It."))


@pytest.fixture(scope="module")
def processor():
    return VideoChatFlashProcessor(merging_tokenizer(), image_size=SIZE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_data(path)
    return path


@pytest.fixture(scope="module")
def samples(folder, processor):
    rows, bad = read_rows(folder / "a.json", str(folder))
    assert not bad
    dataset = VideoChatDataset(rows, processor, OPTIONS)
    return [dataset[i] for i in range(len(rows))]


def numbers(pixels):
    """What the bar codes say of normalised float32 [T, 3, S, S]."""
    mean, std = (torch.tensor(c)[:, None, None] for c in (MEAN, STD))
    return [read_bars(frame) for frame in ((pixels * std + mean) * 255).permute(0, 2, 3, 1)]


def words(processor, sample):
    ids = ["<image>" if i == -200 else processor.decode([i]) for i in sample["input_ids"]]
    return "".join(ids).split("user\n")[1].split("<|im_end|>")[0]


def message(seconds, frames):
    return f"The video lasts for {seconds} seconds, and {frames} frames are uniformly sampled from"


def one(processor, options=OPTIONS, on_bad="raise", **fields):
    """The dataset of one row."""
    return VideoChatDataset([Row("a.json", 4, TURNS, **fields)], processor, options, on_bad)


def test_a_whole_video(folder, processor):
    """Ten frames of a second: all of them, and the last again where its clip is not full."""
    data = one(processor, video=str(folder / "b.gif"), whole=True)
    pixels = data[0]["pixel_values_videos"][0]
    with open_video(folder / "b.gif") as video:
        assert torch.equal(pixels, normalize(video.read([*range(10), 9, 9], SIZE)))


def test_a_video(folder, processor, samples):
    pixels = samples[0]["pixel_values_videos"][0]
    with open_video(folder / "a.mp4") as video:
        # two seconds of 60 frames: eight of them, each in the middle of its part
        assert torch.equal(pixels, normalize(video.read([3, 10, 18, 25, 33, 40, 48, 55], SIZE)))
    assert samples[0]["modalities"] == ["video"] and samples[0]["image_grids"] == [None]
    assert words(processor, samples[0]) == f"<image>\n{message('2.00', 8)} it. \nWhat is it?"
    assert pixels.dtype == torch.float32


def test_other_readers(processor, samples):
    gif, shots, fake = (samples[i] for i in (1, 2, 6))
    assert numbers(gif["pixel_values_videos"][0]) == [0, 1, 2, 3, 5, 6, 7, 8]
    assert words(processor, gif) == f"<image>\n{message('10.00', 8)} it. \nWhat?"
    # pictures 2 to 15 of 00000.png, 00001.png and so on, first and last among them
    assert numbers(shots["pixel_values_videos"][0]) == [2 + round(13 / 11 * i) for i in range(12)]
    assert message("13.00", 12) in words(processor, shots)
    assert fake["pixel_values_videos"][0].shape == (16, 3, SIZE, SIZE)
    assert message("100.00", 16) in words(processor, fake)


def test_images_and_text(folder, processor, samples):
    image = read_image(folder / "d.png")
    one, several, text = samples[3:6]
    assert torch.equal(one["pixel_values_videos"][0], normalize(image_tiles(image, SIZE)))
    assert one["image_grids"] == [tile_grid(90, 200, SIZE)] and one["modalities"] == ["image"]
    assert words(processor, one) == "<image>\nWhat is it?"
    assert several["modalities"] == ["image"] * 2 and several["image_grids"] == [None] * 2
    square = normalize(square_image(image, SIZE))[None]
    assert torch.equal(several["pixel_values_videos"][1], square)
    assert words(processor, several) == "<image> or <image>?"
    assert [text[name] for name in ("pixel_values_videos", "modalities", "image_grids")] == [[]] * 3
    small = VideoChatDataset([Row("", 0, TURNS, (str(folder / "c.png"),))], processor)[0]
    assert small["pixel_values_videos"][0].shape == (1, 3, SIZE, SIZE)  # and not twice the same
    flat = DataOptions(image_mode="square", template="plain")
    row = Row("", 0, TURNS, (str(folder / "d.png"),))
    assert VideoChatDataset([row], processor, flat)[0]["pixel_values_videos"][0].shape[0] == 1


def test_a_part_of_a_video(folder, processor):
    def shown(**changed):
        sample = one(processor, video=str(folder / "a.mp4"), **changed)[0]
        return numbers(sample["pixel_values_videos"][0]), words(processor, sample)

    found, told = shown(start=1.0, end=1.5)
    assert found == [30 + int(i) for i in frame_indices(15, 30.0, 8, 16, 4)]
    assert message("0.50", 8) in told
    assert shown(start=0.5)[0][0] >= 15 and shown(end=0.5)[0][-1] < 15
    # an end behind the video's is cut off, as published
    assert message("0.90", 8) in shown(start=1.0, end=60.0)[1]


def test_the_same_again(folder, processor, samples):
    """As published it was not: a second try told the model twice how long the video is."""
    rows, _ = read_rows(folder / "a.json", str(folder))
    dataset = VideoChatDataset(rows, processor, OPTIONS)
    for i, sample in enumerate(samples):
        for again in (dataset[i], dataset[i - len(dataset)]):
            assert torch.equal(again["input_ids"], sample["input_ids"])
            assert torch.equal(again["labels"], sample["labels"])
            pairs = zip(again["pixel_values_videos"], sample["pixel_values_videos"], strict=True)
            assert all(torch.equal(*pair) for pair in pairs)


def test_no_message_and_fixed_frames(folder, processor):
    options = DataOptions(time_message=None, sampling="middle", min_frames=1, max_frames=4)
    sample = one(processor, options, video=str(folder / "a.mp4"))[0]
    assert len(sample["pixel_values_videos"][0]) == 4
    assert words(processor, sample) == "<image>\nWhat?"


def test_a_video_shorter_than_a_clip(tmp_path, processor):
    for name, codec in (("a.mp4", "libx264"), ("a.gif", "gif")):
        path = str(make(tmp_path / name, 3, codec))
        with pytest.raises(
            BadRowError, match=r"a\.json: row 4: .*at least 4 frames, one clip, got"
        ):
            one(processor, video=path)[0]
        repeat = DataOptions(short="repeat")
        pixels = one(processor, repeat, video=path)[0]["pixel_values_videos"][0]
        assert numbers(pixels) == [0, 1, 2, 2]
        with pytest.raises(BadRowError, match="expected a start below the video's"):
            one(processor, repeat, video=path, start=5.0)[0]


def spoilt(folder, name):
    """A row that is in order until its media are read, and a part of the error."""
    whole = make(folder / "whole.mp4", 30).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[:-700])
    (folder / "empty.mp4").touch()
    (folder / "text.png").write_text("no picture")
    save(folder / "one.png", draw(1))
    cases = {
        "missing": ({"video": "gone.mp4"}, "No such file"),
        "damaged": ({"video": "cut.mp4"}, "not a video, or damaged"),
        "empty": ({"video": "empty.mp4"}, "the file is empty"),
        "no folder": ({"video": "whole.mp4", "reader": "img"}, "expected a folder of pictures"),
        "a folder": ({"video": ".", "reader": "decord"}, "expected a file"),
        "a NUL": ({"video": "a\0b"}, "null"),
        "no picture": ({"images": ["text.png"]}, "text.png"),
        "a missing picture": ({"images": ["one.png", "gone.png"]}, "No such file"),
        "too long": ({"video": "whole.mp4"}, "expected all that is seen within 130 tokens"),
    }
    fields, message = cases[name]
    if "video" in fields:
        fields["video"] = str(folder / fields["video"])
    if "images" in fields:
        fields["images"] = tuple(str(folder / path) for path in fields["images"])
    turns = (
        TURNS if len(fields.get("images", ())) < 2 else ((("human", "<image> <image>"), TURNS[1]))
    )
    return Row("b.json", 9, turns, **fields), message


GOOD = Row("c.json", 0, (("human", "Who?"), ("gpt", "I.")))


@pytest.mark.parametrize(
    "name",
    ["missing", "damaged", "empty", "no folder", "a folder", "a NUL", "no picture"]
    + ["a missing picture", "too long"],
)
def test_bad_media(name, tmp_path, processor, caplog):
    row, message = spoilt(tmp_path, name)
    options = DataOptions(min_frames=8, max_length=130)
    files = sorted(tmp_path.iterdir())
    rows = [GOOD, row, row, GOOD]
    with pytest.raises(BadRowError, match="b.json: row 9") as caught:
        VideoChatDataset(rows, processor, options)[1]
    assert message in str(caught.value) and caught.value.bad[0].index == 9
    dataset = VideoChatDataset(rows, processor, options, on_bad="skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            # replaced by the next one that is good
            assert torch.equal(dataset[1]["input_ids"], dataset[3]["input_ids"])
    assert dataset.skipped == [caught.value.bad[0]] * 2
    told = [r.message for r in caplog.records if "b.json: row 9" in r.message]
    assert len(told) == 2  # each once, however often it is asked for
    assert sorted(tmp_path.iterdir()) == files
    with pytest.raises(BadRowError, match=r"and 1 more bad rows"):
        VideoChatDataset([row, row], processor, options, on_bad="skip")[0]


def test_an_answer_that_is_cut_off(processor):
    row = Row("b.json", 2, (("human", "Who? " * 50), ("gpt", "I.")))
    with pytest.raises(BadRowError, match=r"row 2: max_length: expected some of an answer"):
        VideoChatDataset([row], processor, DataOptions(max_length=60))[0]
    row = Row("b.json", 2, (("human", "Who?"), ("gpt", "I. " * 50)))
    assert len(VideoChatDataset([row], processor, DataOptions(max_length=60))[0]["labels"]) == 60


def test_only_the_header_of_an_answer(processor):
    """A word of it is enough, its header is not."""
    row = Row("b.json", 2, (("human", "Who? " * 50), ("gpt", "I see it all.")))
    ids = VideoChatDataset([row], processor)[0]["input_ids"].tolist()
    end = processor.tokenizer.convert_tokens_to_ids("<|im_end|>")
    marks = [i for i, found in enumerate(ids) if found == end]
    header = len(processor.tokenizer("<|im_start|>assistant\n")["input_ids"])
    first = marks[1] + 2 + header  # where the answer's first word stands
    for length in range(marks[0], len(ids) + 1):
        dataset = VideoChatDataset([row], processor, DataOptions(max_length=length))
        if length > first:
            assert len(dataset[0]["input_ids"]) == length
        else:
            with pytest.raises(BadRowError, match="row 2: max_length: expected some of an answer"):
                dataset[0]


@pytest.mark.parametrize("template", ["qwen_2", "plain"])
def test_what_fits_is_known_ahead(template, processor):
    """Without a frame of what would be drawn."""
    ids, labels = encode(processor.tokenizer, TURNS, template)
    seen = {"pixel_values_videos": [range(8)], "modalities": ["video"]}
    sample = {"input_ids": ids, "labels": labels} | seen
    need = int((ids == -200).nonzero()) + 128
    fits = Fit(processor.tokenizer, template, 999)(sample)
    assert torch.equal(fits["labels"], labels) and fits["pixel_values_videos"] == [range(8)]
    for length, message in ((need - 1, "all that is seen"), (need, "some of an answer")):
        with pytest.raises(ValueError, match=f"max_length: expected {message}"):
            Fit(processor.tokenizer, template, length)(sample)


def test_a_batch_is_what_the_model_takes(folder, tmp_path):
    """Every kind of row in one batch; their tokens are as many as were counted."""
    config = official(vocab_size=300, eos_token_id=258)
    write_folder(tmp_path, config, published_state(*random_parts(config)))
    model = VideoChatFlashForConditionalGeneration.from_pretrained(tmp_path)
    processor = VideoChatFlashProcessor(merging_tokenizer(), image_size=40)
    rows, _ = read_rows(folder / "a.json", str(folder))
    samples = list(VideoChatDataset(rows, processor, OPTIONS))
    out = model(**Collator(pad_id=0, max_length=4096)(samples))
    counts = [sum(visual_counts(s)) + int((s["input_ids"] >= 0).sum()) for s in samples]
    assert out.logits.shape[1] == max(counts) and bool(out.loss > 0)
    text = model(**Collator(pad_id=0, max_length=4096)(samples[5:6]))
    assert text.logits.shape[1] == counts[5] and bool(text.loss > 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_in_processes_that_load_data(workers, folder, tmp_path, processor):
    gone = Row("b.json", 9, TURNS, video=str(tmp_path / "gone.mp4"))
    rows, _ = read_rows(folder / "a.json", str(folder))
    collate = Collator(pad_id=0, max_length=4096)
    options = {"batch_size": 2, "collate_fn": collate, "num_workers": workers}
    dataset = VideoChatDataset([*rows, gone], processor, OPTIONS, on_bad="skip")
    batches = list(DataLoader(dataset, **options))
    assert [bad.index for bad in dataset.skipped] == [9]
    assert "No such file" in dataset.skipped[0].reason
    # the row behind the last is the first
    assert torch.equal(batches[3]["pixel_values_videos"][1], batches[0]["pixel_values_videos"][0])
    dataset = VideoChatDataset([*rows, gone], processor, OPTIONS)
    with pytest.raises(BadRowError, match="row 9"):
        list(DataLoader(dataset, **options))


@pytest.mark.parametrize(
    "fields",
    [
        {"template": "chatml"}, {"sampling": "rand"}, {"time_message": "long"}, {"short": "skip"},
        {"image_mode": "pad"}, {"max_frames": 6}, {"max_frames": 2}, {"min_frames": 6},
        {"min_frames": 0}, {"max_length": 0}, {"local": 0},
    ],
)  # fmt: skip
def test_bad_options(fields):
    with pytest.raises(ValueError, match=f"{next(iter(fields))}: expected"):
        DataOptions(**fields)


def test_bad_datasets(processor):
    with pytest.raises(ValueError, match="rows: expected at least one"):
        VideoChatDataset([], processor)
    with pytest.raises(ValueError, match="on_bad: expected one of"):
        VideoChatDataset([GOOD], processor, on_bad="ignore")
    with pytest.raises(IndexError):
        VideoChatDataset([GOOD], processor)[1]
    plain = VideoChatDataset([GOOD], processor, DataOptions(template="plain"))
    with pytest.raises(BadRowError, match="row 0: plain: expected a question with <image>"):
        plain[0]
