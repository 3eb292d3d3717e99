"""What comes ahead of stage 0b: a clip's tokens become like the words for what is on its card.

Then the first layer can already compare what is asked with what is seen, and what is seen can be
said: both are directions of the table of words, which is that of inputs and outputs.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hico.model.training.worlds.cards import Card

from .bank import Bank
from .masters import Masters, plateau


def align(
    model: Any,
    bank: Bank,
    tokenizer: Any,
    steps: int = 400,
    *,
    peak: float = 3e-3,
    batch: int = 1024,
    seed: int = 0,
) -> float:
    """Trains the connector's MLP and the table of words alone; returns the last loss.

    Every token of a card's clip is to name all that the card says, and one of haystack the
    padding: cross-entropy of norm(MLP(x)) with the table, the last norm's being the model's own.
    """
    said = words_of(bank, tokenizer).to(bank.features.device)
    mlp, table = model.model.mm_projector.mlp, model.get_input_embeddings()
    weights = [*mlp.parameters(), *table.parameters()]
    masters = Masters(weights, peak, 0.05)
    generator = torch.Generator().manual_seed(seed)
    loss = said.new_zeros(())
    for step in range(steps):
        at = torch.randint(len(said), (batch,), generator=generator)
        slot = torch.randint(bank.features.shape[1], (batch,), generator=generator)
        seen = model.model.norm(mlp(bank.features[at, slot]))
        logits = F.linear(seen, table.weight).float().log_softmax(-1)
        wanted = said[at.to(said.device)]
        there = wanted >= 0
        loss = -(logits.gather(1, wanted.clamp(min=0)) * there).sum() / there.sum()
        loss.backward()
        masters.step(plateau(step, step / steps, peak, warm=20))
    model.model.norm.weight.grad = None
    return float(loss.detach())


def words_of(bank: Bank, tokenizer: Any) -> Tensor:
    """int64 [clips, 7]: tokens of what each clip's card says, -1 = no more."""
    found = torch.full((len(bank.features), 7), -1)
    found[bank.hay :, 0] = tokenizer.pad_token_id
    cards = (card for deck in bank.decks for card in deck.cards)
    for row, card in zip(found, cards, strict=False):
        ids = tokenizer.convert_tokens_to_ids(said_on(card))
        row[: len(ids)] = torch.tensor(ids)
    return found


def said_on(card: Card) -> list[str]:
    """Everything on a card, each one token."""
    return [card.shape, card.colour, card.word, *card.number, *(card.goto or "").split()]
