"""Runs mypy on the package as users import it.

mypy does not know that kernels/, model/ and bench/ become hico.kernels, hico.model and hico.bench,
so they are linked below one folder named hico, and the paths in its report are put back.
"""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINKS = ROOT / "build" / "typecheck"
FOLDERS = ("kernels", "model", "bench")


def lay_out() -> None:
    package = LINKS / "hico"
    package.mkdir(parents=True, exist_ok=True)
    for old in package.iterdir():
        old.unlink()
    inside = [path for path in (ROOT / "hico").iterdir() if path.name != "__pycache__"]
    for source in [*inside, *(ROOT / name for name in FOLDERS)]:
        if source.exists():
            (package / source.name).symlink_to(source)


def main() -> int:
    lay_out()
    command = [sys.executable, "-m", "mypy", "-p", "hico"]
    command += ["--config-file", str(ROOT / "pyproject.toml")]
    command += ["--cache-dir", str(ROOT / ".mypy_cache")]
    done = subprocess.run(command, cwd=LINKS, stdout=subprocess.PIPE, text=True)
    print(re.sub(rf"^hico/({'|'.join(FOLDERS)})/", r"\1/", done.stdout, flags=re.M), end="")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
