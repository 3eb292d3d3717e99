"""hico.ops.attention against torch's attention, and everything that an op promises."""

import pytest
import torch
from gpu_helpers import compiled, many_rows, replay, some_rows
from torch.nn.functional import scaled_dot_product_attention

from hico.ops.attention import attention
from hico.testing import assert_tokens_close

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
HALF = pytest.mark.parametrize("dtype", DTYPES[:2])
SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 2, 16),
    (2, 37, 3, 16),
    (1, 64, 1, 32),
    (1, 131, 1, 16),
    (2, 9, 2, 5),
]


def projected(batch, n, heads, d, dtype, device):
    return torch.randn(batch, n, 3 * heads * d, device=device).to(dtype)


def plain(qkv, heads):
    """torch's attention of the same, in the same type."""
    q, k, v = (t.unflatten(2, (heads, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch, n, heads, d", SHAPES)
def test_fwd(batch, n, heads, d, dtype, device):
    qkv = projected(batch, n, heads, d, dtype, device)
    y = attention(qkv, heads)
    assert y.dtype == dtype and y.shape == (batch, n, heads * d) and y.is_contiguous()
    assert_tokens_close(y, plain(qkv.double(), heads), plain(qkv, heads))
    assert torch.equal(attention(qkv, heads), y)


def test_rows_stay_apart(device):
    """What is beside a row in memory never reaches it; NaN and infinities go where they must."""
    qkv = projected(3, 70, 2, 16, torch.float16, device)
    want = attention(qkv, 2)
    for value in (torch.nan, torch.inf):
        poisoned = qkv.clone()
        poisoned[0::2] = value
        assert torch.equal(attention(poisoned, 2)[1], want[1])
        poisoned = qkv.clone()
        poisoned[1, 69, 32:48] = value  # a key of the first head
        y = attention(poisoned, 2)
        assert torch.equal(y[0::2], want[0::2]) and torch.equal(y[1, :, 16:], want[1, :, 16:])
        exact = plain(poisoned.double(), 2)
        assert torch.equal(torch.isnan(y), torch.isnan(exact))
    poisoned = qkv.clone()
    poisoned[1, 3, :16] = torch.nan  # a query
    y = attention(poisoned, 2)
    assert torch.isnan(y[1, 3, :16]).all() and torch.isnan(y).sum() == 16


def test_large_scores(device):
    """The highest score wins without overflow, wherever it stands."""
    qkv = projected(1, 70, 1, 16, torch.float16, device)
    for winner in (0, 31, 69):
        large = qkv.clone()
        large[0, :, :16] = 100
        large[0, :, 16:32] = -100
        large[0, winner, 16:32] = 100
        assert torch.equal(attention(large, 1), qkv[:, winner : winner + 1, 32:].expand(1, 70, 16))


def test_empty(device):
    for batch, n in ((0, 5), (2, 0)):
        y = attention(projected(batch, n, 2, 16, torch.float16, device), 2)
        assert y.shape == (batch, n, 32)


def test_noncontiguous(device):
    qkv = projected(2, 7, 1, 16, torch.float16, device)
    torch.testing.assert_close(attention(qkv.mT.contiguous().mT, 1), attention(qkv, 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_opcheck(dtype, device):
    op = torch.ops.hico.attention.default
    torch.library.opcheck(op, (projected(2, 5, 2, 16, dtype, device), 2))
    torch.library.opcheck(op, (projected(2, 5, 2, 5, dtype, device), 2))


def test_no_gradient(device):
    qkv = projected(1, 5, 2, 16, torch.float16, device).requires_grad_()
    assert not attention(qkv, 2).requires_grad


@pytest.mark.gpu
@HALF
@pytest.mark.parametrize("n", [1, 63, 64, 196, 784, 785, 3136])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_gpu(scale, n, dtype):
    """Against float64 at most twice as far off as torch's, in every token; NaN on both sides."""
    qkv = projected(2, n, 16, 64, dtype, "cuda") * scale
    around = torch.full((4, n, 3072), torch.nan, device="cuda", dtype=dtype)
    around[1:3] = qkv
    y = attention(around[1:3], 16)
    off, theirs = (t.double() - plain(qkv.double(), 16) for t in (y, plain(qkv, 16)))
    least = torch.finfo(dtype).eps * y.double().norm(dim=-1) / 8
    assert (off.norm(dim=-1) <= 2 * theirs.norm(dim=-1) + least).all()
    assert off.norm() <= 1.5 * theirs.norm() + least.norm()


@pytest.mark.gpu
def test_cuda_graph():
    qkv = projected(2, 784, 16, 64, torch.bfloat16, "cuda")
    other = torch.randn_like(qkv)
    out = replay(lambda: attention(qkv, 16), lambda: qkv.copy_(other))
    assert torch.equal(out, attention(other, 16))


@pytest.mark.gpu
def test_no_recompile():
    attention(projected(2, 784, 16, 64, torch.bfloat16, "cuda"), 16)
    before = compiled()
    for batch, n in ((1, 784), (33, 784), (5, 3136), (3, 196), (2, 7), (1, 1), (1, 1000)):
        attention(projected(batch, n, 16, 64, torch.bfloat16, "cuda"), 16)
    assert before > 0 and compiled() == before


@pytest.mark.gpu
def test_large_offsets():
    qkv = many_rows(784, 3072)
    y = attention(qkv, 16)
    for part in some_rows(len(qkv)):
        assert torch.equal(y[part], attention(qkv[part].clone(), 16))


def test_bad_input():
    x = torch.ones(2, 5, 12)
    for message, call in {
        r"qkv: expected .* got \[5, 12\]": lambda: attention(x[0], 2),
        "qkv: expected .* got NoneType": lambda: attention(None, 2),
        "qkv: expected .* got torch.int64": lambda: attention(x.long(), 2),
        r"qkv: expected a multiple of 3 \* 3 channels, got 12": lambda: attention(x, 3),
        "num_heads: expected .* got 0": lambda: attention(x, 0),
        "num_heads: expected .* got NoneType": lambda: attention(x, None),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()
