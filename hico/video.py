"""progressive_dropout: fewer visual tokens, layer by layer, inside a model that stays as it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from hico.adapters._dropout import Dropout
from hico.adapters._dropout_hooks import installed
from hico.adapters._dropout_rows import Plan, QueryRows, Span


@contextmanager
def progressive_dropout(
    model: nn.Module,
    layers: Sequence[int],
    ratios: Sequence[float],
    kind: str = "attention",
    visual_spans: Sequence[Span] | None = None,
    positions: str = "renumber",
    query_rows: QueryRows = "auto",
    seed: int | None = None,
) -> Iterator[Dropout]:
    """Before layer layers[j] runs, floor(n * ratios[j + 1]) of the n visual tokens are left.

    For transformers' Qwen2 and decoders of its make, called or through generate, greedy, sampling
    or with beams. The layers from layers[j] on see, cache and decode the short sequence; those
    before keep what they had, so that the cache's layers differ in length. Text always stays. Only
    a prompt is shortened: a pass that goes on with a cache drops nothing. Rows of a batch may
    differ in length and be padded on either side. The model is as it was when the context ends.

    Args:
        model: the causal language model or what it is based on, or a model that contains one.
        layers: ascending, 1 to the number of layers; that number shortens what follows the last
            layer, and needs no cache. A prompt's first layer always sees it all.
        ratios: one more than layers, from 1 down: shares of the first count, not of the last.
        kind: which tokens stay. "uniform": as hico.select_uniform. "random": drawn, without
            replacement. "attention": those that hico.LayerScorer of the layer that comes next ranks
            first. "uniform0_attention", "uniform1_attention", "random0_attention": stages up to the
            number evenly spaced, or drawn, and attention in the others.
        visual_spans: for each batch row (start, stop) of its visual tokens in the embedded and
            padded sequence, or None for a row of text. A batch that is a multiple repeats each,
            as generate does for beams. None = the keyword `visual_spans` that the model hands to
            its decoder; ids without -200 are text.
        positions: "renumber" = 0, 1, ... in each stage, as published; "keep" = the prompt's own.
        query_rows: which rows rank. "last" = the last token of each row; "answers" = the rows
            before each run of labels that are not -100, and where there is none, all tokens stay;
            "auto" = "answers" in training with labels, else "last". A function of labels and mask
            [B, N] (None = no padding) as a stage finds them returns the rows, int64 [B, M] with -1
            behind a row's own, and how many each has.
        seed: of what is drawn, the same in every pass; None = torch's own generator.

    Yields:
        run: run.kept[j] is [B, k] int64, the rows of stage j's input that stayed, text included, of
        the last prompt; -1 where rows of unequal length are padded: on the left in evaluation, so
        that the last row is the last token of each, on the right in training. For more questions of
        one video there are run.watch and run.rewind.

    With labels=, the labels of dropped rows go with them, and the loss is that of the rows left.
    Outputs have as many rows as the last stage leaves.

    Raises:
        ValueError: a model without such layers, layers or ratios that do not fit, spans outside the
            sequence or over padding, a static, quantised or windowed cache, prefill_chunk_size.

    Source: VideoChat-Flash (arXiv 2501.00574), section 3.2, progressive visual dropout.

    >>> import torch, hico
    >>> from transformers import Qwen2Config, Qwen2ForCausalLM
    >>> sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 3}
    >>> heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50}
    >>> model = Qwen2ForCausalLM(Qwen2Config(**sizes, **heads)).eval()
    >>> embeds = torch.randn(1, 12, 32)  # 2 rows of text, 8 of a video, 2 of text
    >>> with hico.progressive_dropout(
    ...     model, layers=[1, 2], ratios=[1, 0.5, 0.25], visual_spans=[(2, 10)]
    ... ) as run:
    ...     out = model(inputs_embeds=embeds, use_cache=True)
    >>> [rows.shape[1] for rows in run.kept]
    [8, 6]
    >>> [out.past_key_values.get_seq_length(layer) for layer in range(3)]
    [12, 8, 6]
    """
    plan = Plan(tuple(layers), tuple(ratios), kind, positions, query_rows, seed)
    base = _decoder(model)
    plan.check_layers(len(base.layers))
    spans = None if visual_spans is None else list(visual_spans)
    run = Dropout(base, plan, spans)
    with installed(model, base, run):
        yield run


def _decoder(model: nn.Module) -> Any:
    """The one module in model that has decoder layers, rotary positions and a last norm."""
    found = [
        part
        for part in model.modules()
        if isinstance(getattr(part, "layers", None), nn.ModuleList)
        and hasattr(part, "rotary_emb")
        and hasattr(part, "norm")
    ]
    if len(found) != 1 or not len(found[0].layers):  # type: ignore[arg-type]
        raise ValueError(
            "model: expected one decoder with layers, rotary_emb and norm, as transformers' "
            f"Qwen2Model, got {len(found)} in {type(model).__name__}"
        )
    windows = set(getattr(found[0].config, "layer_types", None) or ()) - {"full_attention"}
    if windows:
        raise ValueError(f"model: expected full attention in every layer, got {sorted(windows)}")
    return found[0]
