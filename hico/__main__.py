"""`python -m hico` does what the console script `hico` does."""

import sys

from hico.cli import main

if __name__ == "__main__":
    sys.exit(main())
