"""Decoding groups of pictures at once: the same pixels as one plain decoder, in bounded memory."""

import threading

import pytest
import torch

from hico.model.video import VideoReader, ahead, careful

av = pytest.importorskip("av")

SPARSE, DENSE = [3, 4, 29, 30, 31, 55, 89, 90, 118], list(range(120))
REORDERED = "bframes=5:b-adapt=0:b-pyramid="
FILES = {
    "plain.mp4": dict(g="30", bf="0"),
    "b-frames.mp4": dict(g="30", bf="3", refs="4"),
    "pyramid.mkv": {"g": "30", "x264-params": REORDERED + "normal:weightp=2:ref=5"},
    "strict.mp4": {"g": "24", "x264-params": REORDERED + "strict:keyint=24"},
    "open-gop.mp4": {"x264-params": "open-gop=1:keyint=20:min-keyint=20:bframes=3:b-adapt=0"},
    "interlaced.mp4": {"g": "30", "bf": "2", "x264-params": "interlaced=1"},
    "one-gop.mp4": dict(g="250", bf="3"),
    "intra.mp4": dict(g="1"),
    "hevc.mp4": {"codec": "libx265", "g": "30", "x265-params": "log-level=none:bframes=4"},
    "layers.mp4": {
        "codec": "libx265",
        "x265-params": "log-level=none:bframes=3:keyint=30:temporal-layers=3",
    },
    "mpeg2.mp4": dict(codec="mpeg2video", g="15", bf="2"),
    "mpeg4.mp4": dict(codec="mpeg4", g="15", bf="2"),
    "vp9.webm": dict(codec="libvpx-vp9", g="30", deadline="realtime"),
    "h264.ts": dict(g="15", bf="3"),
}


@pytest.fixture
def quick_only(monkeypatch):
    """The careful way may open a file, but a frame that it had to find fails the test."""

    def find(self, index):
        raise AssertionError(f"the quick way did not find frame {index}")

    monkeypatch.setattr(careful.Careful, "find", find)


def plain(path):
    """Every frame, from one decoder without threads: uint8 [T, H, W, 3]."""
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "NONE"
        painter = careful.Painter()
        return torch.stack([torch.from_numpy(painter.rgb(f)) for f in container.decode(video=0)])


@pytest.mark.parametrize("name", FILES)
def test_the_pixels_of_plain_decoding(tmp_path, name, make_video, quick_only):
    path = make_video(tmp_path / name, 120, **FILES[name])
    expected = plain(path)
    for threads, wanted in ((1, SPARSE), (2, SPARSE), (3, DENSE), (2, DENSE[1::2])):
        with VideoReader(path, threads) as video:
            assert torch.equal(video.read(wanted), expected[wanted])


def test_only_what_nothing_refers_to_is_left_out(tmp_path, make_video):
    expected = {"b-frames.mp4": True, "hevc.mp4": True, "layers.mp4": False, "vp9.webm": False}
    for name, skips in expected.items():
        path = make_video(tmp_path / name, 10, **FILES[name])
        with VideoReader(path) as video:
            quick = ahead.Quick(path, video._careful.table, 1)
            assert quick.skips is skips
            quick.close()


def test_what_a_thread_cannot_decode_is_read_carefully(tmp_path, monkeypatch, make_video):
    path = make_video(tmp_path / "a.mp4", 120, g="15")
    expected, frames = plain(path), ahead.Quick.frames

    def failing(self, job):
        for index, frame in frames(self, job):
            if index in (17, 18, 47):
                raise RuntimeError("as if the decoder had failed")
            if index not in (70, 100):
                yield index, frame

    monkeypatch.setattr(ahead.Quick, "frames", failing)
    with VideoReader(path, 2) as video:
        assert torch.equal(video.read(DENSE), expected)


def test_nothing_works_but_the_careful_way(tmp_path, monkeypatch, make_video):
    path = make_video(tmp_path / "a.mp4", 60, g="15")
    expected = plain(path)
    with VideoReader(path, 2) as video:
        monkeypatch.setattr(ahead, "open_file", None)
        assert torch.equal(video.read(range(60)), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_frames_wait_in_bounded_memory(tmp_path, monkeypatch, threads, make_video):
    path = make_video(tmp_path / "a.mp4", 120, g="10")
    painted, paint = [], careful.Painter.paint

    def counted(self, frame, pixels):
        painted.append(frame.pts)
        return paint(self, frame, pixels)

    monkeypatch.setattr(ahead, "WAITING_BYTES", 8 * 48 * 64 * 3)
    monkeypatch.setattr(careful.Painter, "paint", counted)
    with VideoReader(path, threads) as video:
        for taken, _ in enumerate(video.stream(range(120)), 1):
            threading.Event().wait(0.002)
            # what waits, and one in the hands of every thread
            assert len(painted) - taken <= 8 + threads + 1
    assert len(painted) == 120


def test_leaving_early_ends_the_threads(tmp_path, make_video):
    before = threading.active_count()
    with VideoReader(make_video(tmp_path / "a.mp4", 120, g="10"), 3) as video:
        stream = video.stream(range(120))
        next(stream)
        stream.close()
        assert threading.active_count() == before
        # two streams at once do not disturb each other
        one, two = video.stream(range(0, 60)), video.stream(range(30, 90))
        for index in range(60):
            assert torch.equal(next(one), video.read([index])[0])
            assert torch.equal(next(two), video.read([index + 30])[0])
