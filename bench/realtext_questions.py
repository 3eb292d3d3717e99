"""Questions about long real text that is installed anyway, each with four answers to choose from.

"planted": a sentence that tells something of somebody stands at a random place of the text, and is
asked for; wrong answers are of the same sort, and not in the sentence. "cloze": a sentence of the
text breaks off before a word that the text has once; three other such words are the wrong answers.
"""

import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LICENCES = Path("/usr/share/common-licenses")
DISTRIBUTIONS = ("torch", "transformers", "numpy", "safetensors", "tokenizers", "huggingface_hub")
CHOICES = 4
# of a sentence that breaks off
BEGINNING_WORDS = 8
TRIES = 200

NAMES = (
    "Alice", "Bruno", "Carla", "David", "Elena", "Felix", "Grace", "Henry", "Irene", "James",
    "Karen", "Louis", "Maria", "Nora", "Oscar", "Paula", "Quentin", "Rosa", "Simon", "Teresa",
)  # fmt: skip
# how a sentence begins, and how it may go on
FACTS = {
    "The favorite animal of {} is the": (
        "tiger", "rabbit", "eagle", "horse", "dolphin", "monkey", "spider", "elephant", "turtle",
    ),
    "The favorite color of {} is": (
        "red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown",
    ),
    "The favorite fruit of {} is the": (
        "apple", "banana", "cherry", "grape", "lemon", "mango", "peach", "pear", "strawberry",
    ),
    "The home town of {} is": (
        "Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Moscow", "Tokyo", "Chicago",
    ),
}  # fmt: skip

Count = Callable[[str], int]


@dataclass(frozen=True)
class Question:
    """A prompt in three parts, so that the rows of the text are known, and its answers.

    Attributes:
        case: "planted" or "cloze".
        source: where the text is from.
        before, text, after: the prompt; `after` ends where the answer begins.
        choices: the answers as they continue the prompt, a space first.
        right: the place of the right one.
        evidence: (start, stop) of the sentence in `text` that answers, in characters.
    """

    case: str
    source: str
    before: str
    text: str
    after: str
    choices: tuple[str, ...]
    right: int
    evidence: tuple[int, int]


def sources() -> dict[str, list[str]]:
    """Name -> paragraphs of prose of what is installed.

    Python's language reference, the descriptions and licences of some packages, and where it is
    a Debian, its licences.
    """
    from pydoc_data.topics import topics

    texts = {f"Python reference: {name}": text for name, text in topics.items()}
    for name in DISTRIBUTIONS:
        try:
            found = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        about = found.metadata.json.get("description", "")
        texts[f"description of {name}"] = about if isinstance(about, str) else ""
        for file in found.files or ():
            if re.fullmatch(r"licen[cs]e(\.txt|\.md)?", file.name, re.IGNORECASE):
                path = Path(str(file.locate()))
                texts[f"licence of {name}: {file}"] = read(path)
    if LICENCES.is_dir():
        texts |= {str(path): read(path) for path in sorted(LICENCES.iterdir())}
    found_prose = {name: prose(text) for name, text in texts.items()}
    return {name: paragraphs for name, paragraphs in found_prose.items() if paragraphs}


def read(path: Path) -> str:
    """A file's text; empty where it is not there."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def prose(text: str) -> list[str]:
    """Paragraphs in one line each; tables, code and headings are left out.

    >>> prose("Title\\n\\n" + 20 * "some plain words " + "\\n\\nx = {1: 2}" )[0][:16]
    'some plain words'
    """
    found = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text)]
    return [
        part
        for part in found
        if len(part) >= 120 and sum(c.isalpha() or c == " " for c in part) > 0.88 * len(part)
    ]


def passage(
    rng: random.Random, paragraphs: dict[str, list[str]], tokens: int, count: Count
) -> tuple[str, list[str]]:
    """(source, sentences) of consecutive paragraphs that have about as many tokens.

    Raises:
        ValueError: no source is that long.
    """
    # three characters a token at the least, so that few are tried in vain
    long = [name for name, parts in paragraphs.items() if sum(map(len, parts)) > 3 * tokens]
    for _ in range(TRIES if long else 0):
        name = rng.choice(long)
        parts = paragraphs[name]
        found, total = [], 0
        for part in parts[rng.randrange(len(parts)) :]:
            for sentence in re.split(r"(?<=[.!?:;])\s+", part):
                found.append(sentence)
                total += count(" " + sentence)
                if total >= tokens:
                    return name, found
    raise ValueError(f"tokens: expected a text of {tokens} among the sources, found none so long")


def planted(rng: random.Random, source: str, sentences: list[str]) -> Question:
    """A fact about somebody, between two sentences of the text."""
    begins = rng.choice(list(FACTS))
    words = rng.sample(FACTS[begins], CHOICES)
    begins = begins.format(rng.choice(NAMES))
    text, right = list(sentences), rng.randrange(CHOICES)
    fact = f"{begins} {words[right]}."
    text.insert(rng.randrange(1, len(text)), fact)
    asked = begins.removesuffix(" the").replace("The", "What is the", 1).removesuffix(" is") + "?"
    return question("planted", source, text, fact, asked, begins, words, right)


def cloze(rng: random.Random, source: str, sentences: list[str]) -> Question | None:
    """A sentence to go on with; None where the text has no such sentence."""
    seen = Counter(re.findall(r"[a-z]+", " ".join(sentences).lower()))
    once = [word for word, n in seen.items() if n == 1 and len(word) >= 6]
    gaps = [
        (sentence, found.start(), found[1])
        for sentence in sentences
        for found in re.finditer(r"(?<= )([a-z]{6,})(?=[ ,.;])", sentence)
        if found[1] in once and len(sentence[: found.start()].split()) >= BEGINNING_WORDS
    ]
    if not gaps or len(once) < CHOICES:
        return None
    sentence, at, word = rng.choice(gaps)
    words = [word, *rng.sample([other for other in once if other != word], CHOICES - 1)]
    rng.shuffle(words)
    asked = "Repeat one sentence of the text, word for word."
    return question(
        "cloze", source, sentences, sentence, asked, sentence[:at].rstrip(), words,
        words.index(word),
    )  # fmt: skip


def question(
    case: str,
    source: str,
    sentences: list[str],
    evidence: str,
    asked: str,
    begins: str,
    words: list[str],
    right: int,
) -> Question:
    """The prompt in the model's chat format; the answer has begun already."""
    text = " ".join(sentences)
    start = text.index(evidence)
    return Question(
        case,
        source,
        "<|im_start|>user\nRead this text.\n\n",
        text,
        f"\n\n{asked}<|im_end|>\n<|im_start|>assistant\n{begins}",
        tuple(f" {word}" for word in words),
        right,
        (start, start + len(evidence)),
    )


MAKERS = {"planted": planted, "cloze": cloze}


def questions(case: str, number: int, tokens: int, seed: int, count: Count) -> list[Question]:
    """As many questions of one case over texts of about `tokens` tokens, the same for a seed.

    Raises:
        ValueError: the sources have no text of that length, or none that can be asked about.
    """
    rng = random.Random(f"{seed} {case}")
    paragraphs, tries = sources(), 0
    found: list[Question] = []
    while len(found) < number:
        made = MAKERS[case](rng, *passage(rng, paragraphs, tokens, count))
        if made is not None:
            found.append(made)
        elif (tries := tries + 1) > TRIES:
            raise ValueError(
                f"{case}: expected {number} texts with a word that stands there once, "
                f"found {len(found)}"
            )
    return found
