"""Benchmarks ask the package for names that it has: they are run by hand, and break unseen."""

import ast
import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from utilities.utils import PROJECT_ROOT

FILES = sorted((PROJECT_ROOT / "benchmarks").glob("*.py"))


def missing(text):
    """List the names of the package that a file uses and that are not there."""
    tree, modules, absent = ast.parse(text), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("utilities"):
            source = importlib.import_module(node.module)
            for one in node.names:
                if hasattr(source, one.name):
                    found = getattr(source, one.name)
                elif importlib.util.find_spec(f"{node.module}.{one.name}") if hasattr(source, "__path__") else None:
                    found = importlib.import_module(f"{node.module}.{one.name}")
                else:
                    absent.append(f"{node.module}.{one.name}")
                    continue
                if isinstance(found, ModuleType):
                    modules[one.asname or one.name] = found
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    return absent + [
        f"{node.value.id}.{node.attr}"
        for node in used
        if node.value.id in modules and not hasattr(modules[node.value.id], node.attr)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).stem)
def test_names_of_the_package_are_there(path):
    assert missing(path.read_text()) == []


def test_a_name_that_is_gone_is_found():
    text = "from utilities.hooks.calls import sharing\nfrom utilities.utils import nothing\nsharing._packed(1)"
    assert missing(text) == ["utilities.utils.nothing", "sharing._packed"]
