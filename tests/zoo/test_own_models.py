"""Models of one's own by name, in `create_model` and in the commands."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from utilities.cli.verbs import main
from utilities.results.similarity import Similarity
from utilities.train import checkpoint_path, fit
from utilities.training.recipes import Recipe
from utilities.zoo import comparison_layers, create_model, input_options, list_models, preprocessing
from utilities.zoo.factory import check_name
from utilities.zoo.families import family

SOURCE = """
from __future__ import annotations

from dataclasses import dataclass

from torch import nn

import neighbour_of_nets


@dataclass
class Settings:
    width: int = 4


def make(num_classes=7, width=Settings().width):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def fixed():
    return make(10)


class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.fc = nn.Linear(2, num_classes)


def number():
    return 3


def broken():
    raise TypeError("no such luck")


def boom():
    raise RuntimeError("no weights here")


def leave():
    raise SystemExit(3)


def doubt():
    assert False


SIZE = 4
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "neighbour_of_nets.py").write_text("")
    (tmp_path / "nets.py").write_text(SOURCE)
    return f"{tmp_path / 'nets.py'}"


def test_a_function_makes_the_model(nets: str) -> None:
    assert create_model(f"{nets}:make", 5)[-1].out_features == 5
    assert create_model(f"{nets}:make", None)[-1].out_features == 7
    assert create_model(f"{nets}:make", 5, width=6)[0].out_channels == 6
    assert create_model(f"{nets}:fixed", 5)[-1].out_features == 10  # takes no number of classes
    assert create_model(f"{nets}:Net", 5).fc.out_features == 5
    one, two = (create_model(f"{nets}:make", seed=seed)[0].weight for seed in (3, 3))
    assert torch.equal(one, two)
    assert type(create_model(f"{nets}:Net")) is type(create_model(f"{nets}:Net"))
    assert not [path for path in sys.path if Path(nets).parent == Path(path)]


