"""Builds sdist -> wheel, installs the wheel where nothing else of hico is, and imports all of it.

Only hico itself is installed anew: its dependencies are those of the running interpreter.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_COPIED = (".git", ".venv*", "build", "dist", "*.egg-info", "__pycache__", ".*_cache")

IMPORT_ALL = """
import importlib, pathlib, hico
(top,) = map(pathlib.Path, hico.__path__)
files = [file.relative_to(top.parent).with_suffix("") for file in top.rglob("*.py")]
names = [".".join(file.parts) for file in files if file.name not in ("__init__", "__main__")]
for name in names:
    importlib.import_module(name)
folders = {name.split(".")[1] for name in names}
assert {"kernels", "model", "bench"} <= folders, folders
print(f"imported {len(names)} modules of hico {hico.__version__} from {top}")
"""


def call(*command: str | Path, cwd: Path) -> str:
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "TRITON_INTERPRET")}
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, text=True, capture_output=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(work: Path) -> Path:
    """The wheel of a copy of the tree: nothing is written in the tree itself."""
    source = work / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*NOT_COPIED))
    call(sys.executable, "-m", "build", "--no-isolation", "-o", work / "dist", source, cwd=work)
    (wheel,) = (work / "dist").glob("*.whl")
    return wheel


def install(wheel: Path, work: Path) -> Path:
    """A fresh environment with the wheel; a .pth file lends it the dependencies.

    Python does not follow the .pth files of a folder named in one, so an editable hico among
    the dependencies stays invisible.
    """
    folder = work / "env"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", folder]
    call(*pip, "install", "-q", "--no-deps", wheel, cwd=work)
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


SHIPPED = """
from hico.model.load import load_model, shipped

sizes = {path.name: path.stat().st_size for path in shipped().iterdir()}
assert sizes["model.safetensors"] <= 15 << 20, sizes
model, _ = load_model(device="cpu")
count = sum(p.numel() for p in model.parameters())
print(f"hico-tiny: {count} parameters, {sum(sizes.values())} bytes in {shipped()}")
"""


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="hico-wheel-") as name:
        work = Path(name)
        wheel = build(work)
        scripts = install(wheel, work)
        empty = work / "elsewhere"
        empty.mkdir()
        print(f"built {wheel.name} ({wheel.stat().st_size / 1e6:.2f} MB)")
        print(call(scripts / "hico", "--version", cwd=empty), end="")
        print(call(scripts / "python", "-c", IMPORT_ALL, cwd=empty), end="")
        print(call(scripts / "python", "-c", SHIPPED, cwd=empty), end="")
        said = call(scripts / "hico", "demo", "-o", "picture.png", cwd=empty)
        assert "right answer:" in said, said
        print(f"hico demo: {(empty / 'picture.png').stat().st_size} bytes of picture")
    return 0


if __name__ == "__main__":
    sys.exit(main())
