"""TokenMap: the two tensors, what follows from them, and what torch may do with the value."""

import copy
import pickle

import pytest
import torch
from torch.utils import _pytree as pytree

import hico
from hico import TokenMap
from hico.testing import clusters


def small(device="cpu"):
    """Five tokens: 0 and 3 in slot 1, 1 dropped, 2 and 4 in slot 0; slot 2 is empty."""
    assign, anchor = torch.tensor([[1, -1, 0, 1, 0]]), torch.tensor([[2, 3, -1]])
    return TokenMap(assign, anchor).to(device)


def merged(n, m, batch=2, seed=0, device="cpu", **options):
    return hico.merge_tokens(clusters(batch, n, 6, seed=seed).to(device), m, **options).map


def same(a, b):
    return torch.equal(a.assign, b.assign) and torch.equal(a.anchor, b.anchor)


def test_fields():
    m = small()
    assert (m.num_inputs, m.num_slots) == (5, 3)
    assert m.size.tolist() == [[2, 2, 0]] and m.size.dtype == torch.int32
    assert repr(m) == "TokenMap(5 -> 3 tokens, batch 1, cpu)"
    with pytest.raises(AttributeError):
        m.assign = m.anchor
    none = TokenMap(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0, dtype=torch.int64))
    assert none.size.shape == (2, 0)
    dropped = TokenMap(torch.full((1, 4), -1), torch.zeros(1, 0, dtype=torch.int64))
    assert dropped.check().size.shape == (1, 0)


def test_apply(device):
    m, x = small(device), torch.tensor([[[1.0], [50.0], [3.0], [5.0], [9.0]]], device=device)
    size = torch.tensor([[3, 1, 1, 1, 2]], device=device)
    assert m.apply(x).flatten().tolist() == [6.0, 3.0, 0.0]
    assert m.apply(x, size=size).flatten().tolist() == [7.0, 2.0, 0.0]
    assert m.apply(x, weights=size / 2).flatten().tolist() == [7.0, 2.0, 0.0]
    assert m.apply(x, reduce="sum").flatten().tolist() == [12.0, 6.0, 0.0]
    assert m.apply(x, size=size, reduce="sum").flatten().tolist() == [21.0, 8.0, 0.0]


def test_unmerge(device):
    y = torch.tensor([[[1.0], [2.0], [9.0]]], device=device)
    assert small(device).unmerge(y).flatten().tolist() == [2.0, 0.0, 1.0, 2.0, 1.0]


def test_anchors_are_the_identity_of_apply_and_unmerge(device):
    m = merged(30, 7, device=device)
    y = torch.randn(2, 7, 5, device=device)
    back = m.unmerge(y)
    assert torch.equal(back.gather(1, m.anchor[..., None].expand(-1, -1, 5)), y)
    torch.testing.assert_close(m.apply(back), y)


def test_compose(device):
    first, then = merged(30, 12, device=device), merged(12, 5, seed=1, device=device)
    both = first.compose(then).check()
    x = torch.randn(2, 30, 4, device=device)
    step = then.apply(first.apply(x, reduce="sum"), reduce="sum")
    torch.testing.assert_close(both.apply(x, reduce="sum"), step)
    torch.testing.assert_close(both.apply(x), then.apply(first.apply(x), size=first.size))
    for b in range(2):
        for n in range(30):
            assert both.assign[b, n] == then.assign[b, first.assign[b, n]]
        for m in range(5):
            assert both.anchor[b, m] == first.anchor[b, then.anchor[b, m]]


def test_compose_with_drops_and_empty_slots(device):
    m = small(device)
    then = TokenMap(torch.tensor([[-1, 0, -1]]), torch.tensor([[1, -1]])).to(device)
    both = m.compose(then).check()
    assert both.assign.tolist() == [[0, -1, -1, 0, -1]] and both.anchor.tolist() == [[3, -1]]
    nothing = TokenMap(torch.full((1, 3), -1), torch.zeros(1, 0, dtype=torch.int64)).to(device)
    assert m.compose(nothing).assign.eq(-1).all()
    ragged = merged(20, 6, lengths=torch.tensor([20, 4], device=device), device=device)
    again = merged(6, 2, lengths=torch.tensor([6, 4], device=device), seed=1, device=device)
    assert ragged.compose(again).check().size.sum(1).tolist() == [20, 4]


def test_positions(device):
    m = small(device)
    pos = torch.tensor([[10, 11, 12, 13, 14]], device=device)
    want = [[12, 13, 0]]
    assert m.positions(pos).tolist() == want and m.positions(pos[0]).tolist() == want
    rope = torch.stack([pos, pos + 100, pos + 200])  # mRoPE
    assert m.positions(rope).tolist() == [want, [[112, 113, 0]], [[212, 213, 0]]]
    assert m.positions(pos.float() / 2).tolist() == [[6.0, 6.5, 0.0]]
    many = merged(30, 7, device=device)
    order = many.positions(torch.arange(30, device=device))
    assert torch.equal(order, many.anchor) and bool((order.diff() > 0).all())
    nothing = TokenMap(torch.full((1, 5), -1), torch.zeros(1, 0, dtype=torch.int64)).to(device)
    assert nothing.positions(pos).shape == (1, 0)


