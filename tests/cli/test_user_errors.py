"""What a user of a command meets: errors, warnings and Ctrl-C as one line each."""

import signal
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from utilities.cli import verbs
from utilities.cli.arguments import Option, parse
from utilities.cli.options import Models, options_of
from utilities.cli.words import in_front
from utilities.utils import PROJECT_ROOT

OPTIONS = [
    Option("seed", int, "", 0),
    Option("layers", tuple[str, ...] | None, "", None),
    Option("exact", bool, "", False),
]


def interrupting(*arguments, **given):
    raise KeyboardInterrupt


@pytest.mark.parametrize("verb", verbs.VERBS)
def test_interrupted_verbs_say_what_is_kept(verb, monkeypatch, capsys):
    monkeypatch.setattr(verbs, "import_module", lambda name: SimpleNamespace(main=interrupting))
    with pytest.raises(SystemExit) as stop:
        verbs.main([verb])
    assert stop.value.code == 130
    error = capsys.readouterr().err.strip()
    assert error.startswith("stopped; ")
    assert "the same call" in error
    assert "\n" not in error


@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_of_torchruns_processes_speaks_for_all(rank, monkeypatch, capsys):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)  # the tests' own process is none of them
    monkeypatch.setattr(verbs, "import_module", lambda name: SimpleNamespace(main=interrupting))
    with pytest.raises(SystemExit):
        verbs.main(["compare"])
    assert bool(capsys.readouterr().err) == (rank == "0")


def test_training_by_its_module_is_interrupted_alike():
    code = (
        "import runpy, sys; from types import SimpleNamespace; from utilities.cli import verbs\n"
        "def main(arguments): assert arguments == ['resnet18', '1']; raise KeyboardInterrupt\n"
        "verbs.import_module = lambda name: SimpleNamespace(main=main); sys.argv = ['x', 'resnet18', '1']\n"
        "runpy.run_module('utilities.train', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, check=False)
    assert done.returncode == 130
    assert done.stderr.strip().startswith("stopped; ")
    assert "Traceback" not in done.stderr


def test_warnings_are_lines_of_their_own(monkeypatch, capsys):
    before = warnings.formatwarning

    def warn(arguments):
        warnings.warn("odd\nimages", stacklevel=1)
        print(warnings.formatwarning("odd\nimages", UserWarning, "file.py", 1), end="")

    monkeypatch.setattr(verbs, "import_module", lambda name: SimpleNamespace(main=warn))
    with pytest.warns(UserWarning, match="odd"):
        verbs.main(["models"])
    assert capsys.readouterr().out == "warning: odd images\n"
    assert warnings.formatwarning is before


def test_a_missing_package_is_said_with_its_remedy(monkeypatch, capsys):
    def missing(arguments):
        raise ModuleNotFoundError("No module named 'tyro'", name="tyro")

    monkeypatch.setattr(verbs, "import_module", lambda name: SimpleNamespace(main=missing))
    with pytest.raises(SystemExit) as stop:
        verbs.main(["models"])
    assert stop.value.code == 2
    assert "tyro is not installed" in (error := capsys.readouterr().err)
    assert "pip install -r requirements.txt" in error


@pytest.mark.parametrize(
    "words",
    [
        ["a", "b", "c", "--seed", "1"],
        ["a", "--models", "b", "c", "--seed", "1"],
        ["--models=a", "--models", "b", "--seed", "1", "c"],
        ["a", "--exact", "b", "--models", "c", "--seed=1"],
        ["--models", "a", "b", "c", "--layers", "x", "y"],
    ],
)
def test_models_keep_the_order_of_the_command_line(words):
    given = parse([*options_of(Models), *OPTIONS], words, "test", "", many="models")
    assert given.models == ("a", "b", "c")
    assert given.layers == (("x", "y") if "x" in words else None)


def test_words_of_an_option_stay_with_it():
    words = ["x", "-p", "A", "1", "y", "--seed", "-3"]
    options = {"--seed": int, "-p": tuple[str, str]}
    assert in_front(words, "", options) == ["x", "y", "-p", "A", "1", "--seed", "-3"]
