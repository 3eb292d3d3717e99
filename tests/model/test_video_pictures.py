"""Single pictures, folders of pictures, and GIFs."""

import sys

import numpy as np
import pytest
import torch
from video_helpers import HEIGHT, WIDTH, save

from hico.model.video import base, frame_indices, is_image, open_video, read_clip, read_image

av = pytest.importorskip("av")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "A.JPEG"])
def test_a_picture(tmp_path, name, drawing, number_of):
    path = save(tmp_path / name, drawing(37))
    assert is_image(path)
    image = read_image(path)
    assert image.shape == (HEIGHT, WIDTH, 3) and image.dtype == torch.uint8
    assert number_of(image) == 37
    if name == "a.png":
        assert torch.equal(image, torch.from_numpy(drawing(37)))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_picture_without_pyav(tmp_path, monkeypatch, name, drawing, number_of):
    pytest.importorskip("cv2")
    path = save(tmp_path / name, drawing(37), 6 if name == "a.jpg" else None)
    expected = read_image(path)
    monkeypatch.setitem(sys.modules, "av", None)
    image = read_image(path)
    assert image.shape == expected.shape
    assert (image.int() - expected.int()).abs().float().mean() < 4
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xffno picture")
    with pytest.raises(ValueError, match=r"bad\.jpg: not a picture, or damaged"):
        read_image(tmp_path / "bad.jpg")


def test_a_picture_without_any_package(tmp_path, monkeypatch, drawing):
    path = save(tmp_path / "a.png", drawing(1))
    for module in ("av", "cv2"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match="pip install av"):
        read_image(path)


HELD = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: np.rot90(x, -1),
}


@pytest.mark.parametrize("orientation", HELD)
def test_a_camera_held_askew(tmp_path, orientation, drawing, number_of):
    stored = np.ascontiguousarray(HELD[orientation](drawing(37)))
    image = read_image(save(tmp_path / "a.jpg", stored, orientation))
    assert image.shape == (HEIGHT, WIDTH, 3) and number_of(image) == 37


def test_what_is_a_picture(tmp_path, make_video):
    assert not is_image(make_video(tmp_path / "a.mp4", 2)) and not is_image(tmp_path)
    assert not is_image(make_video(tmp_path / "a.gif", 2, "gif"))
    with pytest.raises(FileNotFoundError):
        is_image(tmp_path / "gone.jpg")
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xffno picture")
    for name in ("bad.jpg", "gone.jpg"):
        with pytest.raises((ValueError, FileNotFoundError), match=name):
            read_image(tmp_path / name)


def folder(path, names, drawing):
    """A folder in which each name shows its own number."""
    path.mkdir()
    for number, name in enumerate(names):
        save(path / name, drawing(number))
    return path


@pytest.mark.parametrize("name", ["frame_{}.jpg", "{:05}.png", "{}.jpeg", "shot-2-{}.JPG"])
def test_folders_are_in_the_order_of_their_numbers(tmp_path, name, drawing, number_of):
    path = folder(tmp_path / "shots", [name.format(i) for i in range(12)], drawing)
    (path / "notes.txt").write_text("no picture")
    with open_video(path) as video:
        assert (video.frames, video.fps, video.duration) == (12, 1.0, 12.0)
        assert video.seconds.tolist() == list(range(12)) and video.size == (HEIGHT, WIDTH)
        assert [number_of(frame) for frame in video.read([11, 2, 10])] == [11, 2, 10]
    clip = read_clip(path, size=(HEIGHT, WIDTH))
    assert torch.equal(clip.indices, frame_indices(12, 1.0))
    assert [number_of(frame) for frame in clip.frames] == clip.indices.tolist()


def test_a_clip_of_a_folder(tmp_path, drawing, number_of):
    path = folder(tmp_path / "TVQA_frames", [f"{i}.jpg" for i in range(30)], drawing)
    with open_video(path) as video:
        assert (video.fps, video.duration) == (3.0, 10.0)
    clip = read_clip(path, 8, 4, (HEIGHT, WIDTH), start=2, end=6)
    # from picture 6 to picture 18, eight of them as published
    assert clip.indices.tolist() == [6 + round(12 / 7 * i) for i in range(8)]
    assert [number_of(frame) for frame in clip.frames] == clip.indices.tolist()
    assert clip.duration == 4.0
    with open_video(path, start=0, end=100) as video:
        assert (video.first, video.frames) == (1, 29)
    with pytest.raises(ValueError, match="expected start < end"):
        open_video(path, start=3, end=3)


def test_a_folder_without_pictures(tmp_path):
    with pytest.raises(ValueError, match="expected jpg, jpeg or png files, found none"):
        open_video(tmp_path)


def test_a_gif_counts_frames_as_seconds(tmp_path, make_video, number_of):
    """And has all of its frames, the repeated last one too."""
    path = make_video(tmp_path / "a.gif", 5, "gif", rate=10)
    clip = read_clip(path, size=(HEIGHT, WIDTH))
    assert [number_of(frame) for frame in clip.frames] == [0, 1, 2, 3, 4, 4, 4, 4]
    assert (clip.fps, clip.duration) == (1.0, 5.0)
    with open_video(path, start=1, end=4) as video:
        assert [number_of(frame) for frame in video.read(range(3))] == [1, 2, 3]


def test_too_many_pixels(tmp_path, monkeypatch, make_video, drawing):
    video, picture = make_video(tmp_path / "a.mp4", 2), save(tmp_path / "a.png", drawing(1))
    monkeypatch.setattr(base, "MOST_PIXELS", WIDTH * HEIGHT - 1)
    for open_it in (open_video, read_image):
        with pytest.raises(ValueError, match="at most 3,071 pixels a frame, got 64 x 48"):
            open_it(video if open_it is open_video else picture)
