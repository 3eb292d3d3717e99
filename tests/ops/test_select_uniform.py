"""hico.select_uniform against torch's integer linspace and the published formula."""

import pytest
import torch
from gpu_helpers import replay

import hico


def linspace(n, k):
    return (
        torch.linspace(0, n - 1, k, dtype=torch.int64) if k else torch.zeros(0, dtype=torch.int64)
    )


def test_is_the_integer_linspace(device):
    for n in range(65):
        for k in range(n + 1):
            got = hico.select_uniform(n, k, device)
            assert got.dtype == torch.int64 and torch.equal(got.cpu(), linspace(n, k)), (n, k)


@pytest.mark.parametrize("n", [100, 784, 1999, 16_384, 160_256])
def test_long_rows(n, device):
    for k in {1, 2, 3, n // 7, n // 4, n // 3, int(n * 0.75), n - 1, n}:
        got = hico.select_uniform(n, k, device)
        assert torch.equal(got.cpu(), linspace(n, k)), k
        assert (got.diff() > 0).all()


def test_is_the_published_formula(device):
    for n, k in ((97, 31), (1000, 333), (24, 18)):
        step = (n - 1) / (k - 1)
        want = [int(step * j) if j < k // 2 else int(n - 1 - step * (k - 1 - j)) for j in range(k)]
        assert hico.select_uniform(n, k, device).tolist() == want


def test_device():
    assert hico.select_uniform(5, 2).device == torch.empty(0).device
    with torch.device("meta"):
        assert hico.select_uniform(5, 2).device.type == "meta"
    assert hico.select_uniform(5, 2, "cpu").device.type == "cpu"


def test_opcheck(device):
    for n, k in ((10, 4), (0, 0), (3, 1)):
        op = torch.ops.hico.select_uniform.default
        torch.library.opcheck(op, (n, k, torch.device(device)))


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(x):
        return hico.select_uniform(x.shape[1], x.shape[1] // 3, x.device) + 1

    for n in (30, 100, 1000):
        got = run(torch.zeros(2, n, device=device))
        assert torch.equal(got.cpu(), linspace(n, n // 3) + 1)
    assert compiler.frame_count == 1


def test_compile_on_the_default_device(compiler):
    run = torch.compile(
        lambda x: hico.select_uniform(x.shape[1], 3), fullgraph=True, dynamic=True, backend=compiler
    )
    assert torch.equal(run(torch.zeros(2, 10)), linspace(10, 3))


@pytest.mark.gpu
def test_cuda_graph_without_synchronisation(device):
    run = lambda: hico.select_uniform(160_256, 40_064, device)  # noqa: E731
    run()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(replay(run, lambda: None).cpu(), linspace(160_256, 40_064))


def test_bad_input():
    for message, call in {
        "k: expected 0 <= k <= 5, got 6": lambda: hico.select_uniform(5, 6),
        "k: expected 0 <= k <= 5, got -1": lambda: hico.select_uniform(5, -1),
        "k: expected an integer, got float": lambda: hico.select_uniform(5, 2.0),
        "n: expected 0 <= n .* got -1": lambda: hico.select_uniform(-1, 0),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
