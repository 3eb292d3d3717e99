"""What several processes need in order to do the same things at the same time."""

from typing import Any

# what FSDP2 shards apart from the rest; the encoder stays whole, as the number of its passes
# differs from process to process
WRAPPED = ["Qwen2DecoderLayer"]


class Touch:
    """A batch of text alone leaves gradients of zero, not none, in encoder and connector.

    Processes add up the gradients that each of them has: all need the same ones. And a step does
    the same to the optimiser's memory however its batch is shared among processes.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.blind = model, False
        # ahead of the hook that turns what is seen into embeddings
        model.register_forward_pre_hook(self._note, with_kwargs=True, prepend=True)
        model.model.register_forward_hook(self._add)

    def _note(self, model: Any, args: tuple, kwargs: dict[str, Any]) -> None:
        pixels, kinds = kwargs.get("pixel_values_videos"), kwargs.get("modalities")
        seen = pixels is not None and len(pixels) > 0
        self.blind = not seen or kinds is not None and all(kind == "text" for kind in kinds)

    def _add(self, base: Any, args: tuple, output: Any) -> Any:
        if not base.training or not self.blind:
            return output
        encoder = self.model.encoder
        side, weight = encoder.image_size, next(encoder.parameters())
        clip = weight.new_zeros(encoder.num_frames, 3, side, side)
        (tokens,) = self.model.visual_features([clip], modalities=["video"])
        output.last_hidden_state = output.last_hidden_state + 0.0 * tokens.sum()
        return output


def gather_once(model: Any) -> None:
    """A sharded table of embeddings stays whole from its first use in a pass to the backward pass.

    It is asked once a row if there is anything to see, and else once: gathered each time, some
    processes would wait for others that have nothing to say.
    """
    table = model.get_input_embeddings()
    if hasattr(table, "set_reshard_after_forward"):
        table.set_reshard_after_forward(False)
