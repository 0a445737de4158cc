"""README and docs: every code block runs as printed, or at least parses."""

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import pytest

from utilities import datasets
from utilities.utils import PROJECT_ROOT

mpl.use("Agg")
TEXTS = {
    path.relative_to(PROJECT_ROOT).as_posix(): path.read_text()
    for path in [
        *(PROJECT_ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((PROJECT_ROOT / "docs").glob("*.md")),
    ]
}
# ``<!-- needs: network -->`` before a block excepts it from being run; its commands are parsed all the same.
FENCE = re.compile(r"(?:^ *<!-- needs: ([\w, ]+) -->\n)?^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
QUICK = ("layers", "models", "datasets")  # verbs that are run as they are, since they are over at once
SMALL = ("README.md", "docs/first-five-minutes.md", "docs/figures.md")  # pages whose comparisons are run, on few images


@dataclass(frozen=True)
class Block:
    """One code block: its page, its place among that page's blocks, and its text."""

    page: str
    place: int
    language: str
    text: str
    needs: str = ""

    def __str__(self):
        return f"{self.page}:{self.place}"


def blocks_of(page):
    found = enumerate(FENCE.findall(TEXTS[page]))
    return [Block(page, i, language, textwrap.dedent(text), needs) for i, (needs, _, language, text) in found]


BLOCKS = [block for page in TEXTS for block in blocks_of(page)]
PYTHON = [block for block in BLOCKS if block.language == "python"]
LINES = [
    (block, line)
    for block in BLOCKS
    if block.language == "sh"
    for line in block.text.replace("\\\n", " ").splitlines()
    if line.strip()
]
COMMANDS = [shlex.split(line) for _, line in LINES]


# Python


@dataclass
class Page:
    """A page's Python, run in order in one folder and one namespace."""

    folder: Path
    names: dict = field(default_factory=lambda: {"__name__": "page"})
    made: dict = field(default_factory=dict)  # place of a block -> the pictures it made

    def run(self, block):
        """Run the page's Python up to this block, without what has been run before."""
        for each in [b for b in PYTHON if b.page == block.page and b.place <= block.place]:
            if each.place not in self.made:
                before = self.pictures()
                exec(compile(each.text, str(each), "exec"), self.names)
                plt.close("all")
                self.made[each.place] = self.pictures() - before

    def pictures(self):
        return {path.name for path in self.folder.iterdir() if path.suffix in (".png", ".pdf", ".svg")}


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    return {page: Page(tmp_path_factory.mktemp(Path(page).stem)) for page in TEXTS}


@pytest.fixture
def run(pages, monkeypatch):
    """Run a page up to a block, in a folder of its own, with two images of each class, for speed."""
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **given: load(*args, **{**given, "n_images": 20}))

    def run(block):
        monkeypatch.chdir(pages[block.page].folder)
        pages[block.page].run(block)
        return pages[block.page]

    return run


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_runs_as_printed(block, run):
    named = set(re.findall(r'"([\w/]+\.(?:png|pdf|svg))"', block.text))
    assert run(block).made[block.place] == named


def test_all_blocks_are_found():
    """Lest the pattern above find nothing in another layout of the pages."""
    assert len(PYTHON) >= 20
    assert len(COMMANDS) >= 25
    fences = sum(len(re.findall(r"^ *```\w+$", text, re.MULTILINE)) for text in TEXTS.values())
    assert len(BLOCKS) == fences
    assert {block.language for block in BLOCKS} <= {"python", "sh", "bibtex"}


# Commands


class Parsed(Exception):
    pass


def find_command_line():
    """Return the main function of ``python -m utilities``; None as long as there is none."""
    found = importlib.util.find_spec("utilities.cli.verbs") is not None
    return importlib.import_module("utilities.cli.verbs").main if found else None


@pytest.fixture
def parse_alone(monkeypatch):
    """Let commands stop when their options are parsed."""

    def stopping(parse):
        def parse_and_stop(*args, **given):
            raise Parsed(parse(*args, **given))

        return parse_and_stop

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stopping(argparse.ArgumentParser.parse_args))

    def parse(main, arguments):
        if importlib.util.find_spec("utilities.cli.arguments") is not None:
            real = importlib.import_module("utilities.cli.arguments").parse
            for name in [name for name in sys.modules if name.startswith("utilities.")]:
                if getattr(sys.modules[name], "parse", None) is real:
                    monkeypatch.setattr(sys.modules[name], "parse", stopping(real))
        with pytest.raises(Parsed):  # a wrong option would be a SystemExit
            main(arguments)

    return parse


def exit_code(main, arguments):
    try:
        return main(arguments) or 0
    except SystemExit as end:  # of --help
        return end.code or 0


def check_verb(block, arguments, parse_alone, run):
    """Run what is over at once, and of the rest see whether its options are taken."""
    main = find_command_line()
    if main is None:
        pytest.skip("there is no command line yet")
    verb = arguments[0] if arguments else "--help"
    small = verb == "compare" and block.page in SMALL
    if verb in QUICK or "--help" in arguments or not arguments or small:
        run(block)
        assert exit_code(main, [*arguments, "--n-images", "20"] if small else arguments) == 0
        assert not small or Path(arguments[arguments.index("--out") + 1]).is_file()
        return
    if importlib.util.find_spec(f"utilities.cli.{verb}"):
        importlib.import_module(f"utilities.cli.{verb}")
    parse_alone(main, arguments)


def makefile_targets():
    return set(re.findall(r"^([\w-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("block", "line"), LINES, ids=[f"{block}: {line[:60]}" for block, line in LINES])
def test_commands_are_taken_as_printed(block, line, parse_alone, run):
    words = shlex.split(line)
    match words:
        case ["make", *targets]:
            assert set(targets) <= makefile_targets()
        case ["python", "-m", "utilities", *arguments]:
            check_verb(block, arguments, parse_alone, run)
        case ["torchrun", *_] if "utilities" in words:
            check_verb(block, words[words.index("utilities") + 1 :], parse_alone, run)
        case ["python", "-m", "pytest", *paths]:
            assert all((PROJECT_ROOT / path).exists() for path in paths)
        case ["python", "-c", code]:
            exec(code, {})
        case ["pip", "install", "-r", name]:
            assert (PROJECT_ROOT / name).is_file()
        case ["jupyter", "nbconvert", *arguments]:
            assert "--output-dir" in arguments, "executed copies do not belong among the notebooks"
            (notebook,) = [word for word in arguments if word.endswith(".ipynb")]
            assert (PROJECT_ROOT / notebook).is_file()
        case ["source", ".venv/bin/activate"] | ["ruff", *_]:
            pass
        case _:
            pytest.fail(f"nothing here checks {line!r}: add it")


def test_checkpoints_that_commands_name_are_made_by_commands_printed_before_them():
    made = set()
    for words in COMMANDS:
        if words[:4] == ["python", "-m", "utilities", "train"]:
            model, epochs, seed, folder = words[4:8]
            made.add(f"{folder}/{model}_seed_{seed}_epochs_{epochs}.pth")
        assert {word.partition("=")[2] for word in words if word.endswith(".pth")} <= made


@pytest.mark.skipif(find_command_line() is None, reason="there is no command line yet")
def test_all_verbs_and_analyses_are_documented():
    verbs = importlib.import_module("utilities.cli.verbs").VERBS
    analyses = importlib.import_module("utilities.cli.analyses").ANALYSES
    text = TEXTS["docs/commands.md"]
    assert not [word for word in (*verbs, *analyses) if f"`{word}`" not in text]
