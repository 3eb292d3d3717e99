"""Clip modes: their counts, their values against plain loops, and the frames that are looked at."""

import math

import pytest
import torch
from needle_helpers import small_model

from hico.model.vision import Connector
from hico.model.vision.clip_modes import MODES, clip_tokens, kept_frames, tokens_left

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
SIZES = [(784, 64, 4), (256, 64, 4), (196, 49, 1), (64, 64, 1), (144, 4, 4)]


def by_loops(x, count, frames):
    """Cell by cell: the mean over every frame, row and column that the cell touches."""
    n, side = len(x), math.isqrt(count)
    rows = math.isqrt(n // frames)
    patch = x.view(frames, rows, rows, -1)
    ends = [(i * rows // side, -(-(i + 1) * rows // side)) for i in range(side)]
    cells = [patch[:, a:b, c:d].flatten(0, 2).mean(0) for a, b in ends for c, d in ends]
    return torch.stack(cells)


@pytest.mark.parametrize("n, count, frames", SIZES)
def test_mean_averages_every_cell(n, count, frames):
    x = torch.randn(3, n, 8, dtype=torch.float64)
    found = clip_tokens(x, x, "mean", count, frames)
    assert found.shape == (3, count, 8)
    torch.testing.assert_close(found, torch.stack([by_loops(one, count, frames) for one in x]))


@pytest.mark.parametrize("n, count, frames", SIZES)
def test_similarity_is_the_published_merge_and_the_rest_stays(n, count, frames):
    x, metric = torch.randn(2, n, 8), torch.randn(2, n, 4)
    found = clip_tokens(x, metric, "similarity", count, frames)
    want = Connector(8, 16, num_heads=2, tokens_per_clip=count).merge(x, metric).tokens
    torch.testing.assert_close(found, want)
    for mode in ("frames", "none"):
        assert clip_tokens(x, metric, mode, count, frames) is x
    for mode in MODES:
        assert clip_tokens(x, metric, mode, count, frames).shape[1] == tokens_left(n, mode, count)


@pytest.mark.parametrize("frames", [4, 48, 52, 64, 1000, 10_000])
@pytest.mark.parametrize("patches", [784, 256, 64])
def test_frames_that_are_left_fill_the_budget(frames, patches):
    for mode in ("similarity", "mean", "none"):
        assert kept_frames(frames, mode, patches).tolist() == list(range(frames))
    kept = kept_frames(frames, "frames", patches)
    clips = len(kept) // 4
    assert len(kept) % 4 == 0 and clips >= 1 and (clips == 1 or clips * patches <= 16 * frames)
    assert (clips + 1) * patches > 16 * frames
    assert kept.tolist() == [int((i + 0.5) * frames / len(kept)) for i in range(len(kept))]


@pytest.mark.parametrize(
    "shape, mode, count, said",
    [
        ((2, 64, 8), "other", 16, "mode: expected"),
        ((2, 64, 8), "mean", 65, "at least 65"),
        ((2, 64, 8), "similarity", 65, "at least 65"),
        ((2, 64, 8), "mean", 15, "square"),
        ((2, 60, 8), "mean", 4, "square"),
        ((64, 8), "none", 4, "tokens"),
    ],
)
def test_inputs_that_do_not_fit(shape, mode, count, said):
    with pytest.raises(ValueError, match=said):
        clip_tokens(torch.randn(shape), torch.randn(shape), mode, count)
    for frames in (0, 3, 6):
        with pytest.raises(ValueError, match="multiple of 4"):
            kept_frames(frames, "frames", 784)


@torch.no_grad()
@pytest.mark.parametrize("mode", MODES)
def test_encode_video_in_every_mode(mode):
    model, _ = small_model()
    frames = torch.randint(256, (12, 32, 32, 3), dtype=torch.uint8)
    clips = model._pixels(frames).unflatten(0, (3, 4))
    connector = model.model.mm_projector
    x, metric = model.encoder(clips, return_metric=True)
    want = connector.mlp(clip_tokens(x, metric, mode)).flatten(0, 1)
    for chunk in (2, 64):
        found = model.encode_video(frames, chunk, mode=mode)
        torch.testing.assert_close(found, want, atol=1e-5, rtol=1e-5)
    assert len(want) == 3 * (64 if mode in ("similarity", "mean") else 256)
    assert torch.equal(model.encode_video(frames), model.encode_video(frames, mode="similarity"))
    with pytest.raises(ValueError, match="mode"):
        model.encode_video(frames, mode="half")
