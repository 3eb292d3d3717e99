"""A bank that no encoder has seen: of each thing that a card shows a random vector, and noise."""

import torch

from hico.model import VideoChatFlashConfig, VideoChatFlashForConditionalGeneration
from hico.model.training.tiny.bank import Bank, decks_of, draw_worlds
from hico.model.training.tiny.sizes import CONFIG
from hico.model.training.worlds.cards import COLOURS, SHAPES, WORDS

# sizes of new_model, hardly any
SMALL = {
    "vision_config": {
        "image_size": 32,
        "patch_size": 4,
        "num_frames": 4,
        "hidden_size": 40,
        "num_hidden_layers": 2,
        "num_attention_heads": 5,
    },
    "mm_hidden_size": 40,
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "llm_compress_layer_list": [1],
    "llm_image_token_ratio_list": [1.0, 0.5],
}


def tables(channels, generator):
    """Random vectors of all that cards may show."""
    digits = [str(n) for n in range(10)]
    kinds = {"shape": SHAPES, "colour": COLOURS, "word": WORDS, "tens": digits, "ones": digits}
    kinds |= {"next_shape": SHAPES, "next_colour": COLOURS}
    return {
        name: dict(
            zip(values, torch.randn(len(values), channels, generator=generator), strict=True)
        )
        for name, values in kinds.items()
    }


def seen(card, known):
    """The sum of what a card shows."""
    said = [("shape", card.shape), ("colour", card.colour), ("word", card.word)]
    if card.number:
        said += [("tens", card.number[0]), ("ones", card.number[1])]
    if card.goto:
        colour, shape = card.goto.split()
        said += [("next_shape", shape), ("next_colour", colour)]
    return torch.stack([known[name][value] for name, value in said]).sum(0)


def invented_bank(worlds=8, hay=64, tokens=2, channels=160, noise=0.5, seed=0):
    """Decks of real worlds, features that only look like an encoder's."""
    g = torch.Generator().manual_seed(seed)
    known = tables(channels, g)
    decks = decks_of(draw_worlds(worlds, seed=seed))
    clips = [card for deck in decks for card in deck.cards for _ in range(deck.parts)]
    cards = torch.stack([seen(card, known) for card in clips])
    hays = torch.randn(hay, channels, generator=g) * 2
    clips = torch.cat([cards, hays])[:, None].expand(-1, tokens, -1)
    clips = clips + noise * torch.randn(clips.shape, generator=g)
    return Bank(clips / 2.5, decks, len(cards))


def small_model(seed=0, **sizes):
    """hico-tiny with a small language model and hardly an encoder."""
    config = {
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "llm_compress_layer_list": [1],
        "llm_image_token_ratio_list": [1.0, 0.5],
        "llm_compress_type": "attention",
    }
    vision = CONFIG["vision_config"] | {"num_hidden_layers": 2}
    torch.manual_seed(seed)
    given = CONFIG | {"vision_config": vision} | config | sizes
    return VideoChatFlashForConditionalGeneration(VideoChatFlashConfig(**given))
