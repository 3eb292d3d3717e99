"""The other packages that can read videos: the same frames, and clear errors without them."""

import importlib
import sys

import pytest
import torch

from hico.model.video import frame_indices, open_video, read_clip

pytest.importorskip("av")

PACKAGES = {"torchcodec": "torchcodec.decoders", "decord": "decord", "opencv": "cv2"}
INSTALL = {**dict.fromkeys(PACKAGES), "opencv": "opencv-python-headless"}


@pytest.fixture(params=PACKAGES)
def backend(request):
    """The name of each backend that is installed."""
    try:
        importlib.import_module(PACKAGES[request.param])
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"{request.param} is not installed: {error}".split("\n")[0])
    return request.param


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_the_same_frames(tmp_path, name, backend, make_video, number_of):
    if name == "a.ts" and backend != "opencv":
        pytest.skip("decord finds other frames in transport streams, torchcodec not the last two")
    path = make_video(tmp_path / name, 120, g="20", bf="2")
    with open_video(path, backend) as video, open_video(path, "av") as ours:
        assert (video.frames, video.size, video.fps) == (120, (48, 64), 30.0)
        assert video.duration == ours.duration
        torch.testing.assert_close(video.seconds, ours.seconds, atol=2e-3, rtol=0)
        order = [0, 119, 12, 12, 118, 3, 60, 61, 62, 9, 10, 11, 0]
        got = video.read(order)
        assert [number_of(frame) for frame in got] == order
        assert (got.int() - ours.read(order).int()).abs().float().mean() < 1
        assert [number_of(frame) for frame in video.stream([5, 5, 31])] == [5, 5, 31]
        assert video.read([7], size=(20, 30)).shape == (1, 20, 30, 3)
        if backend != "opencv":
            keys = (v.snapped(range(120)).unique().tolist() for v in (video, ours))
            assert next(keys) == next(keys)
    with pytest.raises(ValueError, match="the reader is closed"):
        video.read([1])


def test_a_clip_and_the_published_sampling(tmp_path, backend, make_video, number_of):
    path = make_video(tmp_path / "a.mp4", 240, g="30")
    clip = read_clip(path, size=(48, 64), start=1, end=4, backend=backend)
    assert torch.equal(clip.indices, frame_indices(90, 30.0) + 30) and clip.duration == 3
    assert [number_of(frame) for frame in clip.frames] == clip.indices.tolist()


def test_far_apart_frames(tmp_path, backend, monkeypatch, make_video, number_of):
    """Where OpenCV seeks rather than decode what lies between."""
    others = importlib.import_module("hico.model.video.others")
    monkeypatch.setattr(others, "FAR", 20)
    path = make_video(tmp_path / "a.mp4", 250, g="10", bf="2")
    order = [0, 3, 60, 61, 140, 249, 30, 31]
    with open_video(path, backend) as video:
        assert [number_of(frame) for frame in video.read(order)] == order
        assert [number_of(video.read([i])[0]) for i in order] == order


def test_a_variable_rate(tmp_path, backend, make_video, number_of):
    times = [0, 40, 80, 500, 510, 520, 1700, 1733, 1766, 4000]
    path = make_video(tmp_path / "a.mp4", 10, "libx264", 25, times, g="4")
    with open_video(path, backend) as video:
        assert video.frames == 10
        assert [number_of(frame) for frame in video.read([9, 6, 3])] == [9, 6, 3]


def test_files_that_are_no_videos(tmp_path, backend, make_video):
    (tmp_path / "text.mp4").write_bytes(b"This is not a video.\n" * 50)
    (tmp_path / "empty.mp4").write_bytes(b"")
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(ValueError, match=name):
            open_video(tmp_path / name, backend)
    with pytest.raises(FileNotFoundError):
        open_video(tmp_path / "gone.mp4", backend)


@pytest.mark.parametrize("name", PACKAGES)
def test_the_error_names_the_package_that_is_absent(tmp_path, monkeypatch, name, make_video):
    path, module = make_video(tmp_path / "a.mp4", 2), PACKAGES[name]
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, module.split(".")[0], None)
    package = INSTALL[name] or name
    with pytest.raises(ModuleNotFoundError, match=f"pip install {package}"):
        open_video(path, backend=name)


def test_auto_takes_what_is_there(tmp_path, monkeypatch, make_video):
    path = make_video(tmp_path / "a.mp4", 2)
    opening = importlib.import_module("hico.model.video.opening")
    with open_video(path) as video:
        assert type(video).__name__ == "VideoReader"
    absent = dict.fromkeys(opening.BACKENDS, opening.BACKENDS["opencv"])
    monkeypatch.setattr(opening, "BACKENDS", absent)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ModuleNotFoundError, match="pip install av .or torchcodec, decord, opencv"):
        open_video(path)
