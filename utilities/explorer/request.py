"""What a user asks for, as the command and as the Python that give the same result."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from utilities.cli.analyses import ANALYSES

PROJECT_ROOT = Path(__file__).resolve().parents[2]  # that of `utilities.utils` would bring torch
FOLDER = Path("runs") / "explorer"  # in the project's folder
RANDOM = "random"
_OPENS = """\
from utilities.datasets import load_dataset, make_loader
from utilities.zoo import {names}


def opened(name, weights):
    data = load_dataset({dataset!r}, "test", n_images={n_images}, seed={seed}, **input_options(name, weights))
    model = create_model(name, data.num_classes if weights == "random" else None, weights, seed={seed})
    return model, make_loader(data, {batch_size}, seed={seed})


"""


@dataclass(frozen=True)
class Request:
    """Models, images, and how models are compared.

    Attributes:
        models: Name and weights of one model, or of two.
        dataset: See `utilities.datasets.load_dataset`.
        n_images: Number of images; None takes all.
        layers: Globs of each model's layers; none takes the main ones.
        measure: See `utilities.compare.compare`.
        view: See there.
        batch_size: Images in a batch.
        seed: Seed of random weights, and of the choice and order of images.

    Example:
        >>> Request((("resnet18", "random"),), "digits", 180).words
        ['compare', 'resnet18', '--dataset', 'digits', '--n-images', '180', '--batch-size', '64', '--seed', '0']
    """

    models: tuple[tuple[str, str], ...]
    dataset: str = "digits"
    n_images: int | None = 256
    layers: tuple[tuple[str, ...], ...] = ()
    measure: str = "cka"
    view: str = "flatten"
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what no command could be made of.

        Raises:
            ValueError: If a name is missing, or a number is too small.
        """
        for number, (name, _) in enumerate(self.models, 1):
            if not name.strip():
                raise ValueError(f"no name stands for model {number}; choose one, such as resnet18")
        if not self.dataset.strip():
            raise ValueError("no data set is named; choose one, such as digits")
        for what, value in (("images", self.n_images), ("images in a batch", self.batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"the number of {what} is {value}; it should be 1 or more")

    @property
    def words(self) -> list[str]:
        """The command that compares, less where its result goes."""
        found = ["compare", *self._models, *self._images]
        for side, globs in enumerate(self.layers[: len(self.models)], 1):
            found += [f"--layers{side}", *globs] if globs else []
        return found + [word for name in self._changed for word in (f"--{name}", getattr(self, name))]

    @property
    def _changed(self) -> list[str]:
        usual = Request(self.models)
        return [name for name in ("measure", "view") if getattr(self, name) != getattr(usual, name)]

    @property
    def _models(self) -> list[str]:
        return [name if weights == RANDOM else f"{name}={weights}" for name, weights in self.models]

    @property
    def _images(self) -> list[str]:
        count = [] if self.n_images is None else ["--n-images", str(self.n_images)]
        rest = ["--batch-size", str(self.batch_size), "--seed", str(self.seed)]
        return ["--dataset", self.dataset, *count, *rest]

    def contribution_words(self, pair: Sequence[str]) -> list[str]:
        """Return the command that shows the images on which a pair of layers agrees."""
        view = [] if self.view == "flatten" else ["--view", self.view]
        return ["contributions", *self._models, "--pairs", *pair, *self._images, *view]

    def analysis_words(self, analysis: str) -> list[str]:
        """Return the command of an analysis, of each model."""
        return ["analyse", analysis, *dict.fromkeys(self._models), *self._images]

    @property
    def python(self) -> str:
        """The lines of Python that compare."""
        two, names = len(self.models) == 2, "comparison_layers, create_model, input_options"
        text = f"from utilities.compare import compare\n{self._opens(names)}"
        text += "".join(f"model{k}, loader{k} = opened{pair!r}\n" for k, pair in enumerate(self.models, 1))
        arguments = ["model1", "model2", "loader1", "loader2"] if two else ["model1", "model1", "loader1"]
        for k in range(1, len(self.models) + 1):
            globs = list(self.layers[k - 1]) if len(self.layers) >= k and self.layers[k - 1] else None
            arguments.append(f"layers{k}={globs or f'comparison_layers(model{k})'}")
        arguments += [f"{name}={getattr(self, name)!r}" for name in self._changed]
        arguments += [] if any(self.layers) else ["strict=False"]
        return text + "result = compare(\n" + "".join(f"    {one},\n" for one in arguments) + ")\n"

    def analysis_python(self, analysis: str) -> str:
        """Return the lines of Python that analyse each model."""
        module, _, function = ANALYSES[analysis].function.partition(":")
        text = f"from utilities.{module} import {function}\n{self._opens('create_model, input_options')}"
        pairs = ", ".join(repr(pair) for pair in dict.fromkeys(self.models))
        return text + f"results = [{function}(*opened(*model)) for model in [{pairs}]]\n"

    def _opens(self, names: str) -> str:
        facts = {key: getattr(self, key) for key in ("dataset", "n_images", "seed", "batch_size")}
        return _OPENS.format(names=names, **facts)

    def as_dict(self) -> dict[str, object]:
        """Return what `of` reads."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}

    @classmethod
    def of(cls, facts: Mapping[str, object]) -> Request:
        """Read what `as_dict` wrote.

        Example:
            >>> asked = Request((("a", "random"),), layers=(("x", "y"),))
            >>> Request.of(asked.as_dict()) == asked
            True
        """
        known = dict(facts)
        return replace(
            cls(tuple((name, weights) for name, weights in known.pop("models"))),
            **known | {"layers": tuple(tuple(globs) for globs in known["layers"])},
        )


def place(words: Sequence[str], folder: Path = FOLDER) -> Path:
    """Return where the result of a command goes, without ending: one place in a folder for one command.

    Example:
        >>> place(["compare", "timm/resnet50=wheel", "--dataset", "digits"]).name.startswith("compare_resnet50_")
        True
    """
    models = [word.partition("=")[0].rpartition("/")[2].replace(":", "-") for word in words[1:3] if word[:2] != "--"]
    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return folder / "_".join([words[0], *models, digest])


def command(words: Sequence[str], folder: Path = FOLDER) -> str:
    """Return a command as it is typed, in the project's folder."""
    return shlex.join(["python", "-m", "utilities", *words, "--out", str(place(words, folder))])
