"""The video reader on files made here: the right frames, upright, at the right times."""

import struct

import numpy as np
import pytest
import torch

from hico.model.video import VideoReader, resize_frames, sample_indices

av = pytest.importorskip("av")

WIDTH, HEIGHT = 64, 48


def red_corner(frame):
    """Where the red patch is: (bottom, right)."""
    red = (frame[..., 0].int() - frame[..., 1].int()) > 80
    rows, columns = torch.nonzero(red, as_tuple=True)
    height, width = red.shape
    return bool(rows.float().mean() > height / 2), bool(columns.float().mean() > width / 2)


FILES = {
    "h264.mp4": dict(g="250"),
    "short-gops.mp4": dict(g="7", bf="3"),
    "intra.mp4": dict(g="1"),
    "pyramid.mkv": {"g": "12", "x264-params": "bframes=5:b-adapt=0:b-pyramid=strict"},
    "open-gop.mp4": {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0"},
    "open-gop.ts": {"x264-params": "open-gop=1:keyint=10:min-keyint=10:bframes=3:b-adapt=0"},
    "h264.ts": dict(g="9"),
    "h264.mov": dict(g="9"),
    "h264.avi": dict(g="9", bf="2"),
    "h264.h264": dict(g="9", bf="2"),
    "h264.flv": dict(g="9", bf="2"),
    "hevc.mp4": {"codec": "libx265", "g": "10", "x265-params": "log-level=none"},
    "vp9.webm": dict(codec="libvpx-vp9", g="10", deadline="realtime"),
    "vp8.webm": dict(codec="libvpx", g="20", deadline="realtime"),
    "mpeg4.avi": dict(codec="mpeg4", g="10", bf="2"),
    "mpeg2.ts": dict(codec="mpeg2video", g="10", bf="2"),
    "mpeg2.mpg": dict(codec="mpeg2video", g="10", bf="2"),
    "moving.gif": dict(codec="gif", rate=10),
    "lossless.mkv": dict(codec="ffv1", g="5"),
}


@pytest.mark.parametrize("name", FILES)
def test_every_frame_is_found(tmp_path, name, make_video, number_of):
    options = FILES[name]
    path = make_video(tmp_path / name, 40, **options)
    order = [0, 39, 12, 12, 38, 3, 20, 21, 22, 9, 10, 11, 0]
    with VideoReader(path) as video:
        # a bare H.264 stream states no rate
        rate = options.get("rate", 25 if name.endswith(".h264") else 30)
        assert len(video) == video.frames == 40
        assert video.size == (HEIGHT, WIDTH)
        assert [number_of(frame) for frame in video.read(order)] == order
        assert [number_of(frame) for frame in video.read(range(40))] == list(range(40))
        assert video.duration == pytest.approx(40 / rate, abs=0.02)
        # webm and mkv round times to milliseconds
        expected = torch.arange(40, dtype=torch.float64) / rate
        torch.testing.assert_close(video.seconds, expected, atol=6e-4, rtol=0)
        assert [number_of(frame) for frame in video.stream([5, 5, 31])] == [5, 5, 31]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_variable_frame_rate(tmp_path, name, make_video, number_of):
    times = [0, 40, 80, 500, 510, 520, 1700, 1733, 1766, 4000]
    codec = "libvpx-vp9" if name.endswith("webm") else "libx264"
    path = make_video(tmp_path / name, 10, codec, 25, times, g="4")
    with VideoReader(path) as video:
        assert video.frames == 10
        torch.testing.assert_close(video.seconds, torch.tensor(times).double() / 1000)
        assert video.duration > 4
        assert [number_of(frame) for frame in video.read([9, 6, 3])] == [9, 6, 3]
        # moments in the middle of tenths of the duration: mostly frames that are shown for long
        chosen = video.sample(10).tolist()
        middles = [(i + 0.5) * video.duration / 10 for i in range(10)]
        assert chosen == [sum(t / 1000 <= m for t in times) - 1 for m in middles]
        assert chosen.count(8) >= 3 and 4 not in chosen


def test_sampling_is_the_published_rule_at_a_constant_rate():
    for frames in (1, 2, 5, 63, 64, 300, 1801):
        for count in (1, 4, 8, 64):
            seconds = torch.arange(frames) / 29.97
            chosen = min(count, frames)
            edges = [int(e) for e in np.linspace(0, frames, chosen + 1)]
            expected = [(a + b - 1) // 2 for a, b in zip(edges, edges[1:], strict=False)]
            expected += [frames - 1] * (count - chosen)
            exact = sample_indices(seconds, frames / 29.97, count)
            assert exact.tolist() == expected and exact.dtype == torch.int64
            rounded = (seconds * 1000).round() / 1000
            assert sample_indices(rounded, frames / 29.97, count).tolist() == expected


def test_sampling_refuses_nonsense():
    with pytest.raises(ValueError, match="count: expected at least 1, got 0"):
        sample_indices(torch.zeros(1), 1.0, 0)
    with pytest.raises(ValueError, match="at least one frame"):
        sample_indices(torch.zeros(0), 1.0, 1)


# what the file asks for: matrix (a, b, c, d), then where the red corner (bottom left) must be
ORIENTATIONS = {
    "as it is": ((1, 0, 0, 1), (True, False)),
    "a quarter clockwise": ((0, 1, -1, 0), (False, False)),
    "a half": ((-1, 0, 0, -1), (False, True)),
    "a quarter counterclockwise": ((0, -1, 1, 0), (True, True)),
    "mirrored": ((-1, 0, 0, 1), (True, True)),
    "upside down": ((1, 0, 0, -1), (False, False)),
    "transposed": ((0, 1, 1, 0), (False, True)),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_frames_come_out_upright(tmp_path, name, make_video):
    matrix, corner = ORIENTATIONS[name]
    path = make_video(tmp_path / "turned.mp4", 12)
    turn(path, matrix)
    with VideoReader(path) as video:
        swapped = matrix[0] == 0
        assert video.size == ((WIDTH, HEIGHT) if swapped else (HEIGHT, WIDTH))
        frames = video.read([0, 11])
        assert frames.shape == (2, *video.size, 3)
        assert red_corner(frames[1]) == corner
        assert red_corner(video.read([5], size=(40, 60))[0]) == corner


def turn(path, matrix):
    """Write a display matrix into the track header of an mp4 (version 0: 40 bytes before it)."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (v * 65536 for v in matrix)
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)


def test_rotation_written_by_pyav(tmp_path, drawing):
    path = tmp_path / "phone.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV cannot write a rotation")
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.set_display_rotation(90)
        # stored a quarter clockwise, to be shown turned back
        stored = np.ascontiguousarray(np.rot90(drawing(5, HEIGHT, WIDTH), -1))
        out.mux(stream.encode(av.VideoFrame.from_ndarray(stored, "rgb24")))
        out.mux(stream.encode(None))
    with VideoReader(path) as video:
        assert video.size == (WIDTH, HEIGHT)
        assert red_corner(video.read([0])[0]) == (True, False)


@pytest.mark.parametrize("size", [(65, 49), (63, 47), (71, 61)])
def test_odd_sizes(tmp_path, size, make_video):
    path = make_video(tmp_path / "odd.webm", 5, "libvpx-vp9", size=size, deadline="realtime")
    with VideoReader(path) as video:
        assert video.size == size[::-1]
        assert video.read([4]).shape == (1, *size[::-1], 3)


def test_resize_is_the_published_one(tmp_path, make_video):
    """Pillow's bicubic filter, on which the published checkpoints were trained."""
    image = pytest.importorskip("PIL.Image")
    with VideoReader(make_video(tmp_path / "a.mp4")) as video:
        full, small = video.read([3, 9]), video.read([3, 9], size=(36, 32))
    assert small.shape == (2, 36, 32, 3) and small.dtype == torch.uint8
    assert torch.equal(small, resize_frames(full, (36, 32)))
    for ours, frame in zip(small, full, strict=True):
        theirs = image.fromarray(frame.numpy()).resize((32, 36), image.Resampling.BICUBIC)
        assert (ours.int() - torch.from_numpy(np.array(theirs)).int()).abs().max() <= 1


def test_a_single_frame(tmp_path, make_video):
    for name, codec in (("one.mp4", "libx264"), ("one.mkv", "libx264"), ("one.avi", "mpeg4")):
        with VideoReader(make_video(tmp_path / name, 1, codec)) as video:
            assert video.frames == 1 and video.duration == pytest.approx(1 / 30, abs=2e-3)
            assert video.sample(4).tolist() == [0, 0, 0, 0]
            assert video.read([0, 0]).shape == (2, HEIGHT, WIDTH, 3)


def test_vp8_pictures_that_are_never_shown(tmp_path, make_video, number_of):
    """An encoder stores such pictures as references; here number 7 becomes one."""
    with av.open(str(make_video(tmp_path / "a.webm", 12, "libvpx"))) as source:
        stream = source.streams.video[0]
        with av.open(str(tmp_path / "hidden.webm"), "w") as out:
            copy = out.add_stream_from_template(stream)
            for number, packet in enumerate(source.demux(stream)):
                if packet.dts is None:
                    continue
                data = bytearray(bytes(packet))
                data[0] &= 0xEF if number == 7 else 0xFF
                changed = av.Packet(bytes(data))
                changed.pts, changed.dts, changed.stream = packet.pts, packet.dts, copy
                changed.time_base, changed.is_keyframe = packet.time_base, packet.is_keyframe
                out.mux(changed)
    with VideoReader(tmp_path / "hidden.webm") as video:
        got = [number_of(frame) for frame in video.read(range(video.frames))]
    assert got == [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_mp4_with_an_edit_list(tmp_path, make_video, number_of):
    """The first ten frames are there for decoding only."""
    with av.open(str(make_video(tmp_path / "whole.mp4", 40, g="250"))) as source:
        stream = source.streams.video[0]
        with av.open(str(tmp_path / "cut.mp4"), "w") as out:
            copy = out.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is None:
                    continue
                shift = int(10 / 30 / stream.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                out.mux(packet)
    with VideoReader(tmp_path / "cut.mp4") as video:
        got = [number_of(frame) for frame in video.read(range(video.frames))]
    assert got == list(range(40 - len(got), 40)) and len(got) in (30, 31)


def test_wrong_arguments(tmp_path, make_video, number_of):
    with VideoReader(make_video(tmp_path / "a.mp4", 5)) as video:
        assert repr(video) == "VideoReader('a.mp4', 5 frames, 0.17 s, 64x48)"
        for index in (-1, 5):
            with pytest.raises(ValueError, match=f"expected 0 to 4, got {index}"):
                video.read([index])
        with pytest.raises(ValueError, match="ascending"):
            next(video.stream([3, 2]))
        with pytest.raises(ValueError, match="at least 1 x 1 pixels, got 0 x 0"):
            video.read([0], size=0)
        assert video.read([]).shape == (0, HEIGHT, WIDTH, 3)
        # an error leaves the reader usable
        assert number_of(video.read([4])[0]) == 4
    with pytest.raises(ValueError, match="closed"):
        video.read([1])
