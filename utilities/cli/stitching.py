"""The verb ``stitching``: what accuracy is left when a layer of one model feeds a layer of another.

python -m utilities stitching resnet18=A.pth vit_tiny_patch2_16=B.pth --dataset digits --out runs/stitching
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

from utilities.cli.arguments import options_of
from utilities.cli.on_models import run_on_models
from utilities.cli.options import Training, shared

if TYPE_CHECKING:
    from utilities.cli.two_models import TwoModels
    from utilities.datasets.loaders import Loader
    from utilities.results.stitching import Stitching

ABOUT = "Feed layers of the first model into the second by an affine map, and measure the accuracy that is left."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """Which layers, and how they are stitched.

    Attributes:
        layers1: Layers of the first model, globs too; default: the outputs of its blocks.
        layers2: The same of the second model; each has to cut it in two.
        pairs: matched takes layers at the same relative depth, all each with each.
        depths: Largest number of matched pairs.
        penalty: Ridge penalty in units of the features' mean variance; default: chosen on a fifth of the training
            images.
        epochs: Epochs of training the maps further; 0 keeps the closed form alone.
        learning_rate: Learning rate of that training.
        control: Whether the untrained first model is stitched as well.
        train_split: Split of the images to fit to.
        memory_limit: Largest size of the sums in bytes.
    """

    layers1: tuple[str, ...] | None = None
    layers2: tuple[str, ...] | None = None
    pairs: Literal["matched", "all"] = "matched"
    depths: int = 6
    penalty: float | None = None
    epochs: int = 0
    learning_rate: float = 1e-3
    control: bool = False
    train_split: Literal["train", "validation", "train+validation"] = "train"
    memory_limit: float = 4e9


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    run_on_models("stitching", ABOUT, shared(most=2) + options_of(How) + options_of(Training), arguments, run)


def run(given: SimpleNamespace) -> list[Path]:
    """Stitch, and write the results and the figures.

    Returns:
        The files.
    """
    from utilities.cli.files import Files
    from utilities.cli.two_models import open_two
    from utilities.plots.similarity import plot_stitching, plot_stitching_matrix
    from utilities.zoo.trained_on import refuse_other_classes

    files = Files.of(given)
    two = open_two(given)
    refuse_other_classes(two.models[1], two.loaders[1].dataset)
    if given.control and two.named[0].weights == "random":
        raise ValueError("--control stitches the first model untrained as well, and it has random weights already")
    train = training_loaders(given, two)
    result = stitched(given, two, train)
    print(result.to_frame()[["layer1", "layer2", "fit", "accuracy", "accuracy_stderr"]].to_string(index=False))
    paths, control = files.save(result) + files.save_table(result.to_frame()), None
    if given.control:
        control = stitched(given, untrained_first(given, two), train)
        paths += files.save(control, "control") + files.save_table(control.to_frame(), "control")
    if not files.formats:
        return paths
    figure = plot_stitching(result, control) if result.matched else plot_stitching_matrix(result)
    return paths + files.save_figures({"": figure})


def training_loaders(given: SimpleNamespace, two: TwoModels) -> list[Loader]:
    """Load the images to fit to, as each model takes them."""
    from utilities.cli.opening import open_loader

    choice = {"split": given.train_split, "n_images": given.n_train, "masks": False}
    return [open_loader(given, one, **choice) for one in two.named]


def stitched(given: SimpleNamespace, two: TwoModels, train: list[Loader]) -> Stitching:
    """Stitch two opened models.

    Args:
        given: The options.
        two: The models, with the images to test on.
        train: The images to fit to, as each model takes them.
    """
    from utilities.cli.two_models import facts_of_two
    from utilities.compare.stitching import stitch
    from utilities.datasets.loaders import same_input

    alike = two.alike and same_input(*train)
    own: dict[str, Any] = {name.name: getattr(given, name.name) for name in dataclasses.fields(How)}
    own = {name: value for name, value in own.items() if name not in ("control", "train_split")}
    return stitch(
        *two.models,
        train[0],
        two.loaders[0],
        None if alike else train[1],
        None if alike else two.loaders[1],
        **own,
        device=given.device,
        provenance=facts_of_two(two, given.seed, None),
    )


def untrained_first(given: SimpleNamespace, two: TwoModels) -> TwoModels:
    """Put the untrained twin of the first model in its place; its images are prepared as before."""
    from utilities.cli.opening import Named
    from utilities.study.real_weights import untrained_twin

    first = two.named[0]
    model = untrained_twin(first.name, first.weights, two.loaders[0], given.seed)
    named = [Named(first.name, "random", given.seed), two.named[1]]
    return dataclasses.replace(two, named=named, models=[model, two.models[1]])
