"""hico.compat against the published rule, applied here one token at a time."""

import copy
import pickle
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils import _pytree as pytree

import hico
from hico.compat import MODES, Merge, bipartite_soft_matching, merge_source, merge_wavg

pytestmark = pytest.mark.usefixtures("device")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
SPECIAL = [
    pytest.param(False, False, id="plain"),
    pytest.param(True, False, id="class"),
    pytest.param(False, True, id="distill"),
    pytest.param(True, True, id="both"),
]


def randn(*shape, seed=0, dtype=torch.float32):
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(DEVICE, dtype)


def plain_slots(metric, r, class_token=False, distill_token=False):
    """The members of every slot of one row in output order, the destination first."""
    t = len(metric)
    r = min(r, (t - class_token - distill_token) // 2)
    if r <= 0:
        return [[n] for n in range(t)]
    unit = F.normalize(metric.double(), dim=-1)
    destinations = list(range(1, t, 2))
    partner, value = {}, {}
    for i in range(2 if class_token else 0, t, 2):
        cosines = [float(unit[i] @ unit[j]) for j in destinations]
        cosines[0] = -torch.inf if distill_token else cosines[0]
        value[i], partner[i] = max(cosines), destinations[cosines.index(max(cosines))]
    ranking = sorted(value, key=lambda i: -value[i])
    unmerged = [0, *sorted(ranking[r:])] if class_token else ranking[r:]
    order = unmerged + destinations
    if distill_token:
        order = [unmerged[0], 1, *unmerged[1:], *destinations[1:]]
    slots = {n: [n] for n in order}
    for i in ranking[:r]:
        slots[partner[i]].append(i)
    return [slots[n] for n in order]


def plain_merge(x, slots, mode):
    """[B, t, C] -> [B, M, C], every slot's members reduced."""
    rows = [[getattr(row[m], mode)(0) for m in s] for row, s in zip(x, slots, strict=True)]
    return torch.stack([torch.stack(row) for row in rows])


def check_all(metric, x, r, class_token, distill_token):
    merge, unmerge = bipartite_soft_matching(metric, r, class_token, distill_token)
    merge.map.check()
    slots = [plain_slots(row.cpu(), r, class_token, distill_token) for row in metric]
    assert merge.map.anchor.tolist() == [[members[0] for members in row] for row in slots]
    for mode in MODES:
        torch.testing.assert_close(merge(x, mode=mode), plain_merge(x, slots, mode))
    y, source = merge(x), merge_source(merge, x)
    back = unmerge(y)
    assert back.shape == x.shape
    for b, row in enumerate(slots):
        for m, members in enumerate(row):
            assert torch.equal(back[b, members], y[b, m].expand(len(members), -1))
            assert source[b, m].nonzero().flatten().tolist() == sorted(members)
    assert source.sum() == source.shape[0] * source.shape[2]


@pytest.mark.parametrize("r", [0, 1, 5, 10**6])
@pytest.mark.parametrize("t", [8, 13])
@pytest.mark.parametrize(("class_token", "distill_token"), SPECIAL)
def test_rule(class_token, distill_token, t, r):
    check_all(randn(2, t, 6, seed=t), randn(2, t, 3, seed=1), r, class_token, distill_token)


def test_rule_of_a_vit_block():
    check_all(randn(1, 197, 64), randn(1, 197, 5), 16, True, False)


@pytest.mark.parametrize("t", [1, 2, 3, 4])
@pytest.mark.parametrize(("class_token", "distill_token"), SPECIAL)
def test_few_tokens(class_token, distill_token, t):
    check_all(randn(1, t, 6, seed=t), randn(1, t, 2), 10, class_token, distill_token)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_metric_dtypes(dtype):
    check_all(randn(1, 12, 8, dtype=dtype), randn(1, 12, 3), 3, False, False)


@pytest.mark.parametrize("r", [0, -3])
def test_identity_returns_its_argument(r):
    x = randn(2, 6, 4)
    merge, unmerge = bipartite_soft_matching(x, r, class_token=True)
    assert all(merge(x, mode=mode) is x for mode in MODES)
    assert unmerge(x) is x
    tokens, size = merge_wavg(merge, x)
    assert tokens is x and torch.equal(size, torch.ones_like(x[..., :1]))
    assert torch.equal(merge_source(merge, x), torch.eye(6, device=DEVICE).expand(2, 6, 6))


@pytest.mark.parametrize("distill_token", [False, True])
def test_empty_batch(distill_token):
    x = randn(0, 9, 4)
    merge, unmerge = bipartite_soft_matching(x, 3, distill_token=distill_token)
    tokens, size = merge_wavg(merge, x)
    assert tokens.shape == merge(x, mode="amax").shape == (0, 6, 4) and size.shape == (0, 6, 1)
    assert unmerge(tokens).shape == x.shape


@pytest.mark.parametrize("protected", [0, 1, 2])
def test_merge_tokens_agrees(protected):
    x = randn(2, 21, 8)
    special = {"class_token": protected > 0, "distill_token": protected > 1}
    merge, _ = bipartite_soft_matching(x, 6, **special)
    other = hico.merge_tokens(x, 15, protected=protected, order="reference")
    assert torch.equal(merge.map.assign, other.map.assign)
    assert torch.equal(merge.map.anchor, other.map.anchor)
    tokens, size = merge_wavg(merge, x)
    assert torch.equal(tokens, other.tokens) and torch.equal(size[..., 0], other.size.float())


def test_noncontiguous():
    check_all(randn(2, 6, 22)[:, :, ::2].mT, randn(2, 4, 11).mT, 3, True, False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_blocks_in_a_row(dtype):
    """Sizes and sources carried through three blocks name the mean of the first tokens."""
    first = x = randn(2, 30, 8, dtype=dtype)
    size = source = None
    for block, r in enumerate((9, 7, 5)):
        merge, _ = bipartite_soft_matching(x, r, class_token=True, distill_token=block == 1)
        source = merge_source(merge, x, source)
        x, size = merge_wavg(merge, x, size)
    assert x.dtype == dtype and source.shape == (2, 9, 30)
    assert size.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(size, source.sum(-1, keepdim=True).to(size.dtype))
    expected = (source.double() @ first.double()) / source.double().sum(-1, keepdim=True)
    # x is rounded to its dtype after every block
    limit = 3 * torch.finfo(dtype).eps * first.abs().max().double()
    assert (x.double() - expected).abs().max() <= limit


@pytest.mark.parametrize("kind", [torch.float32, torch.int64, torch.bfloat16])
def test_weighted_average(kind):
    metric, x = randn(2, 9, 6), randn(2, 9, 4, dtype=torch.bfloat16)
    size = torch.arange(250, 268, device=DEVICE).view(2, 9, 1).to(kind)
    merge, _ = bipartite_soft_matching(metric, 4)
    tokens, total = merge_wavg(merge, x, size)
    slots = [plain_slots(row.cpu(), 4) for row in metric]
    expected_size = plain_merge(size.double(), slots, "sum")
    expected = plain_merge(x.double() * size.double(), slots, "sum") / expected_size
    assert tokens.dtype == torch.bfloat16 and total.dtype == torch.float32
    assert torch.equal(total.double(), expected_size)
    # a whole unit in the last place: the interpreter truncates to bfloat16
    torch.testing.assert_close(tokens.double(), expected, atol=1e-5, rtol=2**-7)


def test_other_dtypes_and_widths():
    merge, unmerge = bipartite_soft_matching(randn(2, 8, 6), 3)
    slots = [plain_slots(row.cpu(), 3) for row in randn(2, 8, 6)]
    for dtype in (torch.int64, torch.int32, torch.uint8, torch.float16):
        x = (randn(2, 8, 17).abs() * 9).to(dtype)
        for mode in ("sum", "amax"):
            out, expected = merge(x, mode=mode), plain_merge(x.double(), slots, mode)
            assert out.dtype == dtype
            torch.testing.assert_close(out.double(), expected, atol=0, rtol=2**-10)
        assert unmerge(merge(x, mode="amax")).dtype == dtype
    mask = randn(2, 8, 1) > 0
    assert torch.equal(merge(mask, mode="amax"), plain_merge(mask, slots, "amax"))


@pytest.mark.parametrize("mode", MODES)
def test_gradients(mode):
    metric = randn(2, 11, 6).requires_grad_()
    # zeros and ties, as behind a ReLU
    x = randn(2, 11, 4).relu().round(decimals=0).requires_grad_()
    merge, unmerge = bipartite_soft_matching(metric, 4, class_token=True)
    slots = [plain_slots(row.detach().cpu(), 4, True) for row in metric]
    out, expected = merge(x, mode=mode), plain_merge(x, slots, mode)
    dout = randn(*out.shape, seed=3)
    (grad,) = torch.autograd.grad(out, x, dout)
    torch.testing.assert_close(grad, torch.autograd.grad(expected, x, dout)[0])
    unmerge(merge(x, mode=mode)).sum().backward()
    assert metric.grad is None and x.grad.isfinite().all()


def test_gradcheck():
    merge, unmerge = bipartite_soft_matching(randn(1, 5, 4), 2)
    x, size = randn(1, 5, 1, dtype=torch.float64), randn(1, 5, 1, dtype=torch.float64).abs() + 1
    x, size = x.requires_grad_(), size.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, size: merge_wavg(merge, x, size)[0], (x, size))
    assert torch.autograd.gradcheck(unmerge, x[:, :3].detach().requires_grad_())


def block(x, r, special):
    merge, unmerge = bipartite_soft_matching(x, r, **special)
    tokens, size = merge_wavg(merge, x, x.detach()[..., :1].exp())
    return tokens, unmerge(tokens), merge(x, mode="amax"), size, merge_source(merge, x), merge


@pytest.mark.parametrize("special", [{"class_token": True}, {"distill_token": True}], ids=str)
def test_compile(special, compiler):
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=compiler)
    for t in (12, 17):
        x = randn(1, t, 3, seed=t).requires_grad_()
        *ours, merge = compiled(x, 3, special)
        *eager, same = block(x, 3, special)
        assert torch.equal(merge.map.assign, same.map.assign)
        torch.testing.assert_close(ours, eager)
        grads = [torch.autograd.grad((out[1] ** 2).sum(), x) for out in (ours, eager)]
        torch.testing.assert_close(*grads)
    assert compiler.frame_count == 1  # one graph for every t


