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
# ``<!-- needs: network -->`` before Python excepts it from being run, see `test_python_that_needs_something_compiles`;
# commands are excepted by `PARSED`.
FENCE = re.compile(r"(?:^ *<!-- needs: ([\w, ]+) -->\n)?^( *)```(\w*)\n(.*?)^\2```$", re.MULTILINE | re.DOTALL)
# Commands are run, with these words behind them that make them short.
SMALLER = {
    "compare": "--n-images 20",
    "features": "--n-images 20",
    "evaluate": "--n-images 20",
    "train": "--n-images 20 --norm-images 10 --batch-size 10",
    "contributions": "--n-images 20",
    "calibrate": "--n-images 20 --permutations 19",
    "nearer": "--n-images 24 --batch-size 24 --resamples 100",
    "measures": "--kinds hybrid --epochs 1 --n-images 100 --checkpoints trained",
    "stitching": "--n-images 20 --n-train 20 --depths 2",
    "claims": "",
    "gallery": "",
    "layers": "",
    "models": "",
    "datasets": "",
    "analyse fourier": "--n-images 20",
    "analyse attention_distance": "--n-images 20",
    "analyse lambda_reach": "--n-images 20",
    "analyse identifiability": "--n-images 20",
    "analyse receptive_field": "--n-images 4",
    "analyse skip_ratios": "--n-images 4",
    "analyse localisation": "",
    "analyse layer_probes": "--n-train 60 --draws 2",
    "analyse layer_hessian": "--n-images 10 --trace-probes 2 --no-eigenvalues",
    "analyse logit_attribution": "--n-images 20",
    "analyse landscape": "--n-images 20 --points 3",
    "analyse robustness": "--n-images 20 --kinds brightness --severities 1",
    "analyse adversarial": "--n-images 20 --radii 2 --steps 1",
    "analyse consistency": "--n-images 20 --kinds translate",
    "analyse layer_matching": "--n-networks 2 --epochs 1 --n-train 40 --n-images 40 --image-size 8 --measures cka "
    "--views gap --checkpoints trained",
}
# These are parsed alone: a word of the command, and why.
PARSED = {
    "rerun": "runs notebooks for minutes, see tests/cli/test_rerun.py",
    "fetch": "needs the network",
    "images": "needs the results of all notebooks",
    "torchrun": "several processes, see tests/cli/test_clusters.py and tests/training/test_processes.py",
    "sbatch": "a scheduler, see tests/cli/test_clusters.py",
    "hessian": "takes a minute, see tests/cli/test_hessian.py",
    "imagenet": "needs data that are placed by hand",
    "checkpoints/cifar100": "needs the network, and trains for hours",
    "checkpoints/cifar100_vit": "needs the network, and trains for hours",
}


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
PYTHON = [block for block in BLOCKS if block.language == "python" and not block.needs]
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
    called: set = field(default_factory=set)  # the commands that have been run

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


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python" and b.needs], ids=str)
def test_python_that_needs_something_compiles(block):
    assert compile(block.text, str(block), "exec").co_code


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


def smaller(arguments):
    """Return the words that make a command short; None if it is parsed alone."""
    if not arguments or "--help" in arguments:
        return []
    if set(arguments) & set(PARSED):
        return None
    return SMALLER[" ".join(arguments[: 2 if arguments[0] == "analyse" else 1])].split()


def call(main, page, arguments):
    """Run a command in its page's folder, and those before it that make its checkpoints; see what it has written."""
    if tuple(arguments) in page.called:
        return
    for words in COMMANDS if any(word.endswith(".pth") for word in arguments) else []:
        if words[3:4] == ["train"] and any(f"{words[7]}/{words[3 + 1]}_" in word for word in arguments):
            call(main, page, words[3:])
    for words in COMMANDS:  # that keep the features which this one compares
        if words[3:4] == ["features"] and arguments[:1] == ["compare"] and words[words.index("--out") + 1] in arguments:
            call(main, page, words[3:])
    if arguments[:1] in (["claims"], ["gallery"]):
        Path(arguments[1]).mkdir(parents=True, exist_ok=True)
        Path(arguments[1], "a_claims.csv").write_text("claim,source,found,holds\nit works,me,it does,True\n")
    trained = arguments[:1] == ["train"]
    words = [*arguments[:2], "1", *arguments[3:]] if trained else arguments  # one epoch, under the name of all
    assert exit_code(main, [*words, *smaller(arguments)]) == 0
    for path in Path(words[4]).glob("*_epochs_1.pth") if trained else []:
        path.rename(path.with_name(path.name.replace("_epochs_1", f"_epochs_{arguments[2]}")))
    plt.close("all")
    if "--out" in arguments:
        out = Path(arguments[arguments.index("--out") + 1])
        assert list(out.parent.glob(f"{out.name}*")), "nothing was written"
    page.called.add(tuple(arguments))


