"""The rows that the published progressive dropout keeps, stage by stage, from its own weights."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import Qwen2Config, Qwen2Model

import hico

GOLDEN = Path(__file__).parent / "golden" / "llm.safetensors"
with safe_open(GOLDEN, "pt") as file:
    META = {name: json.loads(text) for name, text in file.metadata().items()}

CASES = [
    pytest.param(f"case{case['case']}", case, id=f"case{case['case']}") for case in META["cases"]
]
CASES.append(pytest.param("train", META["train"], id="train"))


@pytest.fixture(scope="module")
def model():
    """The stock transformers model with the file's weights."""
    config = {k: v for k, v in META["config"].items() if k != "rope_theta"}
    rope = {"rope_type": "default", "rope_theta": META["config"]["rope_theta"]}
    model = Qwen2Model(Qwen2Config(**config, rope_parameters=rope)).eval()
    with safe_open(GOLDEN, "pt") as file:
        names = [name for name in file.keys() if name.startswith("state.model.")]  # noqa: SIM118
        state = {name.removeprefix("state.model."): file.get_tensor(name) for name in names}
    model.load_state_dict(state)
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def uniform(kind, stage):
    """Whether a stage of this kind of dropout spaces its tokens evenly."""
    return kind == "uniform" or kind.startswith("uniform") and stage <= int(kind[7])


def scattered_rows(labels):
    """[1, M]: the rows before the first of each run of labels."""
    answered = labels[0] != -100
    return (answered & ~answered.roll(1)).nonzero().T - 1


def published_score(layer, hidden, cos, sin, rows):
    """The whole L x L attention as written in the paper's code, its rows' mean: [1, L]."""
    attention, n = layer.self_attn, hidden.shape[1]
    x = layer.input_layernorm(hidden)
    q, k = (
        proj(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        for proj in (attention.q_proj, attention.k_proj)
    )
    turn = lambda t: torch.cat((-t.chunk(2, -1)[1], t.chunk(2, -1)[0]), -1)  # noqa: E731
    q, k = (t * cos[:, None] + turn(t) * sin[:, None] for t in (q, k))
    k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
    logits = q @ k.mT / attention.head_dim**0.5
    future = torch.ones(n, n, dtype=torch.bool, device=hidden.device).triu(1)
    weights = logits.masked_fill(future, -torch.inf).softmax(-1)
    return weights.mean(1)[:, rows[0]].mean(1)


def stages(model, name, case):
    """(stage, hidden, cos, sin, query rows, first, visual before, visual after, kept) in turn."""
    device = model.norm.weight.device
    with safe_open(GOLDEN, "pt") as file:
        hidden = file.get_tensor(f"{name}.inputs_embeds").to(device)
        labels = file.get_tensor("train.labels").to(device) if name == "train" else None
        kept = [file.get_tensor(f"{name}.kept{s}") for s in range(len(case["layers"]))]
    first, visual, done = case["first_visual"], case["num_visual"], 0
    for stage, layer in enumerate(case["layers"]):
        positions = torch.arange(hidden.shape[1], device=device)[None]
        cos, sin = model.rotary_emb(hidden, positions)
        future = torch.ones(hidden.shape[1], hidden.shape[1], device=device).triu(1)
        mask = torch.zeros_like(future).masked_fill(future.bool(), -torch.inf)[None, None]
        for block in model.layers[done:layer]:
            hidden = block(hidden, attention_mask=mask, position_embeddings=(cos, sin))
        done = layer
        rows = positions[:, -1:] if labels is None else scattered_rows(labels)
        before, after = (int(visual * case["ratios"][stage + i]) for i in (0, 1))
        yield stage, hidden, (cos, sin), rows, first, before, after, kept[stage].to(device)
        index = kept[stage][None].to(device)
        (hidden,) = hico.compact(index, hidden, dims=1)
        labels = None if labels is None else hico.compact(index, labels, dims=1)[0]


@torch.no_grad()
@pytest.mark.parametrize("name, case", CASES)
def test_kept_rows(name, case, model, device):
    seen = 0
    for stage, hidden, positions, rows, first, before, after, kept in stages(model, name, case):
        n, seen = hidden.shape[1], seen + 1
        text = torch.ones(n, dtype=torch.bool, device=device)
        text[first : first + before] = False
        if uniform(case["compress_type"], stage):
            chosen = first + hico.select_uniform(before, after, device)
            again = chosen
        else:
            layer = model.layers[case["layers"][stage]]
            score, keys = hico.LayerScorer(layer)(
                hidden, positions, query_rows=rows, key_range=(first, first + before)
            )
            chosen = first + hico.select(score, after)[0]
            # the whole sequence at once: what is not visual is protected, and without a name the
            # row that ranks is the last
            named = rows if name == "train" else None
            score, _ = hico.LayerScorer(layer)(hidden, positions, query_rows=named)
            again = hico.select(score, n - before + after, protect=text)[0]
            assert torch.equal(again, kept)
            check_directly(layer, hidden, positions, rows, keys, score)
            again = again[(again >= first) & (again < first + before)]
        text[chosen] = True
        assert torch.equal(text.nonzero()[:, 0], kept)
        assert torch.equal(again, chosen)
    assert seen == len(case["layers"])


def check_directly(layer, hidden, positions, rows, keys, score):
    """attention_score of the layer's own projections says the same as the published form."""
    attention = layer.self_attn
    x = layer.input_layernorm(hidden)
    own = attention.k_proj(x).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    torch.testing.assert_close(keys, own, rtol=1e-5, atol=1e-5)
    q = attention.q_proj(x[:, rows[0]]).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
    cos, sin = positions
    c, s = cos[:, None, rows[0]], sin[:, None, rows[0]]
    q = q * c + torch.cat((-q.chunk(2, -1)[1], q.chunk(2, -1)[0]), -1) * s
    direct = hico.attention_score(q, own, query_positions=rows, cos=cos, sin=sin)
    want = published_score(layer, hidden, cos, sin, rows)
    for got in (score, direct):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-7)
