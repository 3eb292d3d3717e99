"""hico-tiny's tokenizer: about a thousand pieces of what the worlds ask, and every byte."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hico.model.load import SPECIAL
from hico.model.processing import SYSTEM, VideoChatFlashProcessor
from hico.model.training.worlds import KINDS, make_world
from hico.model.training.worlds.cards import COLOURS, NUMBERS, SHAPES, WORDS
from hico.model.training.worlds.questions import described

SIZE = 1024
VALUES = tuple(dict.fromkeys((*COLOURS, *SHAPES, *WORDS)))
ENGLISH = Path(__file__).with_name("english.txt")
# what a card says is one piece wherever it stands, so that what is asked, seen and answered is the
# same; so are a digit, a letter of an option and what is around it
APART = rf"\b(?:{'|'.join(VALUES)})\b|\d|\b[A-D]\b(?=\))|[()\n]"
# words with the space before them, as in GPT-2
PLAIN = r" ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
WORLDS = 24  # of each kind


def train_tokenizer(size: int = SIZE) -> Any:
    """A byte-level BPE of at most `size` tokens, the same whenever and wherever it is trained.

    Every colour, shape and word of the cards is one token, with no space in it; so are digits,
    option letters, brackets and newlines. What it is trained on are questions and answers of all
    worlds, and english.txt.

    Raises:
        ValueError: too small a size for all that has to be one token.

    >>> from hico.model.training.tiny.tokenizer import train_tokenizer
    >>> tokenizer = train_tokenizer()
    >>> tokenizer.tokenize("a red star, lemon, 47")
    ['a', 'Ġ', 'red', 'Ġ', 'star', ',', 'Ġ', 'lemon', ',', 'Ġ', '4', '7']
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(APART), "isolated"),
            pre_tokenizers.Split(Regex(PLAIN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(texts(), trainer)
    broken = [word for word in VALUES if core.token_to_id(word) is None]
    if broken:
        raise ValueError(f"size: expected one token for each word of the cards, got {size}")
    end, start, stop = SPECIAL
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=end,
        eos_token=stop,
        additional_special_tokens=[start],
        clean_up_tokenization_spaces=False,
        model_max_length=262_144,
    )


def texts() -> Iterator[str]:
    """What the tokenizer is trained on, always the same."""
    yield from ENGLISH.read_text(encoding="utf-8").splitlines()
    yield from (SYSTEM, *("system", "user", "assistant") * 20)
    for word in VALUES:
        yield from [word] * 30  # or words would be left in pieces
    for frames in (64, 256, 1000, 10_000):
        yield from [VideoChatFlashProcessor.time_message(frames, range(frames))] * 10
    yield "What do the cards of the video show?"
    for kind in KINDS:
        for seed in range(WORLDS):
            world = make_world(kind, seed, 512, questions=8)
            for question in world.questions:
                for form in ("options", "free", "steps"):
                    yield from question.turn(form)
            yield "; ".join(described(one.card) for one in world.placements)
    yield " ".join(np.roll(NUMBERS, 1).tolist())


def write_tokenizer(tokenizer: Any, folder: str | os.PathLike[str]) -> None:
    """tokenizer.json and tokenizer_config.json, whole or not at all, for AutoTokenizer.

    Args:
        folder: must exist.
    """
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": tokenizer.pad_token,
        "eos_token": tokenizer.eos_token,
        "additional_special_tokens": [SPECIAL[1]],
        "clean_up_tokenization_spaces": False,
        "model_max_length": tokenizer.model_max_length,
    }
    replace_text(Path(folder) / "tokenizer.json", tokenizer.backend_tokenizer.to_str(pretty=True))
    replace_text(Path(folder) / "tokenizer_config.json", json.dumps(settings, indent=1))


def replace_text(path: Path, text: str) -> None:
    """Writes a file that is never seen half written."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