@pytest.mark.parametrize(
    "assign, anchor, message",
    [
        ([[0, 3]], [[0, -1]], r"assign: expected -1 <= index < 2, got 0..3"),
        ([[0, -2]], [[0]], r"assign: expected -1 <= index < 1, got -2..0"),
        ([[0, 0]], [[2]], r"anchor: expected -1 <= index < 2, got 2..2"),
        ([[0, 1]], [[1, 0]], "anchor: expected every anchor to be a member of its slot"),
        ([[0, -1]], [[1]], "anchor: expected every anchor to be a member of its slot"),
        ([[0, 1]], [[0, -1]], "assign: expected no members in a slot whose anchor is -1"),
        ([[1, 1]], [[-1, 0]], r"anchor: expected empty slots \(-1\) only after the full ones"),
    ],
)
def test_check(assign, anchor, message):
    with pytest.raises(ValueError, match=message):
        TokenMap(torch.tensor(assign), torch.tensor(anchor)).check()


def test_check_passes(device):
    for m in (small(device), merged(9, 9, device=device), merged(9, 1, device=device)):
        assert m.check() is m


def test_bad_input():
    index = torch.zeros(2, 4, dtype=torch.int64)
    m = TokenMap(index, index[:, :2])
    for message, call in {
        r"assign: expected .* got \[4\]": lambda: TokenMap(index[0], index),
        "anchor: expected .* got .* torch.int32": lambda: TokenMap(index, index.int()),
        "same number of rows, got 2 and 1": lambda: TokenMap(index, index[:1]),
        r"compose: expected .*\[2, 2\] tokens, got one from \[2, 4\]": lambda: m.compose(m),
        r"pos: expected .*4\], got \[2, 3\]": lambda: m.positions(index[:, :3]),
        r"pos: expected .* got \[3, 4\]": lambda: m.positions(torch.zeros(3, 4)),
        r"pos: expected .* got \[\]": lambda: m.positions(torch.tensor(3)),
    }.items():
        with pytest.raises(ValueError, match=message):
            call()


def test_copies_and_files(tmp_path):
    m = small()
    assert same(copy.deepcopy(m), m) and same(pickle.loads(pickle.dumps(m)), m)
    torch.save({"assign": m.assign, "anchor": m.anchor}, tmp_path / "map.pt")
    assert same(TokenMap(**torch.load(tmp_path / "map.pt")), m)


def test_is_a_pytree(device):
    m = small(device)
    leaves, spec = pytree.tree_flatten(m)
    assert len(leaves) == 2 and leaves[0] is m.assign
    assert same(pytree.tree_unflatten(leaves, spec), m)
    assert same(pytree.tree_map(lambda t: t + 0, m), m)
    assert "?" in repr(pytree.tree_map(lambda t: "?", m))  # any leaves, also in a message
    text = pytree.treespec_dumps(spec)
    assert pytree.treespec_loads(text) == spec


def test_compile(device, compiler):
    @torch.compile(fullgraph=True, dynamic=True, backend=compiler)
    def run(first, then, x):
        both = first.compose(then)
        order = torch.arange(x.shape[1], device=x.device)
        return both, both.apply(x), both.size, both.positions(order)

    for n in (12, 21, 30):
        first, then = merged(n, 8, device=device), merged(8, 3, device=device)
        x = torch.randn(2, n, 4, device=device)
        both, tokens, size, positions = run(first, then, x)
        want = first.compose(then)
        assert isinstance(both, TokenMap) and same(both, want)
        assert torch.equal(tokens, want.apply(x)) and torch.equal(size, want.size)
        assert torch.equal(positions, want.anchor)
    assert compiler.frame_count == 1


class Unmerge(torch.nn.Module):
    def forward(self, m, y):
        return m.unmerge(y * 2), m


class Build(torch.nn.Module):
    def forward(self, assign, anchor, y):
        m = TokenMap(assign, anchor)
        return m.unmerge(y * 2), m


def test_export(device, tmp_path):
    m, y = merged(12, 5, device=device), torch.randn(2, 5, 4, device=device)
    back, where = torch.export.export(Unmerge(), (m, y)).module()(m, y)
    assert torch.equal(back, m.unmerge(y * 2)) and same(where, m)
    program = torch.export.export(Build(), (m.assign, m.anchor, y))
    torch.export.save(program, tmp_path / "build.pt2")
    back, where = torch.export.load(tmp_path / "build.pt2").module()(m.assign, m.anchor, y)
    assert torch.equal(back, m.unmerge(y * 2)) and same(where, m)


def first_three(m):
    """Keeps the first three slots of m."""
    slots = torch.arange(m.num_slots, device=m.assign.device).expand(len(m.assign), -1)
    return TokenMap(torch.where(slots < 3, slots, -1), slots[:, :3])


@pytest.mark.gpu
def test_nothing_waits_for_the_device(device):
    m, pos = merged(30, 7, device=device), torch.arange(30, device=device)
    x = torch.randn(2, 30, 4, device=device)
    try:
        torch.cuda.set_sync_debug_mode("error")
        m.unmerge(m.apply(x, weights=x[..., 0]))
        m.compose(first_three(m)).positions(pos).add(m.size[:, :3])
    finally:
        torch.cuda.set_sync_debug_mode("default")
