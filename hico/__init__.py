"""hico: spend fewer visual tokens, with kernels that make the saving real on the clock."""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    # a source checkout: kernels/, model/ and bench/ stand beside this folder, not in it
    __path__.append(str(_root))

from hico import compat, recipes
from hico._version import __version__
from hico.adapters.layer_scorer import LayerScore, LayerScorer
from hico.ops.compact import compact
from hico.ops.keep import KeepResult, keep_tokens
from hico.ops.match import match
from hico.ops.merge import MergeResult, merge_map, merge_tokens
from hico.ops.norm import layer_norm_metric
from hico.ops.score import attention_score
from hico.ops.segment import segment_mean
from hico.ops.select import select, select_uniform
from hico.token_map import TokenMap
from hico.video import progressive_dropout

__all__ = [
    "KeepResult",
    "LayerScore",
    "LayerScorer",
    "MergeResult",
    "TokenMap",
    "__version__",
    "attention_score",
    "compact",
    "compat",
    "keep_tokens",
    "layer_norm_metric",
    "match",
    "merge_map",
    "merge_tokens",
    "progressive_dropout",
    "recipes",
    "segment_mean",
    "select",
    "select_uniform",
]
