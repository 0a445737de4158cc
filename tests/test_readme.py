"""What the README prints: its Python runs, and its commands have the options that they are given."""

import argparse
import importlib
import re
import shlex
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from utilities.cli import rerun
from utilities.datasets import factory as datasets
from utilities.utils import PROJECT_ROOT

mpl.use("Agg")
TEXT = (PROJECT_ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.M | re.S)
PYTHON = [block for language, block in BLOCKS if language == "python"]
SHELL = "".join(block for language, block in BLOCKS if not language).replace("\\\n", " ")
COMMANDS = re.findall(r"(?:python|torchrun .*?) -m (utilities\.[\w.]+) (.*)", SHELL)


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.strip().splitlines()[-1][:30])
def test_python_runs_as_printed(block, tmp_path, monkeypatch):
    """With two images of each class, for speed; nothing is downloaded."""
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **given: load(*args, **{**given, "n_images": 20}))
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
    plt.close("all")
    named = {Path(name) for name in re.findall(r'"([\w/]+\.(?:png|pdf))"', block)}
    assert {path.name for path in tmp_path.glob("*.p*")} == {path.name for path in named}


class Parsed(Exception):
    pass


@pytest.mark.parametrize(("module", "arguments"), COMMANDS, ids=[f"{m} {a[:30]}" for m, a in COMMANDS])
def test_commands_take_the_options_printed(module, arguments, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *args, **given):
        raise Parsed(parse(self, *args, **given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    module = "utilities.cli.compare" if module == "utilities.compare" else module
    with pytest.raises(Parsed):  # a wrong option would be a SystemExit
        importlib.import_module(module).main(shlex.split(arguments))


def test_all_commands_are_found():
    """Lest the patterns above find nothing in another layout of the README."""
    assert len(COMMANDS) >= 10
    assert {module for module, _ in COMMANDS} >= {f"utilities.{name}" for name in ("rerun", "train", "compare")}
    assert len(PYTHON) >= 4


def test_checkpoints_that_commands_name_are_made_by_commands_printed_before_them():
    made = set()
    for module, arguments in COMMANDS:
        words = shlex.split(arguments)
        if module == "utilities.train":
            model, epochs, seed, folder = words[:4]
            made.add(f"{folder}/{model}_seed_{seed}_epochs_{epochs}.pth")
        assert {word for word in words if word.endswith(".pth")} <= made


def test_nbconvert_leaves_nothing_among_the_notebooks():
    (line,) = [line for line in SHELL.splitlines() if "nbconvert" in line]
    assert "--output-dir" in shlex.split(line)
    (notebook,) = [word for word in shlex.split(line) if word.endswith(".ipynb")]
    assert Path(PROJECT_ROOT, notebook).is_file()
    assert Path(notebook).stem in {path.stem for path in rerun._find("*", None)}
