"""The cache layer with room behind its rows, against the stock one."""

import copy

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from hico.adapters import _dropout_growing as growing


def rows(n, batch=2):
    return torch.randn(batch, 3, n, 4), torch.randn(batch, 3, n, 4)


@pytest.fixture
def pair(monkeypatch):
    """A layer of ours with little room, and a stock one, that get the same."""
    monkeypatch.setattr(growing, "ROOM", 3)
    return growing.GrowingLayer(), DynamicLayer()


def check(pair):
    ours, stock = pair
    assert ours.get_seq_length() == stock.get_seq_length()
    assert torch.equal(ours.keys, stock.keys) and torch.equal(ours.values, stock.values)


def update(pair, new):
    for got, want in zip(*(layer.update(*new) for layer in pair), strict=True):
        assert torch.equal(got, want)
    check(pair)


def test_equal_to_the_stock_layer(pair):
    for n in (5, 1, 1, 1, 1, 1, 7, 0, 1):
        update(pair, rows(n))
    for layer in pair:
        layer.crop(-4)
    update(pair, rows(2))
    for layer in pair:
        layer.batch_repeat_interleave(2)
    update(pair, rows(1, 4))
    for layer in pair:
        layer.reorder_cache(torch.tensor([3, 3, 0, 1]))
    update(pair, rows(1, 4))
    for layer in pair:
        layer.batch_select_indices(torch.tensor([2]))
    update(pair, rows(1, 1))


def test_rows_are_copied_seldom(pair):
    ours, _ = pair
    ours.update(*rows(5))
    seen = []  # held, or freed memory would be taken again
    for _ in range(8):
        ours.update(*rows(1))
        seen.append(ours.keys)
    assert len({keys.data_ptr() for keys in seen}) == 3  # there is room for 3 at a time


def test_copies_are_apart(pair):
    ours, stock = pair
    update(pair, rows(5))
    other = copy.deepcopy(ours)
    other.update(*rows(1))
    update(pair, rows(1))
    check((ours, stock))
    assert not torch.equal(other.keys[:, :, -1], ours.keys[:, :, -1])


def test_gradients_and_inference_mode(pair):
    keys, values = rows(4)
    update(pair, (keys.requires_grad_(), values))
    update(pair, rows(1))
    pair[0].keys.sum().backward()
    assert torch.equal(keys.grad, torch.ones_like(keys))
    ours = growing.GrowingLayer()
    with torch.inference_mode():
        ours.update(*rows(4))
    with torch.no_grad():
        ours.update(*rows(1))
    assert ours.get_seq_length() == 5


@pytest.mark.parametrize("layers", [0, 3])
def test_grow(layers):
    cache = DynamicCache()
    cache.layers = [DynamicLayer() for _ in range(layers)]
    growing.grow(cache)
    for i in range(3):
        cache.update(*rows(2), i)
    assert [type(layer) for layer in cache.layers] == [growing.GrowingLayer] * 3
    assert type(DynamicCache().layer_class_to_replicate()) is DynamicLayer
