"""Ids and labels, token for token, against the published way of making them, written anew."""

import pytest
from data_helpers import merging_tokenizer

from hico.model import VideoChatFlashProcessor
from hico.model.training.templates import always_learned, encode

SYSTEM = "You are a helpful assistant."
MESSAGE = VideoChatFlashProcessor.time_message(12.3, range(64))
SENTENCE = "The video lasts for 12.30 seconds, and 64 frames are uniformly sampled from it."


@pytest.fixture(scope="module")
def tokenizer():
    return merging_tokenizer()


@pytest.fixture(scope="module")
def pieces():
    """Ids of a text that may hold <image>, which is a special token here: an independent way."""
    other = merging_tokenizer(extra=["<image>"])
    image = other.convert_tokens_to_ids("<image>")

    def ids(text):
        found = other(text, add_special_tokens=False)["input_ids"]
        return [-200 if i == image else i for i in found]

    return ids


def by_hand(pieces, texts):
    """qwen_2 of (role, text) as the text stands, and what is learned of it."""
    newline, start, end = (pieces(t)[0] for t in ("\n", "<|im_start|>", "<|im_end|>"))
    ids, labels = [], []
    for role, text in [("system", SYSTEM), *texts]:
        new = pieces("<|im_start|>" + role + "\n" + text + "<|im_end|>" + "\n")
        for i in new:
            ids.append(i)
            keep = role == "assistant" or i in (newline, start, end)
            labels.append(i if keep and i != -200 else -100)
    return ids, labels


CASES = {
    "one turn": (
        [("human", "<image>\nWhat is it?"), ("gpt", "It is it.\n\nThe video.\n")],
        [("user", "<image>\nWhat is it?"), ("assistant", "It is it.\n\nThe video.\n")],
        None,
    ),
    "a message": (
        [("human", "<image>\nWhat is it?"), ("gpt", "It.")],
        [("user", f"<image>\n{SENTENCE} \nWhat is it?"), ("assistant", "It.")],
        MESSAGE,
    ),
    "an image in the middle goes first": (
        [("human", "What <image> is it? "), ("gpt", "It."), ("human", "And\n\n it?"), ("gpt", "x")],
        [
            ("user", "<image>\nWhat  is it?"),
            ("assistant", "It."),
            ("user", "And\n\n it?"),
            ("assistant", "x"),
        ],
        None,
    ),
    "and then gets its message": (
        [("human", "What is it?\n<image>"), ("gpt", "It.")],
        [("user", f"<image>\n{SENTENCE} \nWhat is it?"), ("assistant", "It.")],
        MESSAGE,
    ),
    "only the image": (
        [("human", " <image> "), ("gpt", "It.")],
        [("user", f"<image>\n{SENTENCE} "), ("assistant", "It.")],
        MESSAGE,
    ),
    "two images stay where they are": (
        [("human", "Is <image> it or <image>?"), ("gpt", "it <image> \n")],
        [("user", "Is <image> it or <image>?"), ("assistant", "<image>\nit")],
        None,
    ),
    "noise goes, the human's turns may follow each other": (
        [("human", "<image>\nQA_GT_caption_based_noisyWhat?"), ("human", "It?"), ("gpt", "It")],
        [("user", "<image>\nWhat?"), ("user", "It?"), ("assistant", "It")],
        None,
    ),
    "a system turn": (
        [("human", "<image>"), ("system", "Be\nkind."), ("gpt", "It \u6c34 caf\u00e9")],
        [("user", "<image>"), ("system", "Be\nkind."), ("assistant", "It \u6c34 caf\u00e9")],
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_qwen_2(name, tokenizer, pieces):
    turns, texts, message = CASES[name]
    ids, labels = encode(tokenizer, turns, "qwen_2", message)
    assert (ids.tolist(), labels.tolist()) == by_hand(pieces, texts)
    # again: nothing that was given has changed
    assert encode(tokenizer, turns, "qwen_2", message)[0].tolist() == ids.tolist()


def test_what_is_learned_of_a_question(tokenizer):
    """Single newlines and marks alone: two newlines in a row are another token."""
    turns = [("human", "a\n\nb\nc"), ("gpt", "d")]
    ids, labels = encode(tokenizer, turns, visual=False)
    text = [tokenizer.decode([i]) for i in labels[labels >= 0].tolist()]
    assert len(tokenizer("\n\n")["input_ids"]) == 1
    start, end = "<|im_start|>", "<|im_end|>"
    system, question = [start, "\n", end, "\n"], [start, "\n", "\n", end, "\n"]
    header = tokenizer.tokenize("assistant\nd")
    answer = [start, *(t.replace("\u010a", "\n") for t in header), end, "\n"]
    assert text == [*system, *question, *answer]
    assert labels[0] == ids[0] == tokenizer.convert_tokens_to_ids(start)


def test_text_alone_keeps_its_words(tokenizer):
    turns = [("human", "Is <image> QA_GT_caption_based_noisy?"), ("gpt", "It")]
    ids, _ = encode(tokenizer, turns, message=MESSAGE, visual=False)
    assert "user\nIs <image> QA_GT_caption_based_noisy?<" in tokenizer.decode(ids)


@pytest.mark.parametrize("message", [None, MESSAGE])
def test_plain(message, tokenizer, pieces):
    turns = [("human", "Tell <image> me\n"), ("gpt", "It is it.\n\nQA_GT_caption_based_noisy")]
    ids, labels = encode(tokenizer, turns, "plain", message)
    expected = pieces("<image>It is it.\n\n\n")
    assert ids.tolist() == expected and expected[0] == -200
    assert labels.tolist() == [-100, *expected[1:]]


@pytest.mark.parametrize(
    "turns, options, message",
    [
        ([("human", "<image>"), ("gpt", "a")], {"template": "chatml"}, "qwen_2"),
        ([("bot", "a"), ("gpt", "a")], {}, "role: expected one of 'human'"),
        ([("human", "a"), ("gpt", "a")], {"template": "plain"}, "a question with <image>"),
        ([("human", "<image>")] + 2 * [("gpt", "a")], {"template": "plain"}, "human, gpt, gpt"),
    ],
)
def test_refused(turns, options, message, tokenizer):
    with pytest.raises(ValueError, match=message):
        encode(tokenizer, turns, **options)


def test_a_tokenizer_without_the_marks(tokenizer):
    class Other:
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [ord(c) for c in text]}

    with pytest.raises(ValueError, match="one token each"):
        always_learned(Other())
    assert len(always_learned(tokenizer)) == 3