def test_state_is_a_value():
    x = randn(2, 9, 4)
    merge, unmerge = bipartite_soft_matching(x, 3)
    y = merge(x)
    rebuilt = pytree.tree_unflatten(*pytree.tree_flatten(merge))
    for same in (pickle.loads(pickle.dumps(merge)), rebuilt, Merge(merge.map)):
        assert torch.equal(same(x), y)
    assert torch.equal(copy.deepcopy(unmerge)(y), unmerge(y))
    assert unmerge.map is merge.map and isinstance(merge.map, hico.TokenMap)
    with pytest.raises(FrozenInstanceError):
        merge.map = None


MATCH = bipartite_soft_matching
BAD = [
    (lambda x, m, u: MATCH(x[0], 2), r"metric: expected \[B, N, C\].*\[8, 4\]"),
    (lambda x, m, u: MATCH(x.long(), 2), "metric: expected float16.*int64"),
    (lambda x, m, u: MATCH(x, 2.0), "r: expected an integer, got float 2.0"),
    (lambda x, m, u: m(x[:, :5]), r"x: expected \[2, 8, C\], got \[2, 5, 4\]"),
    (lambda x, m, u: m(x, mode="prod"), "mode: expected one of 'mean', 'sum', 'amax', got 'prod'"),
    (lambda x, m, u: u(x), r"y: expected \[2, 6, C\], got \[2, 8, 4\]"),
    (lambda x, m, u: merge_wavg(m, x, x), r"size: expected shape \[2, 8, 1\], got \[2, 8, 4\]"),
    (lambda x, m, u: merge_wavg(u, x), "merge: expected what .* returned, got Unmerge"),
    (lambda x, m, u: merge_source(m, x, x[:, :3]), r"source: expected \[2, 8, C\], got"),
]


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_input(call, message):
    x = randn(2, 8, 4)
    with pytest.raises(ValueError, match=message):
        call(x, *bipartite_soft_matching(x, 2))


