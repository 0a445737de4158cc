"""Sums of processes are put together in order, and what cannot be is an error."""

import numpy as np
import pytest
import torch

from utilities.hooks.calls.merging import Sums, Total, added, adopt, merged


class Counted(Sums):
    ADDS, KEEPS, OWN = ("n", "by_name"), ("size",), ("limit",)

    def __init__(self, n=0, size=None):
        self.n, self.by_name, self.size, self.limit = n, {"a": n}, size, 7
        self.rows, self.inner, self.function = [n] * n, {"total": Total(n)}, len


def test_attributes_are_merged_as_they_are_declared():
    one, two = Counted(2), Counted(3, size=(4, 4))
    one.merge(two)
    assert (one.n, one.by_name, one.size, one.rows) == (5, {"a": 5}, (4, 4), [2, 2, 3, 3, 3])
    assert one.inner["total"].value == 5
    assert "limit" not in one.__getstate__()
    assert "function" not in one.__getstate__()


@pytest.mark.parametrize("value", [3, 2.5, np.zeros(2), torch.zeros(2)])
def test_numbers_that_are_not_declared_are_refused(value):
    sums = Counted()
    sums.more = value
    with pytest.raises(TypeError, match=r"Counted\.more holds a number, .*ADDS, KEEPS or OWN"):
        Counted().merge(sums)


@pytest.mark.parametrize("value", [1, "text", np.zeros(2), {1}])
def test_what_does_not_add_up_is_refused(value):
    with pytest.raises(TypeError, match="cannot be merged over processes"):
        merged({"a": value}, {"a": value})


def test_tuples_have_to_fit():
    with pytest.raises(TypeError, match="a tuple cannot be merged"):
        merged(([],), ([], []))


def test_nothing_is_merged_with_something():
    assert merged(None, [1]) == merged([1], None) == [1]


def test_sums_are_taken_over_where_others_hold_them():
    rows, total, counted = [1], Total(1), Counted(1)
    own = {"rows": rows, "total": total, "counted": counted, "fixed": (1, 2)}
    adopt(own, {"rows": [1, 2], "total": Total(3), "counted": Counted(4), "fixed": (1, 2), "new": [5]})
    assert (rows, total.value, counted.n, counted.rows, own["new"]) == ([1, 2], 3, 4, [4] * 4, [5])
    with pytest.raises(TypeError, match="int cannot take over"):
        adopt(1, 2)


def test_dictionaries_take_over_the_order_too():
    own = {"b": [2], "stale": [0]}
    adopt(own, {"a": [1], "b": [2]})
    assert list(own.items()) == [("a", [1]), ("b", [2])]


def test_dictionaries_of_arrays_are_added():
    found = added({"a": np.ones(2)}, {"a": np.ones(2), "b": np.ones(1)})
    assert {name: value.tolist() for name, value in found.items()} == {"a": [2, 2], "b": [1]}
