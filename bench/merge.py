"""`python -m hico.bench merge`: checks, times and judges the merge against the figures to reach."""

from functools import partial

from hico.bench import runner
from hico.bench.cases import CASES

SUITE = runner.Suite("merge", CASES, "hico.bench.cases")
add_arguments = partial(runner.add_arguments, SUITE)
run = partial(runner.run, SUITE)