def check_verb(block, arguments, parse_alone, run, words=()):
    """Run a command as short as can be; or see whether its options are taken."""
    main = find_command_line()
    if main is None:
        pytest.skip("there is no command line yet")
    if smaller([*words, *arguments]) is None:
        importlib.import_module(f"utilities.cli.{arguments[0]}")
        parse_alone(main, arguments)
        return
    call(main, run(block), arguments)


def makefile_targets():
    return set(re.findall(r"^([\w./-]+):", (PROJECT_ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize(("block", "line"), LINES, ids=[f"{block}: {line[:60]}" for block, line in LINES])
def test_commands_are_taken_as_printed(block, line, parse_alone, run):
    words = shlex.split(line)
    match words:
        case ["make", *targets]:
            assert set(targets) <= makefile_targets()
        case ["python", "-m", "utilities", *arguments]:
            check_verb(block, arguments, parse_alone, run)
        case ["torchrun", *_] if "utilities" in words:
            check_verb(block, words[words.index("utilities") + 1 :], parse_alone, run, words[:1])
        case ["python", "-m", "pytest", *paths]:
            assert all((PROJECT_ROOT / path).exists() for path in paths)
        case ["python", "benchmarks/ten_thousand.py" as script, dataset]:
            spec = importlib.util.spec_from_file_location("script", PROJECT_ROOT / script)
            spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
            for _, arguments in module.commands(dataset, Path("checkpoints"), Path("runs")):  # it takes hours
                importlib.import_module(f"utilities.cli.{arguments[0]}")
                parse_alone(find_command_line(), arguments)
        case ["python", "-c", code]:
            exec(code, {})
        case ["pip", "install", "-e", extra]:
            assert f"\n{extra.strip('.[]')} = [" in (PROJECT_ROOT / "pyproject.toml").read_text()
        case ["voila", notebook]:
            assert (PROJECT_ROOT / notebook).is_file()
        case ["pip", "install", "-r", name]:
            assert (PROJECT_ROOT / name).is_file()
        case ["jupyter", "nbconvert", *arguments]:
            assert "--output-dir" in arguments, "executed copies do not belong among the notebooks"
            (notebook,) = [word for word in arguments if word.endswith(".ipynb")]
            assert (PROJECT_ROOT / notebook).is_file()
        case ["sbatch", *words]:
            script = next(word for word in words if word.endswith(".sbatch"))
            assert (PROJECT_ROOT / script).is_file()
            arguments = words[words.index(script) + 1 :]
            if script.endswith("notebooks.sbatch"):
                arguments = ["rerun", *arguments]
            check_verb(block, arguments, parse_alone, run, ["sbatch"])
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
        assert {word.rpartition("=")[2] for word in words if word.endswith(".pth")} <= made


@pytest.mark.skipif(find_command_line() is None, reason="there is no command line yet")
def test_all_verbs_are_documented_and_all_analyses_listed(capsys):
    verbs = importlib.import_module("utilities.cli.verbs")
    assert not [word for word in verbs.VERBS if f"`{word}`" not in TEXTS["docs/commands.md"]]
    verbs.main(["analyse"])
    listed = capsys.readouterr().out
    assert not [
        name for name in importlib.import_module("utilities.cli.analyses").ANALYSES if f"  {name} " not in listed
    ]


def test_most_commands_are_run():
    ours = [words for words in COMMANDS if "utilities" in words]
    assert len([words for words in ours if set(words) & set(PARSED)]) <= 0.42 * len(ours)
    assert not [word for word in PARSED if not any(word in words for words in COMMANDS)]
