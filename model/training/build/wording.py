"""The words of questions and answers: several for each, one chosen by the row's own randomness."""

from __future__ import annotations

LETTERS = "ABCD"

GROUNDING = (
    "When does this happen in the video: {event}? Give its start and end in seconds.",
    "Find the part of the video that shows {event}. From which second to which does it last?",
    "During which seconds of the video can this be seen: {event}?",
    "At what time in the video does {event} take place? Answer with a range of seconds.",
    "Locate this event in the video and return its start and end time in seconds: {event}.",
)
DENSE = (
    "Describe all events of the video in order, each with its start and end time in seconds.",
    "List what happens in the video from beginning to end, with a time range in seconds for each "
    "event.",
    "Detect every event of this video and describe it, giving start and end seconds.",
    "Write a timed description of the whole video: start, end and content of each event.",
)
COUNTING = (
    "How many separate times does this happen in the video: {event}?",
    "Count how often the following occurs over the whole video: {event}.",
    "Over the entire video, on how many separate occasions can this be seen: {event}?",
)
COUNTING_VERBS = (
    "How many separate events of {event} are there in the video?",
    "Over the whole video, on how many separate occasions is someone {event}?",
    "Count the separate occasions of {event} in the video.",
)
COUNTING_FREE = ("Answer with a number.", "Give a single number.", "Reply with the number only.")
WHAT = (
    "What happens in the video between {start} and {end} seconds?",
    "Which of these events takes place from {start} to {end} seconds?",
    "Look at the part of the video from {start} to {end} seconds. What does it show?",
)
WHEN = (
    "When does this happen in the video: {event}?",
    "Which part of the video shows {event}?",
    "Choose the time range in which {event} takes place.",
)
BETWEEN = (
    "Something short happens after {before} has ended and before {after} begins. What is it?",
    "Which of these happens after the end of {before} but before the start of {after}?",
    "First comes {before}, later {after}. What happens between the two?",
)
BRIEF = (
    "Something short happens in the video from {start} to {end} seconds. What is it?",
    "One short event lasts from {start} to {end} seconds. Which of these is it?",
    "Find the short moment from {start} to {end} seconds. What happens there?",
)
FIRST = (
    "Which of these events happens first in the video?",
    "Which of the following comes before all the others in the video?",
)
LAST = (
    "Which of these events happens last in the video?",
    "Which of the following comes after all the others in the video?",
)
SEQUENCE = (
    "These events of the video are listed in no particular order:\n{events}\n"
    "In which order do they happen?",
    "Put these events in the order in which the video shows them:\n{events}",
    "What is the right order in time of the following events?\n{events}",
)
SEQUENCE_FREE = ("Answer with their numbers.", "Give the numbers, from the earliest to the latest.")

# words for one action: base form -> as asked for; a count is unclear where two of a line occur
VERBS: tuple[dict[str, str], ...] = (
    {"cut": "cutting", "chop": "chopping", "slice": "slicing", "dice": "dicing"},
    {"stir": "stirring", "mix": "mixing", "whisk": "whisking", "blend": "blending"},
    {"pour": "pouring", "fill": "filling"},
    {"add": "adding", "sprinkle": "sprinkling", "season": "seasoning"},
    {"wash": "washing", "rinse": "rinsing", "clean": "cleaning", "wipe": "wiping"},
    {"jump": "jumping", "leap": "leaping", "hop": "hopping"},
    {"throw": "throwing", "toss": "tossing", "pitch": "pitching"},
    {"kick": "kicking"},
    {"clap": "clapping", "applaud": "applauding"},
    {"peel": "peeling"},
    {"hammer": "hammering", "nail": "nailing"},
    {"paint": "painting", "brush": "brushing"},
    {"open": "opening", "unlock": "unlocking"},
    {"close": "closing", "shut": "shutting"},
    {"drink": "drinking", "sip": "sipping"},
    {"fold": "folding"},
    {"knock": "knocking"},
    {"dive": "diving"},
)


def quoted(caption: str) -> str:
    """The caption in quotation marks, its own made single, without a full stop.

    >>> print(quoted('he says "go".'))
    "he says 'go'"
    """
    return f'"{bare(caption)}"'


def bare(caption: str) -> str:
    """The caption as an option shows it: double quotation marks single, no full stop at its end.

    >>> bare("A dog barks.")
    'A dog barks'
    """
    return caption.replace('"', "'").rstrip(" .") or caption


def sentence(caption: str) -> str:
    """The caption with a full stop, unless it ends in another mark."""
    text = bare(caption)
    return text if text[-1] in "!?。" else f"{text}."


def with_options(question: str, options: list[str]) -> str:
    """The question and its lettered options, as the published ones are laid out."""
    lines = [f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=True)]
    return "\n".join([question, "Options:", *lines, "Only give the best option."])
