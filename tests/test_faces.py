"""What a room hands on is what its modules define, and no name hides a module."""

import importlib
import pkgutil

import pytest

import utilities

ROOMS = [name for _, name, is_room in pkgutil.walk_packages(utilities.__path__, "utilities.") if is_room]


@pytest.mark.parametrize("room", ROOMS)
def test_names_are_there_and_hide_no_module(room):
    face = importlib.import_module(room)
    names = getattr(face, "__all__", [])
    modules = {module.name for module in pkgutil.iter_modules(face.__path__)}
    for name in names:
        assert getattr(face, name) is not None
    assert not modules & set(names)
    with pytest.raises(AttributeError, match="no_such_name"):
        face.no_such_name  # noqa: B018
