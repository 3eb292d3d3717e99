"""A tokenizer with merges, and folders of annotations in the published format."""

import json

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from video_helpers import draw, make, save

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# as Qwen2 splits: a mark takes the newlines behind it, and newlines stay together
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEXT = ["What is it?\nIt is it\n\nThe video. \nIt is it. \n\nuser assistant system\n"]


def merging_tokenizer(extra=()):
    """Byte pairs, with "\\n\\n", " \\n" and "?\\n" merged, and the special tokens of Qwen2."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    inner.train_from_iterator(TEXT * 50, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=SPECIAL[2], pad_token=SPECIAL[0]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [*SPECIAL, *extra]})
    return tokenizer


def said(question, answer="It is a cat."):
    """A conversation of one question, as published."""
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_data(folder):
    """Media and one row for each kind of them in a.json; returns the rows as they stand there."""
    make(folder / "a.mp4", 60)
    make(folder / "b.gif", 10, "gif", rate=10)
    shots = folder / "shots"
    shots.mkdir()
    for number in range(20):
        # listed by no file system in this order, and without the published underscore
        save(shots / f"{(number * 7) % 20:05}.png", draw((number * 7) % 20))
    save(folder / "c.png", draw(3))
    save(folder / "d.png", draw(4, 200, 90))
    question = "<image>\nWhat is it?"
    rows = [
        {"id": 7, "video": "a.mp4", "conversations": said(question)},
        {"video": "b.gif", "video_read_type": "gif", "conversations": said("What? <image>")},
        {"video": "shots", "start": 2, "end": 15, "conversations": said(question)},
        {"image": "d.png", "conversations": said(question)},
        {"image": ["c.png", "d.png"], "conversations": said("<image> or <image>?")},
        {"conversations": said("Who are you?")},
        {"video": "x", "video_read_type": "fake", "conversations": said(question)},
    ]
    (folder / "a.json").write_text(json.dumps(rows))
    return rows
