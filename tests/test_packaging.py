"""What ships, what importing it does, and what the source files may contain."""

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# import path in the wheel -> folder in the repository
FOLDERS = {
    "hico": ROOT / "hico",
    "hico/kernels": ROOT / "kernels",
    "hico/model": ROOT / "model",
    "hico/bench": ROOT / "bench",
}
NOT_SHIPPED = {"__pycache__", "results"}
BUILT_FROM = ["pyproject.toml", "setup.py", "LICENSE", "README.md", "hico", "kernels"]
BUILT_FROM += ["model", "bench"]


def shipped_files(folder: Path) -> list[Path]:
    """The files of a package folder, relative to it, without what Python or tools left there."""
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not NOT_SHIPPED & set(path.parts))


def sources() -> list[Path]:
    return [f / p for f in FOLDERS.values() for p in shipped_files(f) if p.suffix == ".py"]


def run_python(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments, hico taken from `cwd`: an installed hico stays out of sight."""
    clean = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYTHONPATH")}
    clean |= {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"} | env
    # without site (-S) no .pth file is read, and an editable install is one
    command = [sys.executable, "-S", *args]
    return subprocess.run(command, cwd=cwd, env=clean, text=True, capture_output=True, timeout=120)


def output(*args: str, cwd: Path = ROOT, **env: str) -> str:
    done = run_python(*args, cwd=cwd, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of what the wheel is built from, so that no build leaves files in the tree."""
    copy = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for path in (ROOT / name for name in BUILT_FROM):
        if path.is_dir():
            shutil.copytree(path, copy / path.name, ignore=ignore)
        elif path.is_file():
            shutil.copy(path, copy / path.name)
    return copy


@pytest.fixture(scope="module")
def wheel(copy, tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "-q"]
    command = [*pip, "--no-build-isolation", "--no-deps", "-w", str(out), str(copy)]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_exactly_the_folders(wheel):
    expected = {f"{name}/{p.as_posix()}" for name, f in FOLDERS.items() for p in shipped_files(f)}
    found = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert found == expected
    assert {"hico/py.typed", "hico/__init__.py"} <= found
    assert {name.split("/")[0] for name in found} == {"hico"}


def test_wheel_metadata(wheel):
    (info,) = {n.split("/")[0] for n in wheel.namelist() if n.split("/")[0].endswith(".dist-info")}
    read = {n.split("/", 1)[1]: wheel.read(n).decode() for n in wheel.namelist() if info in n}
    head = metadata.PathDistribution(zipfile.Path(wheel, f"{info}/")).metadata
    version = output("-m", "hico.cli", "--version").split()[1]
    assert (head["Name"], head["Version"]) == ("hico", version)
    assert head["Requires-Python"] == ">=3.11"
    assert head["License-Expression"] == "Apache-2.0"
    assert read["entry_points.txt"].split("\n")[:2] == ["[console_scripts]", "hico = hico.cli:main"]
    assert "Apache License" in read["licenses/LICENSE"]


def test_kernels_and_bench_have_no_init():
    # with one, kernels/ would be taken for the `kernels` package that transformers looks for
    assert not [f for f in ("kernels", "bench") if (ROOT / f / "__init__.py").exists()]


IMPORT = """
import os, sys, warnings, torch

BLOCK_TRITON = {block}
if BLOCK_TRITON:
    sys.modules["triton"] = None

def state():
    modes = torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_num_threads()
    modes += (torch.are_deterministic_algorithms_enabled(), torch.get_float32_matmul_precision())
    return dict(os.environ), list(warnings.filters), list(sys.path), modes, sys.excepthook

before = state()
import hico
after = state()
for old, new in zip(before, after):
    assert old == new, (old, new)
assert not torch.cuda.is_initialized()
for name in ("transformers", "accelerate", "av", "matplotlib"):
    assert name not in sys.modules, name
"""


@pytest.mark.parametrize("block", [False, True], ids=["as-installed", "no-triton"])
def test_import_changes_nothing(block):
    output("-c", IMPORT.format(block=block))


def test_import_takes_less_than_3_seconds():
    # of processor time: the clock also counts what else the machine is doing
    code = "import time; t = time.process_time(); import hico; print(time.process_time() - t)"
    assert float(output("-c", code)) < 3


def test_bare_checkout_runs_without_installation(copy):
    code = "import hico.kernels, hico.model; print(*hico.kernels.__path__, *hico.model.__path__)"
    assert output("-m", "hico.cli", "--version", cwd=copy).startswith("hico ")
    assert output("-m", "hico", "--version", cwd=copy).startswith("hico ")
    paths = output("-c", code, cwd=copy).split()
    assert {Path(path) for path in paths} == {copy / "kernels", copy / "model"}


def test_command_line_errors_are_one_line(copy):
    done = run_python("-m", "hico", "demo", "no-such-file.mp4", cwd=copy)
    assert done.returncode == 2
    assert done.stderr.startswith("hico: error: ") and done.stderr.count("\n") == 1
    assert "no-such-file.mp4" in done.stderr
    traced = run_python("-m", "hico", "--traceback", "demo", "no-such-file.mp4", cwd=copy)
    assert "Traceback" in traced.stderr
    assert "demo" in output("-m", "hico", "--help", cwd=copy)
    assert "--tokens" in output("-m", "hico", "demo", "--help", cwd=copy)


def test_console_script():
    script = Path(sys.executable).with_name("hico")
    if not script.exists():
        pytest.skip("hico is not installed beside this Python")
    done = subprocess.run([script, "--version"], text=True, capture_output=True)
    assert done.stdout.startswith("hico "), done.stderr


def imports(path: Path) -> set[str]:
    """Absolute names of the modules that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add("." * node.level + (node.module or ""))
    return found


def test_kernels_import_only_torch_triton_and_themselves():
    for path in (ROOT / "kernels").rglob("*.py"):
        for name in imports(path):
            allowed = name.split(".")[0] in {"torch", "triton", *sys.stdlib_module_names}
            depth = len(path.relative_to(ROOT / "kernels").parts)
            within = name.startswith(".") and len(name) - len(name.lstrip(".")) <= depth
            own = f"{name}.".startswith("hico.kernels.")
            assert allowed or within or own, f"{path.relative_to(ROOT)} imports {name}"


def test_every_import_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    declared = {distribution(line) for line in project["dependencies"] + extras}
    declared |= {"hico", "pynvml", "yaml", *sys.stdlib_module_names}
    for path in sources():
        roots = {name.split(".")[0] for name in imports(path) if not name.startswith(".")}
        assert roots <= declared, f"{path.relative_to(ROOT)}: {sorted(roots - declared)}"


def distribution(requirement: str) -> str:
    """The distribution that a requirement names; ours are imported by the same name."""
    for end in "><=;[ ":
        requirement = requirement.split(end)[0]
    return requirement.replace("-", "_").lower()


def test_files_are_short():
    others = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
    lengths = {p.relative_to(ROOT): len(p.read_text().splitlines()) for p in sources() + others}
    too_long = {
        str(p): n for p, n in lengths.items() if n > (400 if p.parts[0] == "tests" else 300)
    }
    assert not too_long
