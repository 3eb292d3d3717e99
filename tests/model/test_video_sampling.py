"""Which frames are looked at: the published rule and its golden values."""

import pytest
import torch

from hico.model._opening import frames_of
from hico.model.load import random_model
from hico.model.video import frame_indices, open_video

# frames, fps -> how many, and the first and last of them, from the published code
INFERENCE = {
    (300, 30): (64, [1, 6, 11, 15], [292, 297]),
    (900, 30): (64, [6, 20, 34, 48], [877, 892]),
    (3000, 30): (96, [15, 46, 77, 108], [2952, 2983]),
    (18000, 30): (512, [17, 52, 87, 122], [17946, 17981]),
    (10, 1): (8, [0, 1, 2, 3], [7, 8]),
    (63, 30): (56, [], []),
    (100, 30): (64, [0, 1, 3, 4], [96, 98]),
    (1, 30): (8, [0] * 8, [0]),
    (5, 30): (8, [0, 1, 2, 3, 4, 4, 4, 4], [4]),
}
STAGE_3 = {(3000, 30): (100, [14, 44, 74, 104], [2954, 2984]), (63, 30): (60, [], [])}
STAGE_2 = {
    (300, 30): (8, [18, 55, 93, 130, 168, 205, 243, 280], []),
    (100, 30): (4, [12, 37, 62, 87], []),
}
RULES = [(INFERENCE, {}), (STAGE_3, dict(local=4)), (STAGE_2, dict(local=4, min_frames=1))]


def test_golden_indices():
    for golden, options in RULES:
        most = dict(max_frames=8) if golden is STAGE_2 else {}
        for (frames, fps), (count, head, tail) in golden.items():
            got = frame_indices(frames, fps, **options, **most)
            assert got.dtype == torch.int64 and len(got) == count
            assert got[: len(head)].tolist() == head
            assert got[count - len(tail) :].tolist() == tail


def test_the_minimum_wins_and_the_maximum_cuts():
    assert len(frame_indices(18000, 30.0, max_frames=32)) == 64
    assert len(frame_indices(18000, 30.0, max_frames=-1)) == 600
    assert len(frame_indices(18000, 30.0, min_frames=8, max_frames=100)) == 100
    assert frame_indices(100, 30.0, max_frames=4, mode="middle").tolist() == [12, 37, 62, 87]
    assert frame_indices(2, 30.0, max_frames=4, mode="middle").tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((0, 30.0), "frames: expected at least 1, got 0"),
        ((10, 0.0), "fps: expected a positive number, got 0.0"),
        ((10, float("nan")), "fps: expected a positive number, got nan"),
        ((10, 30.0, 1, 0, 8, "middle"), "max_frames: expected at least 1, got 0"),
        ((10, 30.0, 1, 8, 0), "local: expected at least 1, got 0"),
        ((10, 30.0, 1, 8, 8, "rand"), "each_second, middle, got 'rand'"),
    ],
)
def test_nonsense_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        frame_indices(*arguments)


@pytest.mark.parametrize("frames", [100, 101, 102, 255])
def test_each_second_keeps_clips_where_they_are(frames):
    chosen = frame_indices(frames, 1.0, 4, 512, 4, "each_second").tolist()
    assert chosen[:frames] == list(range(frames))
    assert set(chosen[frames:]) <= {frames - 1} and len(chosen) % 4 == 0
    thirty = frame_indices(30 * frames, 30.0, 4, 512, 4, "each_second").tolist()
    assert thirty[:frames] == list(range(15, 30 * frames, 30))


@pytest.mark.parametrize("frames", [3, 40, 600])
def test_each_second_of_other_lengths_is_as_published(frames):
    assert torch.equal(
        frame_indices(frames, 1.0, 64, 512, 4, "each_second"),
        frame_indices(frames, 1.0, 64, 512, 4),
    )


@pytest.mark.parametrize(
    "mode, wanted", [("each_second", [*range(101), *[100] * 3]), ("dynamic_fps1", None)]
)
def test_a_model_says_how_its_videos_are_read(tmp_path, mode, wanted):
    """In 101 seconds the published rule leaves out frames; hico-tiny's clips are of four."""
    image = pytest.importorskip("PIL.Image")
    for i in range(101):
        image.new("RGB", (8, 8)).save(tmp_path / f"{i:03}.png")
    model, _ = random_model(device="cpu")
    model.config.video_sampling = mode
    with open_video(tmp_path) as video:
        assert frames_of(model, video, 512).tolist() == (wanted or frame_indices(101, 1).tolist())
