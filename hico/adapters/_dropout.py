"""What progressive dropout puts into the layers of a stock decoder, pass by pass."""

from typing import Any

import torch
from torch import Tensor

from hico.adapters import _dropout_cache as caches
from hico.adapters._dropout_again import Prefix, Watched, rewind
from hico.adapters._dropout_pass import Pass, Rotations, takes_masks_made
from hico.adapters._dropout_rows import Plan, Sequence, Span, answer_rows, check_spans, find_spans
from hico.adapters.layer_scorer import LayerScorer
from hico.budget import keep_count
from hico.ops.compact import compact
from hico.ops.select import select, select_uniform

# a mask that is made already, which Qwen2's base model then does not make: one row sees all keys
MASKLESS = {"full_attention": None}


class Dropout:
    """What `with hico.progressive_dropout(...) as run` gives.

    Attributes:
        kept: of the last prompt, for each stage [B, k] int64: the rows of that stage's own input
            that stayed, text included, ascending; -1 where rows of unequal length are padded.
    """

    def __init__(self, base: Any, plan: Plan, spans: list[Span] | None) -> None:
        self.kept: list[Tensor] = []
        self._base = base
        self._plan, self._spans, self._watching = plan, spans, False
        self._scorers = {
            layer: LayerScorer(self._base.layers[layer])
            for stage, layer in enumerate(plan.layers)
            if plan.rule(stage) == "attention"
        }
        self._tables = Rotations(base.rotary_emb)
        self._maskless = takes_masks_made(base)
        self._pass = Pass(None, None, None, None)
        self._labels: Tensor | None = None

    @torch.no_grad()
    def watch(self, inputs_embeds: Tensor, visual_spans: list[Span] | None = None) -> Any:
        """Runs the head of a prompt as far as no question has a say in it, once for all questions.

        A pass with the cache and the rows behind the video alone then gives what the whole prompt
        would, in this context or another with the same settings; generate also takes the mask of
        the whole prompt. The video's rows go on from the first stage that ranks by attention, whose
        input stays in memory with the cache.

        Args:
            inputs_embeds: [B, P, C], up to the end of the visual tokens, without padding.
            visual_spans: (start, P), the same for all rows; None = those of the context.

        Returns:
            past_key_values, a transformers DynamicCache. After a question see rewind.

        Raises:
            ValueError: spans that differ or end elsewhere.
        """
        from transformers import DynamicCache

        cache, given = DynamicCache(), {}
        if visual_spans is not None:
            given["visual_spans"] = visual_spans
        self._watching = True
        try:
            self._base(inputs_embeds=inputs_embeds, past_key_values=cache, **given)
        except Watched:
            pass
        finally:
            self._watching = False
        rewind(cache)
        return cache

    def rewind(self, cache: Any, batch: int | None = None) -> None:
        """Makes the cache of watch ready for another question: the one before is gone from it.

        Args:
            cache: what watch gave, any tokens further on.
            batch: prompts there were, if beams or several answers made more rows of them.

        Raises:
            ValueError: a cache that was filled otherwise, or that has been cut.
        """
        rewind(cache, batch)

    def begin(self, args: tuple, kwargs: dict[str, Any]) -> None:
        """Before the base model: notes what came in, and takes the spans out of it."""
        spans = kwargs.pop("visual_spans", None)
        spans = self._spans if spans is None else spans
        cache = kwargs.get("past_key_values")
        input_ids = kwargs.get("input_ids", args[0] if args else None)
        embeds = kwargs.get("inputs_embeds")
        if self._goes_on(cache, input_ids if embeds is None else embeds):
            # what is known of the cache stays as it is: all keys are tokens, no stage is fresh
            self._pass = Pass(spans, input_ids, None, None, first=False, light=True)
            if self._maskless and len(args) < 2:
                kwargs["attention_mask"] = MASKLESS
            return
        caches.check(cache)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            got = list(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(f"attention_mask: expected [B, N] with True for tokens, got {got}")
        labels, self._labels = self._labels, None
        self._pass = Pass(spans, input_ids, None if mask is None else mask != 0, labels)

    def _goes_on(self, cache: Any, rows: Any) -> bool:
        """Whether a pass adds one token to rows without padding: nothing is masked or dropped."""
        known = getattr(cache, "dropout", None)
        plain = isinstance(rows, Tensor) and rows.ndim > 1 and rows.shape[1] == 1
        # other attention gets a mask of the first stage's keys even then
        plain = plain and self._base.config._attn_implementation == "sdpa"
        if known is None or not plain or torch.is_grad_enabled() or known.rewound:
            return False
        return known.layers == self._plan.layers and not any(k is not None for k in known.keys)

    @property
    def layers(self) -> tuple[int, ...]:
        """Those before which tokens are dropped."""
        return self._plan.layers

    @property
    def busy(self) -> tuple[int, ...] | None:
        """The layers that need a hook in this pass, None for all of them."""
        if not self._pass.light:
            return None
        return self._plan.layers if self._plan.positions == "renumber" else ()

    def turn(self, i: int, hidden: Tensor, kwargs: dict[str, Any]) -> None:
        """Before layer i of a light pass: the position of its stage, in place.

        The layers behind it have no hook, and get the tensors that all of them are handed.
        """
        place = kwargs["past_key_values"].get_seq_length(i)
        turned = self._tables.at(self._plan.stage(i), place, hidden)
        for old, new in zip(kwargs["position_embeddings"], turned, strict=True):
            old.copy_(new)

    def enter(self, i: int, hidden: Tensor, kwargs: dict[str, Any]) -> tuple[Tensor, dict]:
        """What layer i gets, instead of hidden and kwargs."""
        now = self._pass
        cache: Any = kwargs.get("past_key_values")
        if i == 0:
            self._start(hidden, cache, kwargs.get("position_ids"))
        stage, drops = self._plan.stage(i), i in self._plan.layers
        if drops and stage > now.begins:
            if now.rotation is None:
                now.rotation = (kwargs | now.given)["position_embeddings"]
                if not now.first:
                    assert now.prefix is not None
                    hidden, now.rotation, now.rows = now.prefix.join(hidden, now.rotation)
            hidden = self._drop(stage - 1, hidden, now.rotation)
        if (i == 0 or drops) and now.held.keys[stage:]:
            now.given = self._given(stage, i, hidden, cache)
        return hidden, kwargs | now.given

    def leave(self, hidden: Tensor) -> Tensor:
        """What the last norm gets: a drop after all layers shortens it."""
        count, now = len(self._base.layers), self._pass
        if now.first and count in self._plan.layers:
            return self._drop(self._plan.stage(count) - 1, hidden, None)
        return hidden

    def _start(self, hidden: Tensor, cache: Any, place: Tensor | None) -> None:
        """At the first layer, the only place where the cache is known in any case."""
        now, (batch, length, _) = self._pass, hidden.shape
        caches.check(cache)
        now.first = cache is None or cache.get_seq_length() == 0
        if now.first:
            mask = None if now.mask is None or bool(now.mask.all()) else now.mask
            spans = find_spans(now.input_ids) if now.spans is None else now.spans
            pairs = check_spans(spans, batch, length, mask)
            counts = [stop - start for start, stop in pairs]
            starts = [start for start, _ in pairs]
            now.rows = Sequence(starts, counts, list(counts), length, mask, now.labels)
            now.prefix = Prefix.of(self._plan, now.rows) if self._watching else None
            ahead = caches.ahead(mask, place)
            now.held = caches.Held(self._plan.layers, [mask], ahead, now.prefix)
            self.kept = []
            if cache is not None and not torch.is_grad_enabled():
                caches.grow(cache)
        else:
            tail = caches.new_tokens(now.mask, length, hidden.device)
            known = caches.held(cache, self._plan)
            now.held = known.extended(cache, tail, batch, length)
            now.begins = len(self._plan.layers) + 1
            if known.rewound and known.prefix is not None:
                now.prefix, now.begins = known.prefix, known.prefix.begins
                self.kept = known.prefix.kept_with(batch, length)
        if cache is not None:
            cache.dropout = now.held  # on the cache: it may be copied, and outlive this context

    def _given(self, stage: int, i: int, hidden: Tensor, cache: Any) -> dict[str, Any]:
        """The mask and the rotation of a stage that begins with layer i."""
        now, keys = self._pass, self._pass.held.keys[stage]
        if stage == 0 and (now.first or keys is None):
            return {}  # the model's own are right
        length, fresh = hidden.shape[1], stage > now.begins or now.first
        # positions with gaps would be taken for sequences packed into one
        given: dict[str, Any] = {"position_ids": None, "attention_mask": None}
        if length > 1 or keys is not None:  # one row without padding sees all there is
            given["attention_mask"] = caches.causal_mask(self._base.config, hidden, keys, cache, i)
        if fresh:
            given["position_embeddings"] = now.rotation
        elif stage == 0:
            assert keys is not None
            place = caches.positions(keys, length, hidden.device, now.held.ahead)
            given["position_embeddings"] = self._base.rotary_emb(hidden, place)
        elif self._plan.positions == "renumber":
            past = cache.get_seq_length(i)
            place = caches.positions(keys, length, hidden.device, past=past).to(hidden.device)
            given["position_embeddings"] = self._base.rotary_emb(hidden, place)
        elif "position_embeddings" in now.given:  # what the first stage found
            given["position_embeddings"] = now.given["position_embeddings"]
        return given

    def _drop(self, stage: int, hidden: Tensor, rotation: tuple | None) -> Tensor:
        """The rows that this stage leaves."""
        now, rows = self._pass, self._pass.rows
        assert rows is not None
        watched = now.prefix if now.first else None
        if watched is not None and stage == watched.begins:
            watched.hidden, watched.rotation = hidden, rotation
            raise Watched
        keep, counts = self._keep(stage, hidden, rotation, rows)
        # generate reads the last row of the sequence, whatever side the prompt was padded on
        index = rows.drop(keep, counts, left=not self._base.training)
        self.kept.append(index)
        now.held.keys.append(rows.mask)
        if watched is not None:
            watched.after(index, rows)
        (hidden,) = compact(index, hidden, dims=1)
        if rotation is not None:
            now.rotation = self._rotate(hidden, index, rotation)
        return hidden

    def _rotate(self, hidden: Tensor, index: Tensor, old: tuple) -> tuple[Tensor, Tensor]:
        """(cos, sin) of the rows that are left."""
        if self._plan.positions == "keep":
            cos, sin = compact(index, *old, dims=1)
            return cos, sin
        place = ((index >= 0).cumsum(1) - 1).clamp(min=0)
        return self._base.rotary_emb(hidden, place)

    @torch.no_grad()
    def _keep(
        self, stage: int, hidden: Tensor, rotation: tuple | None, rows: Sequence
    ) -> tuple[Tensor, list[int]]:
        """[B, N] bool, what stays, and how many of it are visual."""
        rule, ratio = self._plan.rule(stage), self._plan.ratios[stage + 1]
        counts = [
            min(n, keep_count(total, ratio))
            for n, total in zip(rows.counts, rows.totals, strict=True)
        ]
        ranked = None
        if rule == "attention" and any(rows.counts):
            ranked, asked = self._score(stage, hidden, rotation, rows)
            if asked is not None:  # without a row that asks, all stays
                counts = [k if m else n for k, m, n in zip(counts, asked, rows.counts, strict=True)]
        elif rule == "random":
            # the same draw for every row, as beams of one prompt may change places later
            draw = self._plan.draw(stage, max(rows.counts)).to(hidden.device)
        keep = rows.visible(hidden.device).clone()
        for (start, n, k), some in rows.alike(counts):
            if k == n:
                continue
            visual = slice(start, start + n)
            if rule == "uniform":
                chosen = select_uniform(n, k, hidden.device)[None]
            else:
                chosen = select(draw[None, :n] if ranked is None else ranked[some, visual], k)
            stays = torch.zeros_like(keep[some, visual])
            keep[some, visual] = stays.scatter_(1, chosen.expand(len(stays), -1), True)
        return keep, counts

    def _score(
        self, stage: int, hidden: Tensor, rotation: tuple | None, rows: Sequence
    ) -> tuple[Tensor, list[int] | None]:
        """[B, N], what the rows that ask would pay each token, and how many ask, if few may."""
        queries, asked, rule = None, None, self._plan.query_rows
        train = self._base.training and rows.labels is not None
        if callable(rule) or rule == "answers" or rule == "auto" and train:
            if rows.labels is None:
                raise ValueError(f"query_rows: expected labels for {rule!r}, got none")
            find = rule if callable(rule) else answer_rows
            queries, asked = find(rows.labels, rows.mask)
            if not queries.shape[1]:
                return hidden.new_zeros(hidden.shape[:2]), asked
        place = self._plan.layers[stage]
        scorer, layer = self._scorers[place], self._base.layers[place]
        if hasattr(layer, "unshard"):  # by FSDP2, which would gather the weights only for its turn
            layer.unshard()
        score, _ = scorer(hidden, rotation, query_rows=queries, key_mask=rows.mask)
        return score, asked
