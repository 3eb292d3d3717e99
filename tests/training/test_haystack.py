"""Haystacks: endless, the same for a number whatever else is asked, and of bounded memory."""

import hashlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from hico.model.training.worlds import painting, real
from hico.model.training.worlds.hashing import Draws, held_out, mix
from hico.model.training.worlds.haystack import NaturalHaystack, VideoHaystack
from hico.model.training.worlds.noise import noise_bank, white_tile
from hico.model.training.worlds.real import split_files
from hico.model.training.worlds.world import haystack_of
from hico.model.video import open_video

SPREAD = torch.tensor([0, 1, 39, 40, 119, 120, 5000, 123456])


def repeats(frames):
    """How many of the frames look like an earlier one at a quarter of their size."""
    small = F.avg_pool2d(frames.permute(0, 3, 1, 2).float(), 4).round().byte()
    return len(small) - len({hashlib.md5(frame.numpy().tobytes()).digest() for frame in small})


@pytest.fixture
def videos(tmp_path):
    """A folder of four short videos that look different."""
    av = pytest.importorskip("av")
    for i, name in enumerate(("a", "b", "c", "d")):
        with av.open(str(tmp_path / f"{name}.mp4"), "w") as out:
            stream = out.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for t in range(30 + i):
                y, x = np.mgrid[:64, :96]
                light = 128 + 100 * np.sin((x + 3 * t + 20 * i) / 9) * np.cos((y - t) / (5 + i))
                image = np.stack([light, 255 - light, np.full_like(light, 60 * i)], -1)
                frame = av.VideoFrame.from_ndarray(image.astype(np.uint8), "rgb24")
                out.mux(stream.encode(frame))
            out.mux(stream.encode(None))
    return tmp_path


def test_draws_are_even_and_independent():
    draw = Draws(np.arange(20000))
    first, second = draw("a"), draw("b", 0, 1, 2)
    assert abs(first.mean() - 0.5) < 0.01 and abs(first.var() - 1 / 12) < 0.003
    for other in (second[:, 0], second[:, 1], Draws(np.arange(1, 20001))("a")):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.03
    assert len(np.unique(mix(np.arange(-500, 500)[:, None], np.arange(100)))) == 100_000
    assert set(draw.pick("k", 5).tolist()) == set(range(5))
    assert abs(draw.chance("c", 0.3).mean() - 0.3) < 0.02


def test_held_out_names_do_not_change_when_they_are_told_again():
    names = [f"{i}.mp4" for i in range(20)]
    assert held_out(names) == held_out(names[::-1]) and len(held_out(names)) == 6
    assert len(held_out(["one"])) == 1


def test_noise_has_no_seams_and_the_right_size():
    bank = noise_bank()
    assert bank.shape == (6, 256, 256) and bank.abs().max() <= 1
    assert noise_bank("cpu", 32).shape == (6, 64, 64)
    seam = (bank[:, 0] - bank[:, -1]).abs().mean(1)
    inside = (bank[:, 100] - bank[:, 101]).abs().mean(1)
    assert (seam < 2 * inside + 0.02).all()
    assert abs(float(white_tile().mean())) < 0.02 and abs(float(white_tile().std()) - 1) < 0.02


def test_natural_frames_do_not_depend_on_what_else_is_asked(monkeypatch):
    hay = NaturalHaystack(3)
    together = hay.frames(SPREAD, 40)
    assert together.equal(hay.frames(SPREAD.flip(0), 40).flip(0))
    monkeypatch.setattr(painting, "CPU_PIXELS", 1)
    assert together.equal(torch.cat([NaturalHaystack(3).frames(i[None], 40) for i in SPREAD]))
    assert not together.equal(NaturalHaystack(4).frames(SPREAD, 40))


def test_all_is_painted_on_the_device(videos):
    for hay in (NaturalHaystack(3), VideoHaystack(videos, 3)):
        assert hay.frames(SPREAD, 32, "meta").device.type == "meta"


@pytest.mark.gpu
def test_devices_agree_to_two_grey_levels():
    hay, indices = NaturalHaystack(3), torch.arange(0, 6400, 50)
    apart = (hay.frames(indices).int() - hay.frames(indices, device="cuda").cpu().int()).abs()
    assert apart.float().mean() < 0.01 and (apart > 2).float().mean() < 1e-4


def test_five_thousand_natural_frames_repeat_nothing():
    hay = NaturalHaystack(5)
    assert sum(repeats(hay.frames(torch.arange(i, 5000, 5), 16)) for i in range(5)) == 0
    shots, time = hay._shots(np.arange(200_000))
    assert len(np.unique(np.stack([shots, time]), axis=1).T) == 200_000
    assert 0 <= time.min() and 40 <= time.max() < 70


def test_natural_frames_cover_brightness_and_colours_and_move():
    hay = NaturalHaystack(6)
    frames = hay.frames(torch.arange(0, 12000, 40), 16).float() / 255
    light = frames.mean((1, 2, 3))
    assert light.min() < 0.15 and light.max() > 0.85 and light.std() > 0.15
    gaudy = (frames.amax(3) - frames.amin(3)).flatten(1).amax(1)
    assert (gaudy > 0.6).float().mean() > 0.2
    hues = frames.argmax(3).flatten().bincount(minlength=3) / frames[..., 0].numel()
    assert hues.min() > 0.15
    run = hay.frames(torch.arange(12, 20), 32).float()
    assert 0.5 < (run[1:] - run[:-1]).abs().mean() < 40


