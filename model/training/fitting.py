"""Whether a sample fits: what is seen, and some of an answer behind it."""

from collections.abc import Mapping
from typing import Any

from hico.adapters._dropout_rows import IGNORED
from hico.model.training.collator import cut
from hico.model.training.templates import always_learned, header


class Fit:
    """Cuts samples to max_length, and refuses those that leave nothing of an answer to learn.

    VideoChatDataset asks it for each sample. A data set that makes its own can ask before any work:
    of pixel_values_videos only the lengths are looked at, so that range(512) stands for 512 frames.

    Args:
        tokenizer, template: as of encode.
        max_length: tokens of a sample, visual ones counted.

    Raises:
        ValueError: as always_learned.
    """

    def __init__(self, tokenizer: Any, template: str, max_length: int) -> None:
        self.max_length = max_length
        self._marks = {*always_learned(tokenizer), IGNORED}
        self._header = len(self._words(header(tokenizer, template)))

    def __call__(self, sample: Mapping[str, Any]) -> Mapping[str, Any]:
        """The sample's first max_length tokens.

        Args:
            sample: as of VideoChatDataset.

        Raises:
            ValueError: as cut; no word of an answer is within them.
        """
        fitting = cut(sample, self.max_length)
        # the first answer begins with its header, which says nothing
        if len(self._words(fitting["labels"][1:].tolist())) <= self._header:
            raise ValueError(
                f"max_length: expected some of an answer within {self.max_length} tokens, got it "
                f"behind them, in {len(sample['input_ids'])} of text and those of what is seen"
            )
        return fitting

    def _words(self, labels: list[int]) -> list[int]:
        """What is learned but for newlines and the marks of turns, which are everywhere."""
        return [label for label in labels if label not in self._marks]
