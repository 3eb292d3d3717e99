"""The video reader on damaged files and on files that are no videos."""

import gc
import os
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from hico.model.video import VideoReader, is_image, open_video, read_image

av = pytest.importorskip("av")


def test_awkward_names(tmp_path, monkeypatch, make_video, number_of):
    def last(path):
        with VideoReader(path) as video:
            return number_of(video.read([4])[0])

    for name in ("видео 東京 ñ.mp4", "a:b %03d.mp4", "-i.mp4"):
        assert last(make_video(tmp_path / name, 5)) == 4
    monkeypatch.chdir(tmp_path)
    assert last("a:b %03d.mp4") == 4


def test_transport_stream_that_starts_in_the_middle(tmp_path, make_video, number_of):
    data = make_video(tmp_path / "whole.ts", 60, g="15", bf="3").read_bytes()
    # from the tables on, without the packets of the first half of the pictures
    rest = data[len(data) // 2 // 188 * 188 :]
    (tmp_path / "cut.ts").write_bytes(data[: 188 * 3] + rest)
    with VideoReader(tmp_path / "cut.ts") as video:
        got = [number_of(frame) for frame in video.read(range(video.frames))]
        assert got == list(range(60 - len(got), 60)) and 10 < len(got) < 50
        assert number_of(video.read([len(got) // 2])[0]) == got[len(got) // 2]


BROKEN = {
    "empty.mp4": (b"", "is empty"),
    "text.mp4": (b"This is not a video.\n" * 50, "not a video, or damaged"),
    "zeros.mkv": (bytes(10_000), "not a video, or damaged"),
    "letter.txt": (b"dear reader,\n" * 50, "not a video"),
    "playlist.m3u8": (b"#EXTM3U\n#EXTINF:1,\nhttp://localhost:9/a.ts\n", "not a video"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_files_that_are_no_videos(tmp_path, name):
    data, message = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        VideoReader(tmp_path / name)
    assert name in str(caught.value)


def test_truncated_mp4_has_no_index(tmp_path, make_video):
    path = make_video(tmp_path / "cut.mp4")
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ValueError, match=r"cut\.mp4: not a video, or damaged"):
        VideoReader(path)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.webm", "cut.avi", "cut.mp4"])
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_truncated_files_are_read_up_to_the_damage(tmp_path, name, share, make_video, number_of):
    codec = {"webm": "libvpx-vp9", "avi": "mpeg4"}.get(name.split(".")[1], "libx264")
    path = make_video(tmp_path / name, 60, codec, g="15", b="2M")
    if name.endswith("mp4"):
        path = with_the_index_in_front(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with VideoReader(path) as video:
        assert 10 < video.frames < 60
        # what is left may lack some of the last frames and end with half a one
        for index in range(video.frames - 1):
            frame = video.read([index])[0]
            assert number_of(frame) == round(float(video.seconds[index]) * 30)


def with_the_index_in_front(path):
    """The same mp4 as it is laid out for the web."""
    out_path, options = path.with_name("front.mp4"), {"movflags": "faststart"}
    with av.open(str(path)) as source, av.open(str(out_path), "w", options=options) as out:
        copy = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return out_path


KINDS = {
    "a.mp4": dict(g="5", bf="2"),
    "a.mkv": dict(g="5", bf="2"),
    "a.ts": dict(g="5", bf="2"),
    "a.webm": dict(codec="libvpx-vp9", g="5", deadline="realtime"),
    "a.avi": dict(codec="mpeg4", g="5"),
    "a.mov": {"codec": "libx265", "g": "5", "x265-params": "log-level=none"},
    "a.gif": dict(codec="gif", rate=10),
    "a.png": dict(codec="png"),
}


def damaged(data, count):
    """`count` versions of a file: two fifths are cut off somewhere, in the others bytes differ."""
    rng = np.random.default_rng(len(data))
    for case in range(count):
        if case % 5 < 2:
            yield data[: int(rng.integers(1, len(data)))]
        else:
            broken = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(broken), 1 + case)
            broken[places] ^= rng.integers(1, 256, len(places), dtype=np.uint8)
            yield broken.tobytes()


def resident():
    """Bytes of memory that this process holds; 0 where nobody tells."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if status.exists() else 0


@pytest.mark.timeout(120)
def test_200_damaged_files(tmp_path, make_video):
    """Frames or an error that names the file; no crash, no hang, no growth."""
    outcomes, sizes, slowest = Counter(), [], 0.0
    for name, options in KINDS.items():
        data = make_video(tmp_path / name, 1 if name.endswith("png") else 20, **options)
        for broken in damaged(data.read_bytes(), 25):
            (tmp_path / name).write_bytes(broken)
            started = time.monotonic()
            outcomes[look_at(tmp_path / name)] += 1
            slowest = max(slowest, time.monotonic() - started)
        gc.collect()
        sizes.append(resident())
    assert sum(outcomes.values()) == 200 and outcomes["read"] > 50 and outcomes["refused"] > 20
    assert slowest < 10
    # the first kinds load the decoders; eight times 25 files that each kept a decoder would show
    assert sizes[-1] - sizes[1] < 100 * 2**20


def look_at(path):
    """Read some frames, each way; "read" or "refused"."""
    try:
        if is_image(path):
            assert read_image(path).shape[2] == 3
        with open_video(path, threads=2) as video:
            assert video.frames == len(video.seconds) and video.duration >= 0 and video.fps > 0
            for index in video.sample(4).tolist():
                assert video.read([index], size=16).shape == (1, 16, 16, 3)
            wanted = video.choose(8, 8)[:8]
            assert video.read(wanted, size=16).shape == (len(wanted), 16, 16, 3)
            assert video.read(wanted[::3], 16, "snap").shape[1:] == (16, 16, 3)
    except ValueError as error:
        assert path.name in str(error)
        return "refused"
    return "read"


def test_sound_without_pictures(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"song\.mp4: there is no video in this file"):
        VideoReader(path)


def test_paths_that_are_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.mp4"):
        VideoReader(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="this is a directory"):
        VideoReader(tmp_path)
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ValueError, match="a device or a pipe"):
        VideoReader(tmp_path / "pipe.mp4")


def test_without_pyav_the_error_says_what_to_install(tmp_path, monkeypatch, make_video):
    path = make_video(tmp_path / "a.mp4", 1)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ImportError, match="reading videos needs PyAV: pip install av"):
        VideoReader(path)