@pytest.mark.parametrize(
    ("indices", "size", "message"),
    [
        (torch.tensor([0.5]), 8, "indices: expected int64"),
        (torch.tensor([[1]]), 8, r"indices: expected int64 \[n\], got torch.int64 \[1, 1\]"),
        (torch.tensor([3, -1]), 8, "indices: expected 0 or more, got -1"),
        (torch.tensor([3]), 0, "size: expected at least 1, got 0"),
    ],
)
def test_bad_requests_are_named(indices, size, message):
    with pytest.raises(ValueError, match=message):
        NaturalHaystack(1).frames(indices, size)


def test_nothing_asked_nothing_painted():
    assert NaturalHaystack(1).frames(torch.zeros(0, dtype=torch.int64), 8).shape == (0, 8, 8, 3)


def test_real_frames_do_not_depend_on_what_else_is_asked(videos, monkeypatch):
    together = VideoHaystack(videos, 3).frames(SPREAD, 24)
    assert together.shape == (8, 24, 24, 3)
    forgetful = VideoHaystack(videos, 3, memory=1)
    assert together.equal(forgetful.frames(SPREAD.flip(0), 24).flip(0))
    monkeypatch.setattr(real, "READ", 1)
    assert together.equal(forgetful.frames(SPREAD, 24))
    assert not together.equal(VideoHaystack(videos, 4).frames(SPREAD, 24))


def test_the_worlds_of_a_folder_share_what_is_open_and_what_is_read(videos, monkeypatch):
    opened = []
    monkeypatch.setattr(real, "OPEN", 2)
    monkeypatch.setattr(
        real, "open_video", lambda path, *a, **k: opened.append(path) or open_video(path, *a, **k)
    )
    hays = [haystack_of(str(videos), seed, "train") for seed in (1, 2, 1)]
    first, other, again = (hay.frames(SPREAD, 24) for hay in hays)
    assert first.equal(again) and not first.equal(other)
    assert [hay.name for hay in hays] == ["video-1", "video-2", "video-1"]
    assert first.equal(VideoHaystack(videos, 1, split="train").frames(SPREAD, 24))
    assert hays[0]._kept is hays[1]._kept and len(hays[0]._kept) <= 2**28 // (24 * 24 * 3)
    # a file that is open is not opened again, and no more stay open than may
    (pool,) = hays[0]._opened.values()
    assert len(pool) == 2
    before = len(opened)
    hays[1]._open(next(iter(pool)))
    assert len(opened) == before
    monkeypatch.setattr(real.os, "getpid", lambda: -1)
    hays[1]._open(next(iter(pool)))
    assert len(opened) == before + 1 and len(pool) == 2


def test_real_frames_without_pyav(videos):
    pytest.importorskip("cv2")
    first, second = (
        VideoHaystack(videos, 3, backend=name).frames(SPREAD, 24) for name in ("av", "opencv")
    )
    assert (first.int() - second.int()).abs().float().mean() < 3


def test_real_frames_repeat_nothing_and_memory_is_bounded(videos):
    hay = VideoHaystack(videos, 5, memory=200_000)
    frames = hay.frames(torch.arange(5000, 6000), 16)
    assert repeats(frames) == 0
    assert sum(frame.numel() for frame in hay._kept.values()) <= 200_000
    assert all(frame.untyped_storage().nbytes() == frame.numel() for frame in hay._kept.values())


def test_videos_are_split_by_name(videos):
    train, test = (VideoHaystack(videos, 1, split=split).files for split in ("train", "test"))
    assert len(train) == 3 and len(test) == 1 and not set(train) & set(test)
    below = videos / "below"
    below.mkdir()
    copy = below / test[0].name
    copy.write_bytes(test[0].read_bytes())
    assert set(VideoHaystack(videos, 1, split="test").files) == {test[0], copy}
    assert split_files([*train, *test], "all") == sorted([*train, *test])


@pytest.mark.parametrize(
    ("given", "split", "error", "message"),
    [
        ("empty", "all", ValueError, "videos: expected a folder with videos, got"),
        ([], "all", ValueError, "videos: expected at least one, got none"),
        (["none.mp4"], "all", FileNotFoundError, "none.mp4 does not exist"),
        (
            "a.mp4",
            "train",
            ValueError,
            r"split: expected at least 2 videos to split, got \['a.mp4'\]",
        ),
        ("a.mp4", "dev", ValueError, "split: expected 'train', 'test' or 'all', got 'dev'"),
    ],
)
def test_bad_videos_are_named(videos, given, split, error, message):
    (videos / "empty").mkdir()
    given = videos / given if isinstance(given, str) else given
    with pytest.raises(error, match=message):
        VideoHaystack(given, 1, split=split)


def test_a_video_ships():
    pytest.importorskip("av")
    hay = VideoHaystack(None, 1)
    assert [file.name for file in hay.files] == ["demo.mp4"]
    assert repeats(hay.frames(torch.arange(0, 400, 20), 32)) == 0


def test_a_file_that_is_no_video_is_named(tmp_path):
    (tmp_path / "bad.mp4").write_bytes(b"no video at all")
    with pytest.raises(ValueError, match="bad.mp4"):
        VideoHaystack(tmp_path, 1).frames(torch.tensor([0]), 8)
