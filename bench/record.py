"""Result rows: numbers with where and when they were measured, one JSON line each."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from hico._version import __version__

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path("bench/results")

Row = dict[str, Any]


def environment(device: torch.device) -> Row:
    """GPU, driver, versions, commit and date: the same for all rows of a run."""
    commit, dirty = git_state()
    now = datetime.now(UTC)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "run": f"{now:%Y%m%dT%H%M%S}-{os.getpid()}",
        "date": f"{now:%Y-%m-%dT%H:%M:%SZ}",
        "device": device.type,
        "gpu": gpu or f"CPU {platform.machine()}",
        "driver": driver() if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": version("triton"),
        "python": platform.python_version(),
        "hico": __version__,
        "commit": commit,
        "dirty": dirty,
    }


def version(package: str) -> str | None:
    """The installed version, None if it is not there."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def driver() -> str | None:
    """The version of NVIDIA's driver, None if nvidia-smi does not say."""
    answer = output_of("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return answer.splitlines()[0].strip() if answer else None


def git_state() -> tuple[str | None, bool | None]:
    """Commit, and whether the files differ from it; None where nobody says.

    A copy without git says it through HICO_COMMIT, with "-dirty" at the end if it differs.
    """
    named = os.environ.get("HICO_COMMIT")
    if named:
        return named.removesuffix("-dirty"), named.endswith("-dirty")
    commit = output_of("git", "-C", str(ROOT), "rev-parse", "HEAD")
    if not commit:
        return None, None
    # the results themselves change while a run writes them
    changed = output_of(
        "git", "-C", str(ROOT), "status", "--porcelain", "--", ".", ":!bench/results"
    )
    return commit, None if changed is None else bool(changed)


def output_of(*command: str) -> str | None:
    """What a program prints, None if it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def one_line(error: Exception) -> str:
    """An exception's type and the start of its message.

    >>> one_line(ValueError("expected 1"))
    'ValueError: expected 1'
    """
    lines = str(error).strip().splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0][:300]}"


def append(path: Path, row: Row) -> None:
    """One more line, on disk when this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")


def load(path: Path) -> list[Row]:
    """All rows, oldest first.

    Raises:
        ValueError: the file is missing, or a line is not a JSON object.
    """
    if not path.is_file():
        raise ValueError(f"results: expected a file of JSON lines, found none at {path}")
    rows = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            raise ValueError(
                f"{path}:{number}: expected one JSON object a line: {error}"
            ) from error
        if row is not None and not isinstance(row, dict):
            raise ValueError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
        rows += [row] if row else []
    return rows
