"""Batches against single runs, training, and what forward and generate accept and refuse."""

import copy

import pytest
import torch
from model_helpers import official, published_state, random_parts, write_folder
from torch.nn.utils.rnn import pad_sequence

import hico
from hico.model import DropoutSettings, VideoChatFlashForConditionalGeneration
from hico.model._pixels import normalize
from hico.model._visual import image_features
from hico.model.vision import image_tiles, tile_grid

GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
SETTINGS = DropoutSettings((1, 2), (1.0, 0.6, 0.25))
pytestmark = pytest.mark.usefixtures("plain_on_cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    config = official(eos_token_id=None)
    state = published_state(*random_parts(config))
    return write_folder(tmp_path_factory.mktemp("model"), config, state)


@pytest.fixture
def model(folder, device):
    return VideoChatFlashForConditionalGeneration.from_pretrained(folder).to(device)


@pytest.fixture
def rows():
    """Ids and pixels of a video, a text, a longer video and an image."""
    ids = [[5, -200, 7, 8], [9, 10, 11], [12, 13, 14, 15, -200, 16, 17, 18, 19], [20, -200, 21]]
    pixels = [torch.randn(t, 3, 40, 40) for t in (4, 12, 1)]
    pixels.insert(1, None)
    return [torch.tensor(row) for row in ids], pixels


def padded(ids, side, device):
    options = {"batch_first": True, "padding_side": side}
    mask = pad_sequence([torch.ones_like(row) for row in ids], **options)
    return pad_sequence(ids, padding_value=3, **options).to(device), mask.to(device)


def calls(module):
    """A list that grows by the rows of each forward of the module."""
    seen = []
    module.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    return seen


@pytest.mark.parametrize("side, attention", [("left", "sdpa"), ("right", "eager")])
@pytest.mark.parametrize("dropout", [None, SETTINGS], ids=["whole", "dropout"])
def test_batch_is_single_runs(dropout, side, attention, model, rows, device):
    model.set_attn_implementation(attention)
    (ids, pixels), options = rows, GREEDY | {"dropout": dropout}
    alone = [
        model.generate(
            row[None].to(device), pixel_values_videos=None if p is None else [p], **options
        )[0]
        for row, p in zip(ids, pixels, strict=True)
    ]
    batch, mask = padded(ids, side, device)
    steps, logits = calls(model.model.layers[0]), calls(model.lm_head)
    seen = [p for p in pixels if p is not None]
    out = model.generate(batch, attention_mask=mask, pixel_values_videos=seen, **options)
    assert torch.equal(out, torch.stack(alone))
    # the longest row: 192 tokens of a video and 8 of text
    assert steps == [200, *[1] * 5] and logits == [1] * 6


def test_beams_and_returned_sequences(model, rows, device):
    ids, pixels = rows[0][0][None].to(device), rows[1][:1]
    options = {"pixel_values_videos": pixels, "dropout": SETTINGS, **GREEDY}
    beams = model.generate(ids, num_beams=3, num_return_sequences=2, **options)
    assert beams.shape == (2, 6)
    batch, mask = padded(rows[0][:2], "left", device)
    two = model.generate(batch, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(two[0], beams[0])
    sampled = options | {"do_sample": True, "num_return_sequences": 3}
    assert model.generate(ids, **sampled).shape == (3, 6)


@torch.no_grad()
def test_several_images_in_a_row(model, device):
    ids = torch.tensor([[5, -200, 6, -200, 7], [8, 9, -200, 10, 3]])
    mask = torch.tensor([[1] * 5, [1] * 4 + [0]])
    images = [torch.randn(1, 3, 40, 40) for _ in range(3)]
    out = model(ids.to(device), mask.to(device), pixel_values_videos=images).logits
    first = model(ids[:1].to(device), pixel_values_videos=images[:2]).logits
    second = model(ids[1:, :4].to(device), pixel_values_videos=torch.stack(images[2:])).logits
    torch.testing.assert_close(out[0], first[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(out[1, : second.shape[1]], second[0], rtol=1e-4, atol=1e-4)
    # a single span cannot name two images
    with pytest.raises(ValueError, match="visual_spans"), SETTINGS.use(model):
        model(ids.to(device), mask.to(device), pixel_values_videos=images)


@torch.no_grad()
def test_tiles(model, device):
    image = torch.randint(0, 256, (90, 130, 3), dtype=torch.uint8)
    rows, columns = tile_grid(90, 130, 40)
    (features,) = model.encode_images([image])
    assert len(features) == 64 * (1 + rows * columns)
    tokens = torch.arange(64 * (1 + rows * columns)).view(-1, 64, 1)
    mosaic = image_features(tokens, (rows, columns))[64:].view(rows * 8, columns * 8)
    for y in range(rows * 8):
        for x in range(columns * 8):
            tile = 1 + y // 8 * columns + x // 8
            assert mosaic[y, x] == tile * 64 + y % 8 * 8 + x % 8
    assert torch.equal(image_features(tokens, (rows, columns), flat=True), tokens.flatten(0, 1))
    assert torch.equal(image_features(tokens[:1], None), tokens[0])
    tiles = normalize(image_tiles(image, 40))
    given = {"modalities": ["image"], "image_grids": [(rows, columns)]}
    (again,) = model.visual_features([tiles], **given)
    torch.testing.assert_close(again, features)


def test_training(model, device):
    ids, frames = (
        torch.tensor([[5, -200, 7, 8, 9], [5, -200, 9, 3, 3]]),
        torch.randn(2, 8, 3, 40, 40),
    )
    mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2])
    labels = ids.masked_fill(torch.tensor([[1, 1, 1, 0, 0], [1, 1, 0, 1, 1]]).bool(), -100)
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    given = {name: t.to(device) for name, t in given.items()} | {"pixel_values_videos": frames}
    model.train()
    plain = model(**given)
    logits = plain.logits[0, 1 + 128 : 1 + 128 + 2], plain.logits[1, 1 + 128 - 1 : 1 + 128]
    target = torch.tensor([8, 9, 9], device=device)
    want = torch.nn.functional.cross_entropy(torch.cat(logits), target)
    torch.testing.assert_close(plain.loss, want)
    plain.loss.backward()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert all(g is not None and g.isfinite().all() for g in grads.values())
    assert grads["model.vision_tower.vision_tower.encoder.patch_embed.proj.weight"].any()
    model.zero_grad()
    model.gradient_checkpointing_enable()
    with SETTINGS.use(model) as run:
        loss = model(**given).loss
    loss.backward()
    assert [rows.shape[1] for rows in run.kept] == [4 + 76, 4 + 32]
    model.config.mm_llm_compress, model.config.llm_compress_type = True, SETTINGS.kind
    model.config.llm_compress_layer_list = list(SETTINGS.layers)
    model.config.llm_image_token_ratio_list = list(SETTINGS.ratios)
    torch.testing.assert_close(model(**given).loss, loss)


@torch.no_grad()
def test_frames_arrive_one_by_one(model, device):
    frames, done = torch.randint(0, 256, (12, 40, 40, 3), dtype=torch.uint8), []
    whole = model.encode_video(frames)
    assert whole.shape == (192, 32)
    for chunk in (1, 2):
        parts = model.encode_video((f for f in frames), chunk=chunk, progress=done.append)
        torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)
    assert done == [4, 4, 4, 8, 4]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    floats = ((frames / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(model.encode_video(floats), whole, rtol=1e-4, atol=1e-4)
    for bad, message in (
        (frames[:6], "multiple of 4"), (frames[:0], "multiple of 4"), (iter(()), "got 0"),
        (frames.transpose(1, 3), "uint8"), (frames[:, :20], "T, 3, 40, 40"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            model.encode_video(bad)


def test_text_goes_as_in_transformers(model, device):
    ids = torch.tensor([[5, 6, 7]], device=device)
    new = model.generate(ids, **GREEDY)
    assert new.shape == (1, 6)
    torch.testing.assert_close(
        model(ids).logits, model(inputs_embeds=model.model.embed_tokens(ids)).logits
    )
    twin = copy.deepcopy(model)
    assert torch.equal(twin.generate(input_ids=ids, **GREEDY), new)


def test_long_prompts_are_not_cut(model, device, caplog):
    features = torch.randn(4090, 32, device=device)
    ids = torch.tensor([[5, -200, *range(20, 30)]], device=device)
    embedded = model.embed(ids, [features])
    assert embedded.inputs_embeds.shape[1] == 4101 and embedded.visual_spans == [(1, 4091)]
    assert model(ids, visual_features=features).logits.shape[1] == 4101


BAD = {
    "frames": ([[1, -200]], {"pixel_values_videos": torch.zeros(6, 3, 40, 40)}, "multiple of 4"),
    "size": ([[1, -200]], {"pixel_values_videos": torch.zeros(4, 3, 20, 40)}, "3, 40, 40"),
    "bytes": ([[1, -200]], {"pixel_values_videos": torch.zeros(4, 3, 40, 40).byte()}, "floating"),
    "too few": ([[1, 2]], {"pixel_values_videos": torch.zeros(4, 3, 40, 40)}, "got 0"),
    "too many": ([[-200, -200]], {"visual_features": torch.zeros(4, 32)}, "got 2"),
    "nothing": ([[1, -200]], {}, "got 1"),
    "width": ([[1, -200]], {"visual_features": [torch.zeros(4, 31)]}, "n, 32"),
    "both": ([[1, -200]], {"visual_features": torch.zeros(4, 32),
             "pixel_values_videos": torch.zeros(4, 3, 40, 40)}, "got both"),
    "mask": ([[1, 2]], {"attention_mask": torch.ones(1, 3)}, "attention_mask"),
    "modality": ([[1, -200]], {"pixel_values_videos": torch.zeros(4, 3, 40, 40),
                 "modalities": ["sound"]}, "modalities"),
    "grid": ([[1, -200]], {"pixel_values_videos": torch.zeros(5, 3, 40, 40),
             "modalities": ["image"]}, "image_grids"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refused(name, model, device):
    ids, given, message = BAD[name]
    steps = calls(model.model.layers[0])
    for call in (model, model.generate):
        if name == "mask" and call is model:
            continue  # text goes to transformers as it is
        with pytest.raises(ValueError, match=message):
            call(torch.tensor(ids, device=device), **given)
    assert not steps


def test_settings():
    assert DropoutSettings.parse("18:0.25", kind="attention").ratios == (1.0, 0.25)
    for text in ("", "4", "4:x", "4:0.5,18:0.75", "4:0.5:1"):
        with pytest.raises(ValueError, match="dropout|ratios"):
            DropoutSettings.parse(text)
    with pytest.raises(ValueError, match="kind"):
        DropoutSettings((1,), (1, 0.5), "most")
    assert hico.progressive_dropout and hash(SETTINGS)
