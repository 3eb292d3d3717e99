"""Conversations to ids and to labels, token for token as published."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hico.adapters._dropout_rows import IGNORED, IMAGE_TOKEN
from hico.model.processing import IMAGE, SYSTEM, token_ids
from hico.ops import _check

TEMPLATES = ("qwen_2", "plain")
SPOKEN = {"human": "user", "gpt": "assistant", "system": "system"}
# a mark that a published data set left in its questions, and that the published code takes out
NOISE = "QA_GT_caption_based_noisy"
MARKS = ("<|im_start|>", "<|im_end|>")


def encode(
    tokenizer: Any,
    turns: Sequence[tuple[str, str]],
    template: str = "qwen_2",
    message: str | None = None,
    visual: bool = True,
) -> tuple[Tensor, Tensor]:
    """A conversation -> ids with -200 for `<image>`, and labels with -100 for what is not learned.

    "qwen_2": `<|im_start|>{role}\\n{text}<|im_end|>\\n` for the system and for each turn, tokenised
    one by one. Learned are the answers with their headers, and the newline, `<|im_start|>` and
    `<|im_end|>` wherever they occur, in questions and in the system's words too.
    "plain": `<image>{answer}\\n` for a question and an answer; learned is all but the `<image>`.

    Args:
        tokenizer: of Qwen2 or with its special tokens.
        turns: (role, text), roles "human", "gpt" and "system".
        template: "qwen_2" or "plain".
        message: the processor's time_message of a video; "plain" does not use it.
        visual: False = `<image>` is text like any other.

    Returns:
        ids, labels: int64 [L].

    Raises:
        ValueError: an unknown template or role, a tokenizer without the special tokens, or, for
            "plain", anything else than a question with `<image>` and an answer.

    Source: VideoChat-Flash (arXiv 2501.00574), its published training code.
    """
    _check.one_of("template", template, TEMPLATES)
    for role, _ in turns:
        _check.one_of("role", role, tuple(SPOKEN))
    if visual:
        turns = [(role, _shown(text, message)) for role, text in turns]
    if template == "plain":
        return _plain(tokenizer, turns)
    supervised = always_learned(tokenizer)
    ids: list[int] = []
    labels: list[int] = []
    for role, text in [("system", SYSTEM), *turns]:
        said = f"<|im_start|>{SPOKEN[role]}\n{text}<|im_end|>\n"
        new = token_ids(tokenizer, said) if visual else _text_ids(tokenizer, said)
        ids += new
        answer = role == "gpt"
        labels += [i if answer or i in supervised else IGNORED for i in new]
    return _tensors(ids, labels)


def _shown(text: str, message: str | None) -> str:
    """A turn as the model reads it: a single `<image>` in front, the message behind each."""
    if text.count(IMAGE) == 1 and not text.startswith(IMAGE):
        text = f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()
    if message is not None:
        text = text.replace(IMAGE, f"{IMAGE}{message.rstrip()} ")
    return text.replace(NOISE, "")


def _plain(tokenizer: Any, turns: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    roles = [role for role, _ in turns]
    if roles != ["human", "gpt"] or IMAGE not in turns[0][1]:
        raise ValueError(
            f"plain: expected a question with {IMAGE} and an answer, got {', '.join(roles)}"
        )
    ids = token_ids(tokenizer, f"{IMAGE}{turns[1][1]}\n")
    return _tensors(ids, [IGNORED, *ids[1:]])


def always_learned(tokenizer: Any) -> set[int]:
    """Ids of the newline and the marks of a turn, which "qwen_2" learns wherever they occur.

    Raises:
        ValueError: the tokenizer has no token of its own for one of them.
    """
    newline = _text_ids(tokenizer, "\n")
    marks = [_text_ids(tokenizer, mark) for mark in MARKS]
    if any(len(ids) != 1 for ids in (newline, *marks)):
        raise ValueError(
            f"tokenizer: expected one token each for a newline and {' and '.join(MARKS)}, "
            f"got {[newline, *marks]}"
        )
    return {newline[0], marks[0][0], marks[1][0]}


def header(tokenizer: Any, template: str) -> list[int]:
    """What is learned of every answer before its first word."""
    return [] if template == "plain" else _text_ids(tokenizer, f"{MARKS[0]}{SPOKEN['gpt']}\n")


def _text_ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _tensors(ids: list[int], labels: list[int]) -> tuple[Tensor, Tensor]:
    # what stands for pixels is never learned, not even in an answer
    labels = [IGNORED if i == IMAGE_TOKEN else label for i, label in zip(ids, labels, strict=True)]
    return torch.tensor(ids, dtype=torch.int64), torch.tensor(labels, dtype=torch.int64)
