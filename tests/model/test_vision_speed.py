"""What makes the encoders fast or small changes no value: compiled blocks, checkpoints."""

import copy
import doctest

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from hico.model.vision import InternVideo2Encoder, VisionEncoder, common


def small(kind, **sizes):
    """A small encoder of either kind whose biases and norms are random too."""
    sizes = {"patch_size": 8, "channels": 24, "depth": 3, "num_heads": 3} | sizes
    torch.manual_seed(0)
    encoder = kind(32, 4, **sizes)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return encoder


def clips(batch, time=4):
    return torch.randn(batch, time, 3, 32, 32)


KINDS = pytest.mark.parametrize(
    "kind", [VisionEncoder, InternVideo2Encoder], ids=["umt", "internvideo2"]
)


@KINDS
def test_blocks_compile_once(kind, device, compiler):
    """One compilation serves all blocks, other numbers of clips, images and changed weights."""
    encoder = small(kind).to(device)
    compiled = copy.deepcopy(encoder)
    compiled.compile_blocks(backend=compiler)
    compiled.encode(clips(3))
    first = compiler.frame_count
    for frames in (clips(2), clips(5), clips(4, time=1)):
        expected = encoder.encode(frames)
        torch.testing.assert_close(compiled.encode(frames), expected, atol=1e-5, rtol=1e-5)
    for net in (encoder, compiled):
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(0.5)
    frames = clips(2)
    expected = encoder.encode(frames)
    torch.testing.assert_close(compiled.encode(frames), expected, atol=1e-5, rtol=1e-5)
    assert compiler.frame_count == first


@KINDS
@pytest.mark.parametrize("blocks_compiled", [False, True])
def test_gradient_checkpointing(kind, blocks_compiled, device, compiler):
    encoder = small(kind).to(device)
    assert encoder.gradient_checkpointing is False
    if blocks_compiled:
        encoder.compile_blocks(backend=compiler)
    frames, grads, kept = clips(2).to(device), [], []
    for encoder.gradient_checkpointing in (False, True):
        saved = []
        encoder.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda t, s=saved: s.append(t) or t, _same):
            out = encoder(frames).square().sum()
        kept.append(sum(t.numel() for t in saved))
        out.backward()
        grads.append({n: p.grad for n, p in encoder.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 30
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, atol=1e-4, rtol=1e-4)
    assert blocks_compiled or kept[1] < kept[0] / 2


def _same(tensor):
    return tensor


@KINDS
def test_checkpoints_only_in_training(kind, device, monkeypatch):
    encoder = small(kind).to(device)
    encoder.gradient_checkpointing = True
    calls = []
    monkeypatch.setattr(common, "checkpoint", lambda block, x, **_: calls.append(block) or block(x))
    frames = clips(1).to(device)
    encoder(frames)
    assert len(calls) == 3
    encoder.encode(frames)
    encoder.eval()(frames)
    assert len(calls) == 3


def test_attention_order(monkeypatch):
    """cuDNN goes first on a GPU; what the caller switched off stays off."""
    orders = []
    monkeypatch.setattr(common, "sdpa_kernel", lambda order, set_priority: orders.append(order))
    gpu = torch.device("cuda")
    flash, cudnn = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION
    common.fastest_attention(gpu)
    assert len(orders[0]) == 4 and orders[0][0] == cudnn
    with sdpa_kernel([flash, cudnn]):
        common.fastest_attention(gpu)
    assert orders[1] == [cudnn, flash]
    with sdpa_kernel([SDPBackend.MATH]):
        common.fastest_attention(gpu)
    common.fastest_attention(torch.device("cpu"))
    assert len(orders) == 2


@pytest.mark.gpu
@KINDS
@pytest.mark.parametrize("time", [4, 1])
def test_cudnn_attention(kind, time):
    """In bfloat16 encode leaves float32 no further than the pass in plain attention does, twice."""
    wide = small(kind, channels=192, depth=2).cuda()
    frames = clips(5, time).cuda()
    expected = wide.encode(frames)
    half = copy.deepcopy(wide).bfloat16()
    with sdpa_kernel([SDPBackend.MATH]), torch.no_grad():
        bound = (half(frames) - expected).norm()
    assert (half.encode(frames, chunk=2) - expected).norm() <= 2 * bound


def test_docstrings():
    result = doctest.testmod(common)
    assert result.attempted and not result.failed
