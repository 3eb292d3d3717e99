"""Prompts as published, ids with -200, pixels, and the processor's folder."""

import json

import pytest
import torch
from model_helpers import official, published_state, random_parts, write_folder
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoProcessor, PreTrainedTokenizerFast

from hico.model import (
    VideoChatFlashForConditionalGeneration,
    VideoChatFlashProcessor,
    VideoSession,
)
from hico.model._pixels import normalize
from hico.model.video import resize_frames
from hico.model.vision import square_image

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
SENTENCE = "The video lasts for 12.30 seconds, and 64 frames are uniformly sampled"


def make_tokenizer():
    """A byte a token and the special tokens of Qwen2."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
    return tokenizer


@pytest.fixture(scope="module")
def processor():
    return VideoChatFlashProcessor(make_tokenizer(), image_size=40)


def test_prompts(processor):
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    message = processor.time_message(12.3, range(64))
    assert message == f"\n{SENTENCE} from it. "
    first = f"<|im_start|>user\n<image>\n{SENTENCE} from it. Why?<|im_end|>\n"
    answer = "<|im_start|>assistant\n"
    assert processor.prompt("Why?", message=message) == system + first + answer
    more = f"{answer}So.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n{answer}"
    told = processor.prompt("And?", history=[("Why?", "So.")], message=message)
    assert told == system + first + more
    assert processor.prompt("Why?", visual=False) == system + first.replace(
        f"<image>\n{SENTENCE} from it. ", ""
    ) + answer  # fmt: skip
    assert "<|im_start|>user\n<image>\nWhy?" in processor.prompt("Why?")
    assert processor.prompt("Is <image> new?").count("<image>") == 1
    told = processor.time_message(2, torch.tensor([0.04, 0.55, 1.0]), style="list")
    assert told == (
        "\nThe video lasts for 2.00 seconds, and 3 frames are uniformly sampled "
        "at 0.0, 0.6, 1.0 seconds. "
    )


def test_ids(processor):
    tokenizer = processor.tokenizer
    ids = processor.ids("<|im_start|>a<image>\nb<image>")
    start = tokenizer.convert_tokens_to_ids("<|im_start|>")
    pieces = [tokenizer(text)["input_ids"] for text in ("a", "\nb")]
    assert ids.tolist() == [[start, *pieces[0], -200, *pieces[1], -200]]
    assert processor.ids("<image>").tolist() == [[-200]]
    assert processor.decode(processor.ids("caf\u00e9 \u6c34")[0]) == "caf\u00e9 \u6c34"


def test_call(processor):
    video = torch.randint(0, 256, (8, 30, 50, 3), dtype=torch.uint8)
    image = torch.randint(0, 256, (90, 130, 3), dtype=torch.uint8)
    texts = ["one <image>", "a longer text", "<image> two"]
    out = processor(texts, videos=[video, image], padding_side="left")
    assert out["modalities"] == ["video", "image"] and out["image_grids"] == [None, (3, 4)]
    assert [list(p.shape) for p in out["pixel_values_videos"]] == [[8, 3, 40, 40], [13, 3, 40, 40]]
    assert all(p.dtype == torch.float32 for p in out["pixel_values_videos"])
    rows = [processor.ids(text)[0].tolist() for text in texts]
    ids, mask = out["input_ids"], out["attention_mask"]
    assert [i[m == 1].tolist() for i, m in zip(ids, mask, strict=True)] == rows
    assert (
        bool((mask.diff(dim=1) >= 0).all())
        and (ids[mask == 0] == processor.tokenizer.pad_token_id).all()
    )
    right = processor(texts, videos=[video, image], padding_side="right")["attention_mask"]
    assert bool((right.diff(dim=1) <= 0).all())
    alone = processor("x <image>", videos=video)
    assert alone["input_ids"].shape[0] == 1 and len(alone["pixel_values_videos"]) == 1
    assert processor("<image>", images=image)["modalities"] == ["image"]
    assert "pixel_values_videos" not in processor("text")


def test_several_images_of_one_prompt(processor):
    """Each in a square, as published; in prompts of their own they are cut into tiles."""
    images = [torch.randint(0, 256, (90, 130, 3), dtype=torch.uint8) for _ in range(2)]
    out = processor("<image> or <image>?", images=images)
    assert [p.shape for p in out["pixel_values_videos"]] == [(1, 3, 40, 40)] * 2
    assert out["modalities"] == ["image"] * 2 and out["image_grids"] == [None] * 2
    for pixels, image in zip(out["pixel_values_videos"], images, strict=True):
        assert torch.equal(pixels[0], normalize(square_image(image, 40)))
    apart = processor(["<image>", "<image>"], images=images)
    assert apart["image_grids"] == [(3, 4)] * 2


@pytest.mark.parametrize(
    "given, message",
    [
        ({"text": "a"}, "got 0"),
        ({"text": "<image><image>"}, "got 2"),
        ({"text": "<image>", "images": torch.zeros(4, 4, 3).byte()}, "both"),
        ({"text": "<image>", "videos": [torch.zeros(3, 4)]}, r"T, H, W, 3"),
        ({"text": "<image>", "videos": torch.zeros(4, 8, 8, 3)}, "uint8"),
        ({"text": None}, "text"),
        ({"text": ["<image>", "bc"], "padding": False}, "padding"),
        ({"text": "<image>", "audio": 1}, "audio"),
    ],
)
def test_refused(given, message, processor):
    video = torch.zeros(4, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=message):
        processor(**{"videos": video} | given)


def test_folder(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is VideoChatFlashProcessor and again.image_size == 40
    text = processor.prompt("What?")
    assert torch.equal(again.ids(text), processor.ids(text))
    changed = VideoChatFlashProcessor.from_pretrained(tmp_path, image_size=64)
    assert changed.image_size == 64


@pytest.mark.parametrize("tower, size", [("umt-large", 224), ("umt-hd-large", 448)])
def test_official_folder_has_no_processor_file(tower, size, tmp_path):
    config = official(vision_config=None, mm_vision_tower=tower)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises((OSError, ValueError)):
        VideoChatFlashProcessor.from_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    for load in (VideoChatFlashProcessor.from_pretrained, AutoProcessor.from_pretrained):
        assert load(tmp_path).image_size == size


@pytest.mark.usefixtures("plain_on_cpu")
def test_from_words_to_words(processor, tmp_path, device):
    config = official(vocab_size=300, eos_token_id=258)
    write_folder(tmp_path, config, published_state(*random_parts(config)))
    processor.save_pretrained(tmp_path)
    model = VideoChatFlashForConditionalGeneration.from_pretrained(tmp_path).to(device)
    video = torch.randint(0, 256, (8, 30, 50, 3), dtype=torch.uint8)
    text = processor.prompt("What?", message=processor.time_message(2.0, range(8)))
    out = model.generate(**processor(text, videos=video).to(device), max_new_tokens=4)
    features = model.encode_video(resize_frames(video, (40, 40)))
    again = model.generate(
        processor.ids(text).to(device), visual_features=features, max_new_tokens=4
    )
    assert torch.equal(out, again) and isinstance(processor.decode(out[0]), str)
    answer = model.ask(video, "What?", max_new_tokens=4)
    assert answer == VideoSession.open(model, processor, video).ask("What?", max_new_tokens=4)
