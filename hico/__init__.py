"""hico: spend fewer visual tokens, with kernels that make the saving real on the clock."""

from pathlib import Path as _Path

_root = _Path(__file__).resolve().parent.parent
if (_root / "pyproject.toml").is_file() and (_root / "kernels").is_dir():
    # a source checkout: kernels/, model/ and bench/ stand beside this folder, not in it
    __path__.append(str(_root))

from hico import compat
from hico._version import __version__
from hico.ops.match import match
from hico.ops.merge import MergeResult, merge_map, merge_tokens
from hico.ops.norm import layer_norm_metric
from hico.ops.segment import segment_mean
from hico.token_map import TokenMap

__all__ = [
    "MergeResult",
    "TokenMap",
    "__version__",
    "compat",
    "layer_norm_metric",
    "match",
    "merge_map",
    "merge_tokens",
    "segment_mean",
]
