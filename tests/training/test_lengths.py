"""How long samples are expected to be, from what containers say, and the file that keeps it."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep

import pytest
from data_helpers import merging_tokenizer, write_data
from video_helpers import draw, make, save

from hico.model import VideoChatFlashProcessor
from hico.model.training import lengths as measuring
from hico.model.training.annotations import BadRowError, Row, read_rows
from hico.model.training.collator import visual_counts
from hico.model.training.dataset import DataOptions, VideoChatDataset

pytest.importorskip("av")
TURNS = (("human", "<image>\nWhat is it?"), ("gpt", "It is it."))
OPTIONS = [
    DataOptions(min_frames=8, max_frames=16),
    DataOptions(min_frames=1, max_frames=8, time_message=None),
    DataOptions(min_frames=1, max_frames=4, sampling="middle", image_mode="square"),
]


@pytest.fixture(scope="module")
def processor():
    return VideoChatFlashProcessor(merging_tokenizer(), image_size=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    write_data(path)
    make(path / "e.mkv", 45, rate=15)
    make(path / "f.avi", 30, "mpeg4")
    save(path / "g.jpg", draw(1, 200, 90), orientation=6)
    return path


def rows_of(folder):
    rows, _ = read_rows(folder / "a.json", str(folder))
    more = [{"video": "e.mkv"}, {"video": "f.avi"}, {"video": "a.mp4", "start": 1.0}]
    more += [{"images": (str(folder / "g.jpg"),)}]
    fields = [m | ({"video": str(folder / m["video"])} if "video" in m else {}) for m in more]
    return [*rows, *(Row("b.json", i, TURNS, **f) for i, f in enumerate(fields))]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.sampling}-{o.max_frames}")
def test_what_is_expected_is_what_comes(options, folder, processor):
    dataset = VideoChatDataset(rows_of(folder), processor, options)
    for i, (length, kind) in enumerate(zip(dataset.lengths, dataset.modalities, strict=True)):
        sample = dataset[i]
        seen = sum(visual_counts(sample))
        assert kind == ("visual" if seen else "text")
        text = int((sample["input_ids"] >= 0).sum())
        # what is seen to the token, words by the bytes that they take
        assert abs(length - seen - text) <= 0.5 * text


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: f"{o.sampling}-{o.max_frames}")
def test_without_pyav(options, folder, processor, monkeypatch):
    pytest.importorskip("cv2")
    names = ("a.mp4", "shots", "d.png")
    rows = [r for r in rows_of(folder) if (r.video or "".join(r.images)).endswith(names)]
    expected = VideoChatDataset(rows, processor, options).lengths
    monkeypatch.setitem(sys.modules, "av", None)
    assert VideoChatDataset(rows, processor, options).lengths == expected


def test_a_gif_as_picture_and_as_video(folder, tmp_path, processor):
    gif = str(folder / "b.gif")
    rows = [Row("a", 0, TURNS, images=(gif,)), Row("a", 1, TURNS, video=gif)]
    alone = [VideoChatDataset([row], processor, OPTIONS[0]).lengths[0] for row in rows]
    for _ in range(2):
        dataset = VideoChatDataset(rows, processor, OPTIONS[0], cache=tmp_path / "facts")
        assert dataset.lengths == alone


def test_headers_that_cannot_be_true(folder, processor, monkeypatch):
    rows = rows_of(folder)
    expected = VideoChatDataset(rows, processor, OPTIONS[0]).lengths
    monkeypatch.setattr(measuring, "MOST_FRAMES", 9)
    assert VideoChatDataset(rows, processor, OPTIONS[0]).lengths == expected


def test_cut_at_what_the_model_takes(folder, processor):
    row = Row("a", 0, (("human", "Who? " * 999), ("gpt", "I.")))
    assert VideoChatDataset([row], processor, DataOptions(max_length=99)).lengths == [99]


def test_the_cache(folder, tmp_path, processor, monkeypatch):
    cache = tmp_path / "new" / "facts"
    video = str(make(tmp_path / "a.mp4", 60))
    rows = [Row("a", 0, TURNS, video=video), *rows_of(folder)]
    looked = []
    stated = measuring._facts_of
    monkeypatch.setattr(measuring, "_facts_of", lambda p: looked.append(p) or stated(p))

    def lengths():
        looked.clear()
        return VideoChatDataset(rows, processor, OPTIONS[0], cache=cache).lengths

    first = lengths()
    assert video in looked and len(looked) == len(set(looked))
    written = cache.read_text()
    assert lengths() == first and looked == [] and cache.read_text() == written
    # a file that has changed is looked at again, alone
    make(tmp_path / "a.mp4", 5)
    os.utime(video, ns=(1, 1))
    assert lengths()[0] == first[0] - 4 * 16 and looked == [video]
    # a damaged cache is as good as it is readable
    lines = cache.read_text().splitlines()
    cache.write_text("\n".join([lines[0], "{", "[1]", '["a", 1, 2, 3]', '"a"', *lines[2:]]))
    assert lengths()[1:] == first[1:] and len(looked) == 1
    assert [file.name for file in cache.parent.iterdir()] == ["facts"]
    assert all(isinstance(json.loads(line)[0], str) for line in cache.read_text().splitlines())


def test_threads_look_at_a_file_once(folder):
    path, threads, looked = str(folder / "a.mp4"), 8, []
    together = Barrier(threads)

    def look(path):
        looked.append(path)
        sleep(0.05)  # long enough that all others ask meanwhile
        return [1, 2]

    def find(_):
        together.wait(timeout=10)
        return cache.find(path, look, lambda found: len(found) == 2)

    with measuring.Cache(None) as cache, ThreadPoolExecutor(threads) as pool:
        assert list(pool.map(find, range(threads))) == [[1, 2]] * threads
    assert looked == [path]


@pytest.mark.parametrize(
    "facts",
    ["[1]", '["a",1,1,false]', "[-5,30.0,5.0,false]", "[60,0,5.0,false]", "[60,NaN,2.0,false]"]
    + ["[60,30.0,Infinity,false]", "[60,1e-320,2.0,false]", "[60,30.0,1e300,false]", "[]"]
    + ["[60,30.0,2.0,1]", "[60.5,30.0,2.0,false]", f"[{10**12},30.0,2.0,false]"]
    + ["[0,5]", "[5,-1]", "[5.5,5]", '["a","b"]', f"[5,{10**400}]", "[null,null]"],
)
def test_facts_that_cannot_be_true(facts, folder, tmp_path, processor):
    video, image = str(folder / "a.mp4"), str(folder / "d.png")
    rows = [Row("a", 0, TURNS, video=video, start=0.5), Row("a", 1, TURNS, images=(image,))]
    expected = VideoChatDataset(rows, processor, OPTIONS[0]).lengths
    stamps = [(path, os.stat(path)) for path in (video, image)]
    lines = [f'["{p}", {s.st_size}, {s.st_mtime_ns}, {facts}]' for p, s in stamps]
    cache = tmp_path / "facts"
    cache.write_text("\n".join(lines))
    assert VideoChatDataset(rows, processor, OPTIONS[0], cache=cache).lengths == expected
    assert facts not in cache.read_text()


def test_bad_media(tmp_path, processor):
    """Found before training begins; what was found of the others is kept."""
    good = Row("a.json", 0, TURNS, video=str(make(tmp_path / "a.mp4", 60)))
    (tmp_path / "b.mp4").write_bytes(b"no video")
    bad = [Row("a.json", i, TURNS, video=str(tmp_path / n)) for i, n in ((1, "b.mp4"), (2, "c"))]
    late = Row("a.json", 3, TURNS, video=good.video, start=9.0)
    rows, cache = [good, *bad, late], tmp_path / "facts.jsonl"
    dataset = VideoChatDataset(rows, processor, OPTIONS[0], cache=cache)
    with pytest.raises(BadRowError, match=r"a\.json: row 1: .*b\.mp4.*and 2 more") as caught:
        _ = dataset.lengths
    assert [b.index for b in caught.value.bad] == [1, 2, 3]
    assert len(cache.read_text().splitlines()) == 1
    dataset = VideoChatDataset(rows, processor, OPTIONS[0], on_bad="skip", cache=cache)
    assert len(dataset.lengths) == 4 and dataset.lengths[0] > 128 > dataset.lengths[1]
    assert dataset.skipped == list(caught.value.bad)
    fixed = VideoChatDataset(bad[1:], processor, OPTIONS[2])
    with pytest.raises(BadRowError, match="row 2: .*No such file"):
        _ = fixed.modalities
