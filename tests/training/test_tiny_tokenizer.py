"""hico-tiny's tokenizer: what is one token, what comes back, and that it is always the same."""

import hashlib

import pytest
from transformers import AutoTokenizer

from hico.model.training.templates import always_learned
from hico.model.training.tiny.tokenizer import SIZE, VALUES, train_tokenizer, write_tokenizer

ASKED = (
    "Find the frame of a red star with the word lemon. what is the number on the card\n"
    "Options: (A) 47\n(B) 42\n(C) 74\n(D) 17\nOnly give the best option. Best option: ("
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def test_always_the_same(tokenizer):
    """A change of this is a change of the shipped model."""
    assert len(tokenizer) == SIZE
    whole = tokenizer.backend_tokenizer.to_str()
    assert train_tokenizer().backend_tokenizer.to_str() == whole
    assert hashlib.sha256(whole.encode()).hexdigest()[:16] == "784ca60156e3f9e3"


@pytest.mark.parametrize("before", ["", " ", "(", "\n"])
def test_what_a_card_says_is_one_token_wherever_it_stands(tokenizer, before):
    for word in VALUES:
        ids = tokenizer(f"{before}{word}, then").input_ids
        assert tokenizer.convert_tokens_to_ids(word) in ids, word


def test_letters_digits_and_brackets(tokenizer):
    tokens = tokenizer.tokenize(ASKED)
    for one in (*"ABCD", "(", ")", *"1247"):
        assert one in tokens
    assert "".join(tokens).count("Ċ") == tokens.count("Ċ")
    # the letter that is given is the letter that was offered
    assert tokenizer.tokenize("B") == ["B"]
    assert len(tokens) < 70


@pytest.mark.parametrize(
    "text", [ASKED, "", " a  b\n\n c", "naïve 東京 \U0001f600", "tulips Tulip"]
)
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_the_template_of_training_takes_it(tokenizer):
    ids = tokenizer("<|im_start|>user\nA<|im_end|>\n").input_ids
    assert len(ids) == 6 and len(always_learned(tokenizer)) == 3


def test_written_and_opened_again(tokenizer, tmp_path):
    write_tokenizer(tokenizer, tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    assert again(ASKED).input_ids == tokenizer(ASKED).input_ids
    assert (again.eos_token, again.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_too_small():
    with pytest.raises(ValueError, match="size: expected one token for each word"):
        train_tokenizer(400)