def test_modules_are_imported_from_the_current_folder(nets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(nets).parent
    (folder / "own_package_of_nets").mkdir()
    (folder / "own_package_of_nets" / "models.py").write_text("from torch import nn\nNet = nn.Identity\n")
    monkeypatch.chdir(folder)
    assert isinstance(create_model("own_package_of_nets.models:Net"), nn.Identity)
    assert isinstance(create_model("nets.py:Net").fc, nn.Linear)
    assert create_model("torchvision.models:resnet18", 4).fc.out_features == 4


@pytest.mark.parametrize(
    ("name", "error", "match"),
    [
        ("no_such_package.models:make", ValueError, "no module 'no_such_package.models' to import from"),
        ("utilities.no_such:make", ValueError, "no module 'utilities.no_such'"),
        ("absent.py:make", FileNotFoundError, "no file 'absent.py'"),
        (":make", ValueError, "no module ''"),
        ("FILE:mke", ValueError, "no 'mke' in .*nets.py; close: make"),
        ("FILE:", ValueError, "no '' in"),
        ("FILE:SIZE", TypeError, "is an int, not a function"),
        ("FILE:number", TypeError, "should return a torch module, not an int"),
        ("FILE:broken", TypeError, "called with .* refuses: no such luck"),
        ("FILE:boom", ValueError, r"nets\.py:boom raised RuntimeError: no weights here$"),
        ("FILE:leave", ValueError, r"nets\.py:leave raised SystemExit: 3$"),
        ("FILE:doubt", ValueError, r"nets\.py:doubt raised AssertionError$"),
        ("utilities.resnet:relu", ValueError, "no 'relu' in utilities.resnet"),
    ],
)
def test_names_that_lead_nowhere(nets: str, name: str, error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        create_model(name.replace("FILE", nets))


@pytest.mark.parametrize("text", ["import no_such_module_at_all", "1 / 0", "def f(:", "raise SystemExit(3)"])
def test_what_cannot_be_imported_is_named(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad_nets.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    for name in ("bad_nets.py:make", "bad_nets:make"):
        with pytest.raises(ValueError, match=r"bad_nets(\.py)? cannot be imported"):
            check_name(name)


def test_weights_of_a_checkpoint_and_of_the_function(nets: str, tmp_path: Path) -> None:
    model = create_model(f"{nets}:make", 5, seed=1)
    torch.save({"model": model.state_dict(), "name": "moved.py:make", "num_classes": 5}, tmp_path / "own.pth")
    loaded = create_model(f"{nets}:make", 5, weights=tmp_path / "own.pth")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))
    assert create_model(f"{nets}:make", None, weights=tmp_path / "own.pth")[-1].out_features == 5
    with pytest.raises(ValueError, match="does not fit"):
        create_model(f"{nets}:make", 6, weights=tmp_path / "own.pth")
    with pytest.raises(ValueError, match="has no argument 'pretrained'"):
        create_model(f"{nets}:make", weights="pretrained")


def test_what_else_takes_names_takes_these(nets: str) -> None:
    check_name(f"{nets}:make")
    assert list_models(f"{nets}:*") == []
    assert input_options("vit_tiny_models:make") == {}
    assert input_options(f"{nets}:make") == {}
    assert comparison_layers(create_model(f"{nets}:make")) == ["1", "2", "4"]
    assert family("own.models:vit_small") == "vit"
    recipe = Recipe("digits")
    assert [recipe.resolved(f"vita/{name}").optimizer for name in ("a.py:make", "a.py:vit")] == ["sgd", "adamw"]
    with pytest.raises(ValueError, match="no preprocessing of its own"):
        preprocessing(f"{nets}:make")
    with pytest.raises(ValueError, match=r"package\.module:function or"):
        check_name("make")


def test_it_is_trained_and_its_checkpoint_loaded(nets: str, tmp_path: Path) -> None:
    recipe = Recipe("digits", epochs=0, image_size=8, n_images=20, batch_size=10)
    path = fit(f"{nets}:make", recipe, 0, tmp_path / "out", device="cpu", report=lambda line: None)
    assert path.parent == tmp_path / "out"
    assert path.name.endswith("nets.py-make_seed_0_epochs_0.pth")
    assert not path.name.startswith(".")
    assert create_model(f"{nets}:make", 10, weights=path)[-1].out_features == 10
    assert checkpoint_path("runs", "../a/nets.py:make", 0, 1).name == "a-nets.py-make_seed_0_epochs_1.pth"


COMMON = ["--dataset", "digits", "--device", "cpu", "--n-images", "20", "--batch-size", "10"]


COMMANDS = {
    "compare": ["compare", "NAME", "NAME", "--model-seeds", "0", "1", *COMMON],
    "analyse": ["analyse", "fourier", "NAME", "--layers", "[01]", "conv", *COMMON],
    "landscape": ["analyse", "landscape", "NAME", "--points", "3", "--one-dimensional", *COMMON],
    "hessian": ["analyse", "hessian", "NAME", "--k", "1", "--n-batches", "1", "--full-images", "10", *COMMON],
    "robustness": ["analyse", "robustness", "NAME", "--kinds", "contrast", "--severities", "1", *COMMON],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_take_it(nets: str, tmp_path: Path, command: str) -> None:
    words = [option.replace("NAME", f"{nets}:make") for option in COMMANDS[command]]
    main([*words, "--out", str(tmp_path / "out" / "r")])
    assert {".json", ".png"} <= {path.suffix for path in (tmp_path / "out").iterdir()}
    if command == "compare":
        similarity = Similarity.load(tmp_path / "out" / "r.npz")
        assert similarity.layers1 == ["1", "2", "4"]
        assert np.isfinite(similarity.matrix).all()


def test_a_command_says_in_one_line_what_is_wrong(nets: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["compare", f"{nets}:mke", *COMMON, "--out", str(tmp_path / "a.npz")])
    assert "error: there is no 'mke'" in capsys.readouterr().err


@pytest.mark.parametrize(("function", "says"), [("boom", "RuntimeError: no weights here"), ("leave", "SystemExit: 3")])
def test_a_command_names_the_function_that_raises(
    nets: str, tmp_path: Path, capsys: pytest.CaptureFixture, function: str, says: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["compare", f"{nets}:{function}", *COMMON, "--out", str(tmp_path / "a.npz")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(f"error: {nets}:{function} raised {says}\n")