class Block(nn.Module):
    """A transformer block that merges r tokens between attention and MLP, sizes in its scores."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads, self.norm1, self.norm2 = heads, nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU())

    def forward(self, x, size, r):
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.mT * q.shape[-1] ** -0.5
        scores = scores if size is None else scores + size.log()[:, None, None, :, 0]
        x = x + self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        merge, _ = bipartite_soft_matching(k.mean(1), r, class_token=True)
        x, size = merge_wavg(merge, x, size)
        return x + self.mlp(self.norm2(x)), size


@pytest.mark.parametrize("half", [False, True])
def test_a_small_vit_learns(half):
    torch.manual_seed(0)
    blocks = nn.ModuleList(Block(16, 2) for _ in range(2)).to(DEVICE)
    head = nn.Linear(16, 4).to(DEVICE)
    step = torch.optim.SGD([*blocks.parameters(), *head.parameters()], lr=0.05)
    tokens, label = randn(2, 11, 16), torch.arange(2, device=DEVICE)

    def loss():
        x, size = tokens, None
        with torch.autocast(DEVICE, torch.bfloat16, enabled=half):
            for layer in blocks:
                x, size = layer(x, size, r=3)
            assert x.shape == (2, 5, 16) and (size.sum(1) == 11).all()
            return F.cross_entropy(head(x[:, 0]).float(), label)

    before = loss()
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in blocks.parameters())
    step.step()
    assert loss() < before
