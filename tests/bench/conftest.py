import pytest
from bench_helpers import CPU, TOP

from hico.bench import merge, record, runner


@pytest.fixture
def one_run(tmp_path) -> runner.Run:
    """A run on the CPU that has not measured anything yet."""
    environment = record.environment(CPU)
    return runner.Run(merge.SUITE, CPU, tmp_path / "rows.jsonl", 600.0, True, environment, TOP)
