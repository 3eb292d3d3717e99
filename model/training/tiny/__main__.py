"""`python -m hico.model.training.tiny`."""

import sys

from hico.cli import one_line

from .command import main


def run() -> int:
    """The exit status; what the user can mend is told in one line."""
    try:
        return main()
    except KeyboardInterrupt:
        return 130
    except (ValueError, OSError) as error:
        print(f"python -m hico.model.training.tiny: error: {one_line(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
