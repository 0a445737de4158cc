"""A model's layers in a table."""

import torch
from torch import nn

from tests.hooks.test_recorder import Backwards, Returns, Shared
from utilities.hooks import describe


def test_table_of_layers():
    model = Backwards()
    model.spare = nn.Linear(2, 2)
    table = describe(model, torch.randn(5, 4))
    assert list(table.index) == ["first", "last", "spare"]
    assert list(table["shape"]) == [(3,), (2,), None]
    assert list(table["width"].fillna(-1)) == [3, 2, -1]
    assert list(table["parameters"]) == [15, 8, 6]
    assert list(table["type"]) == ["Linear"] * 3
    table = describe(model)
    assert list(table.index) == ["last", "first", "spare"]
    assert table["shape"].isna().all()
    assert table["width"].isna().all()
    assert list(describe(model, layers="first").index) == ["first"]


def test_table_of_repeated_and_odd_layers():
    table = describe(Shared(), torch.randn(5, 4))
    assert list(table.index) == ["a", "relu", "b", "relu#2"]
    assert list(table["parameters"]) == [20, 0, 20, 0]
    table = describe(Returns(lambda x: x.sum()), torch.randn(5, 4))
    assert list(table["shape"]) == [(4,), None]
    table = describe(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 8, 7))
    assert (table.loc["0", "shape"], table.loc["0", "width"]) == ((4, 6, 5), 120)
