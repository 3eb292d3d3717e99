"""`python -m hico.bench retain`: checks, times and judges retention by score as `merge` does."""

from functools import partial

from hico.bench import runner
from hico.bench.retain_cases import CASES

SUITE = runner.Suite("retain", CASES, "hico.bench.retain_cases")
add_arguments = partial(runner.add_arguments, SUITE)
run = partial(runner.run, SUITE)
