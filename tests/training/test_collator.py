"""Samples to batches, and what is cut off."""

import pytest
import torch

from hico.model.training.collator import Collator, cut, visual_counts

IMAGE = -200


def sample(ids, seen=()):
    """Ids, each its own label but for -200, and (modality, frames or tiles) of each -200."""
    ids = torch.tensor(ids)
    return {
        "input_ids": ids,
        "labels": torch.where(ids == IMAGE, -100, ids),
        "pixel_values_videos": [torch.zeros(count, 3, 8, 8) for _, count in seen],
        "modalities": [kind for kind, _ in seen],
        "image_grids": [(1, n - 1) if k == "image" and n > 1 else None for k, n in seen],
    }


SAMPLES = [
    sample([5, IMAGE, 6], [("video", 8)]),
    sample([7, 8]),
    sample([0, IMAGE, 2, IMAGE], [("image", 3), ("image", 1)]),
]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch(side):
    batch = Collator(pad_id=0, max_length=999, padding_side=side)(SAMPLES)
    pad = {"right": lambda row, x: [*row, *[x] * (4 - len(row))]}
    pad["left"] = lambda row, x: [*[x] * (4 - len(row)), *row]
    ids = [s["input_ids"].tolist() for s in SAMPLES]
    assert batch["input_ids"].tolist() == [pad[side](row, 0) for row in ids]
    labels = [s["labels"].tolist() for s in SAMPLES]
    assert batch["labels"].tolist() == [pad[side](row, -100) for row in labels]
    # an id that is the padding's is no padding
    assert batch["attention_mask"].tolist() == [pad[side]([1] * len(row), 0) for row in ids]
    assert batch["modalities"] == ["video", "image", "image"]
    assert [len(p) for p in batch["pixel_values_videos"]] == [8, 3, 1]
    assert batch["image_grids"] == [None, (1, 2), None]
    assert all(batch[n].dtype == torch.int64 for n in ("input_ids", "labels", "attention_mask"))


def test_a_batch_of_text():
    batch = Collator(0, 999)([SAMPLES[1], {n: SAMPLES[1][n] for n in ("input_ids", "labels")}])
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_cut():
    """Tokens of what is seen count: 16 a frame, 64 a tile."""
    long = sample([1, IMAGE, *range(2, 40)], [("video", 8)])
    assert visual_counts(long) == [128] and visual_counts(SAMPLES[2]) == [192, 64]
    assert cut(long, 128 + 39) is long
    shorter = cut(long, 128 + 10)
    assert shorter["input_ids"].tolist() == [1, IMAGE, *range(2, 11)]
    assert shorter["labels"].tolist() == [1, -100, *range(2, 11)]
    assert len(long["input_ids"]) == 40
    assert Collator(0, 130)([long])["input_ids"].tolist() == [[1, IMAGE, 2]]
    with pytest.raises(ValueError, match="all that is seen within 128 tokens, got 167 tokens, 128"):
        cut(long, 128)


def test_refused():
    with pytest.raises(ValueError, match="one -200 for each of 1 videos and images, got 0"):
        Collator(0, 99)([sample([1, 2], [("video", 4)])])
    with pytest.raises(ValueError, match="samples: expected at least one"):
        Collator(0, 99)([])
    for options in ({"pad_id": None}, {"max_length": 0}, {"padding_side": "top"}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}: expected"):
            Collator(**{"pad_id": 0, "max_length": 9} | options)
