"""Opening a video and reading what the model looks at: sampling, clips, key frames, errors."""

import pytest
import torch

from hico.model.video import frame_indices, open_video, read_clip

pytest.importorskip("av")


def numbers(frames, number_of):
    return [number_of(frame) for frame in frames]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_a_whole_video(tmp_path, name, make_video, number_of):
    path = make_video(tmp_path / name, 250, g="20")
    with open_video(path) as video:
        assert (video.frames, video.fps) == (250, 30.0) and video.duration == 250 / 30
    clip = read_clip(path, size=(48, 64))
    chosen = frame_indices(250, 30.0)
    assert torch.equal(clip.indices, chosen) and len(chosen) == 64
    assert numbers(clip.frames, number_of) == chosen.tolist()
    torch.testing.assert_close(clip.seconds, chosen / 30.0, atol=6e-4, rtol=0, check_dtype=False)
    assert (clip.duration, clip.fps) == (250 / 30, 30.0)
    assert read_clip(path, 8, 1).frames.shape == (8, 224, 224, 3)


def test_short_videos_repeat_their_last_frame(tmp_path, make_video, number_of):
    clip = read_clip(make_video(tmp_path / "a.mp4", 5), size=(48, 64))
    assert clip.indices.tolist() == [0, 1, 2, 3, 4, 4, 4, 4]
    assert numbers(clip.frames, number_of) == clip.indices.tolist()


def test_a_clip_in_seconds(tmp_path, make_video, number_of):
    path = make_video(tmp_path / "a.mp4", 240, g="30")
    with open_video(path, start=2.0, end=4.0) as video:
        assert (video.first, video.frames, video.duration) == (60, 60, 2.0)
        assert numbers(video.read([0, 59]), number_of) == [60, 119]
        assert video.seconds[0] == 0 and video.seconds[-1] == pytest.approx(59 / 30)
        with pytest.raises(ValueError, match="expected 0 to 59, got 60"):
            video.read([60])
    # as published: a tenth of a second before the end at the latest, and nothing before 0
    with open_video(path, start=-3, end=100) as video:
        assert (video.first, video.frames, video.duration) == (0, int(7.9 * 30), 7.9)
    with open_video(path, start=7.0) as video:
        assert (video.first, video.frames) == (210, 30)
    with open_video(path, start=7.99, end=9) as video:
        assert video.frames == 1 and number_of(video.read([0])[0]) == 239
    clip = read_clip(path, size=(48, 64), start=1, end=2)
    assert clip.indices[0] == 30 and clip.seconds[0] == 0 and clip.duration == 1
    assert numbers(clip.frames, number_of) == clip.indices.tolist()


@pytest.mark.parametrize("start, end", [(0.2, 0.2), (0.9, 0.1), (0, -1), (float("nan"), 1)])
def test_empty_and_reversed_clips(tmp_path, start, end, make_video):
    path = make_video(tmp_path / "a.mp4", 30)
    with pytest.raises(ValueError, match=f"clip: expected start < end, got {start} to {end} s"):
        open_video(path, start=start, end=end)


def test_a_clip_behind_the_end(tmp_path, make_video):
    with pytest.raises(ValueError, match=r"a start below the video's 1\.00 s, got 1"):
        open_video(make_video(tmp_path / "a.mp4", 30), start=1)


def test_a_clip_of_a_variable_rate(tmp_path, make_video, number_of):
    """Whatever the mean rate says, the frames that are on screen at that time."""
    times = [0, 40, 80, 500, 510, 520, 1700, 1733, 1766, 4000]
    path = make_video(tmp_path / "a.mkv", 10, "libx264", 25, times, g="4")
    with open_video(path, start=0.6, end=1.75) as video:
        assert numbers(video.read(range(video.frames)), number_of) == [5, 6, 7]
    with open_video(path) as video:
        assert video.fps == pytest.approx(10 / video.duration)


def test_key_frames_only(tmp_path, make_video, number_of):
    path = make_video(tmp_path / "a.mp4", 100, g="20", sc_threshold="0")
    with open_video(path) as video:
        assert video.snapped(range(0, 100, 9)).tolist() == [
            0, 0, 20, 20, 40, 40, 60, 60, 80, 80, 80, 80,
        ]  # fmt: skip
        assert numbers(video.read([99, 3, 31], keyframes="snap"), number_of) == [80, 0, 40]
        with pytest.raises(ValueError, match="keyframes: expected 'exact' or 'snap', got 'all'"):
            video.read([0], keyframes="all")
    with open_video(path, start=1, end=2) as video:
        assert numbers(video.stream([0, 29], keyframes="snap"), number_of) == [40, 40]
    clip = read_clip(path, 8, 8, (48, 64), keyframes="snap")
    assert set(clip.indices.tolist()) <= {0, 20, 40, 60, 80}
    assert numbers(clip.frames, number_of) == clip.indices.tolist()


def test_wrong_names(tmp_path, make_video):
    path = make_video(tmp_path / "a.mp4", 2)
    with pytest.raises(ValueError, match="backend: expected one of 'auto', 'av', 't"):
        open_video(path, backend="vlc")
    with pytest.raises(ValueError, match="threads: expected at least 1, got 0"):
        open_video(path, threads=0)
