import pytest
from bench_helpers import CPU, TOP

from hico.bench import merge, record


@pytest.fixture
def one_run(tmp_path) -> merge.Run:
    """A run on the CPU that has not measured anything yet."""
    return merge.Run(CPU, tmp_path / "rows.jsonl", 600.0, True, record.environment(CPU), TOP)
