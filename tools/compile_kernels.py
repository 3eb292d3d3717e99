"""Builds the GPU code of every kernel on a machine without a GPU, and fails on errors and spills.

The launchers run on CPU tensors under a driver that only pretends: Triton itself works out what a
GPU would be given (pointer types, divisibility, constants, options), and where it would compile
and launch, the request is written down. Afterwards each distinct request is built for each target
with the assembler that Triton ships, and the registers, stack and shared memory are read from the
binary. The cases are those of tests/kernel_cases.py: `kernel_cases()` yields (label, call) pairs.
"""

import argparse
import ast
import importlib.util
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# the interpreter replaces the compiler when this is set, and it is read when triton is imported
os.environ.pop("TRITON_INTERPRET", None)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import triton  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

# shared memory that one program may have, in bytes
SHARED_LIMIT = {80: 163 * 1024, 86: 99 * 1024, 89: 99 * 1024, 90: 227 * 1024}
USAGE = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


class PretendDriver:
    """Answers what JITFunction.run asks before it compiles; the architecture is the device."""

    def __init__(self, arch: int):
        self.arch = arch

    def get_current_device(self) -> int:
        return self.arch

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.arch, 32)


@dataclass
class Request:
    """One binary that a launcher asked for."""

    case: str
    arch: int
    kernel: JITFunction
    source: Any
    options: dict

    @property
    def place(self) -> tuple[str, str]:
        code = self.kernel.fn.__code__
        return os.path.realpath(code.co_filename), self.kernel.fn.__name__


@dataclass
class Result:
    regs: int = 0
    stack: int = 0
    shared: int = 0
    seconds: float = 0.0
    problem: str = ""


def record(cases: list, archs: list[int]) -> tuple[list[Request], list[str]]:
    """Call every case for every architecture; equal requests are kept once."""
    found: dict[tuple, Request] = {}
    failures: set[str] = set()
    now: dict[str, Any] = {}

    def note(self, key, signature, device, constexprs, options, attrs, warmup):
        source = self.ASTSource(self, signature, constexprs, attrs)
        request = Request(now["case"], now["arch"], self, source, dict(options.__dict__))
        found.setdefault((request.arch, *request.place, source.hash(), options.hash()), request)

    original, JITFunction._do_compile = JITFunction._do_compile, note
    try:
        for now["arch"] in archs:
            triton.runtime.driver.set_active(PretendDriver(now["arch"]))
            for now["case"], call in cases:
                try:
                    call()
                except Exception as error:
                    failures.add(f"{now['case']}: {type(error).__name__}: {error}")
    finally:
        JITFunction._do_compile = original
    return sorted(found.values(), key=lambda r: (*r.place, r.case, r.arch)), list(failures)


def build(request: Request) -> Result:
    began = time.perf_counter()
    target = GPUTarget("cuda", request.arch, 32)
    try:
        compiled = triton.compile(request.source, target=target, options=request.options)
    except Exception as error:
        return Result(problem=f"{type(error).__name__}: {error}")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        regs, stack, static, local = usage(file.name)
    shared = max(compiled.metadata.shared, static)
    result = Result(regs, stack + local, shared, time.perf_counter() - began)
    limit = SHARED_LIMIT[request.arch]
    problems = []
    if result.stack:
        problems.append(f"spills: {stack} bytes of stack, {local} of local memory")
    if shared > limit:
        problems.append(f"{shared} bytes of shared memory, {limit} at most")
    result.problem = "; ".join(problems)
    return result


def usage(cubin: str) -> tuple[int, ...]:
    tool = triton.knobs.nvidia.cuobjdump.path
    text = subprocess.run(
        [tool, "--dump-resource-usage", cubin], check=True, capture_output=True, text=True
    ).stdout
    found = USAGE.search(text)
    if not found:
        raise RuntimeError(f"no resource usage in what {tool} printed:\n{text}")
    return tuple(int(number) for number in found.groups())


_requests: list[Request] = []


def build_all(requests: list[Request], jobs: int) -> Iterator[tuple[Request, Result]]:
    # a fork inherits the requests, which cannot be pickled
    _requests[:] = requests
    with multiprocessing.get_context("fork").Pool(jobs) as pool:
        for index, result in pool.imap_unordered(_build_one, range(len(requests))):
            yield requests[index], result


def _build_one(index: int) -> tuple[int, Result]:
    return index, build(_requests[index])


def kernels_in(folder: Path) -> set[tuple[str, str]]:
    """(file, name) of every @triton.jit function whose name ends in _kernel."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.endswith("_kernel"):
                if any("triton.jit" in ast.unparse(d) for d in node.decorator_list):
                    found.add((os.path.realpath(path), node.name))
    return found


def load_cases(path: Path, only: str) -> list:
    sys.path.insert(0, str(path.parent))  # the cases may lie in several files
    spec = importlib.util.spec_from_file_location("kernel_cases", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return [(label, call) for label, call in module.kernel_cases() if only in label]


def report(done: list[tuple[Request, Result]]) -> None:
    wide = max([len(r.kernel.fn.__name__) for r, _ in done] + [6])
    case = max([len(r.case) for r, _ in done] + [4])
    print(f"\n{'kernel':<{wide}}  {'case':<{case}}  arch  regs  shared  spill  seconds")
    for request, result in sorted(done, key=lambda d: (*d[0].place, d[0].case, d[0].arch)):
        name = request.kernel.fn.__name__
        print(
            f"{name:<{wide}}  {request.case:<{case}}  {request.arch:>4}  {result.regs:>4}  "
            f"{result.shared:>6}  {result.stack:>5}  {result.seconds:>7.1f}"
        )


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=Path, default=ROOT / "tests" / "kernel_cases.py")
    parser.add_argument("--kernels", type=Path, default=ROOT / "kernels")
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=SHARED_LIMIT)
    parser.add_argument("--only", default="", help="cases whose label contains this")
    parser.add_argument("--jobs", type=int, default=2)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    requests, problems = record(load_cases(args.cases, args.only), args.arch)
    print(f"triton {triton.__version__}: {len(requests)} binaries to build", flush=True)
    done = []
    for request, result in build_all(requests, args.jobs):
        done.append((request, result))
        line = f"{request.kernel.fn.__name__} [{request.case}] sm_{request.arch}"
        print(f"[{len(done)}/{len(requests)}] {line}: {result.problem or 'ok'}", flush=True)
        if result.problem:
            problems.append(f"{line}: {result.problem}")
    report(done)
    if not args.only:
        missing = kernels_in(args.kernels) - {request.place for request in requests}
        problems += [f"{name} ({Path(path).name}): no case reaches it" for path, name in missing]
    for problem in sorted(problems):
        print(f"FAILED {problem}")
    print(
        f"{len(requests)} binaries of {len({r.place for r in requests})} kernels, "
        f"{len(problems)} problems"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
