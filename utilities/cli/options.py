"""What the commands of the analyses share: options, the model and the images they name, the files they write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from utilities.cli.user_errors import reporting
from utilities.datasets.class_order import HELP, from_options
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import Loader, make_loader
from utilities.plots.style import inches, save_figures, split_picture
from utilities.results.result import Result
from utilities.utils import check_writable, resolve_device, write_whole
from utilities.zoo.checkpoints import read_checkpoint
from utilities.zoo.factory import NAMES, create_model
from utilities.zoo.inputs import input_options

PICTURES = "with the ending .pdf, .svg or .eps pictures have it, too"


def add_options(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """Add the options that say on what images a model by name is run, and where the result goes.

    Args:
        parser: Gets the options.
        model: Whether ``--model`` and ``--weights`` are among them.
    """
    add = parser.add_argument
    if model:
        add(
            "--model",
            required=True,
            help=NAMES,
        )
        add("--weights", default="random", help="random, pretrained, or a checkpoint's path")
    add("--dataset", required=True, help="see utilities.datasets.load_dataset")
    add("--classes", nargs="+", metavar="NAME", help=HELP)
    add("--image-size", type=int, help="pixels; default: what the model asks for, else the data set's own")
    add("--root", type=Path, help="folder of the data sets; default: data in the project")
    add("--n-images", type=int, help="as many of each class as there are; default: all")
    add("--batch-size", type=int, default=256, help="images in a batch")
    add("--seed", type=int, default=0, help="of random weights, of the choice of images, and of what is drawn")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--out", required=True, type=Path, help=f"OUT.npz, OUT.json, OUT.csv and pictures OUT*.png; {PICTURES}")
    add_figure_options(parser)


def add_figure_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the figures of a command look.

    Args:
        parser: Gets ``--width`` and ``--no-caption``.
    """
    parser.add_argument("--width", type=_width, help="of figures: column, page or inches; default: what they need")
    parser.add_argument("--no-caption", dest="caption", action="store_false", help="nothing is written below figures")


def _width(text: str) -> float:
    try:
        return inches(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def figure_options(given: argparse.Namespace) -> dict[str, Any]:
    """Return what the command line says of figures, as `utilities.plots.style.save_figures` takes it."""
    return {"suffix": split_picture(given.out)[1], "width": given.width, "caption": given.caption}


def base_of(given: argparse.Namespace) -> Path:
    """Give the path of all files of a result, less their endings, after seeing that they can be written.

    Raises:
        OSError: If nothing can be written there.
        ValueError: If the device is not known or not here, or pictures are not written in the format.
    """
    base, _ = split_picture(given.out)
    check_writable(base)
    resolve_device(given.device)
    return base


def data_options(given: argparse.Namespace, model: str) -> dict[str, Any]:
    """Give the options of `utilities.datasets.load_dataset` for a model's images."""
    size = {} if given.image_size is None else {"image_size": given.image_size}
    size |= {} if given.classes is None else {"classes": from_options(given.classes)}
    return {"n_images": given.n_images, "seed": given.seed, "root": given.root, **input_options(model), **size}


def open_loader(given: argparse.Namespace, model: str, split: str = "test", augment: bool = False) -> Loader:
    """Load the images for a model by name."""
    data = load_dataset(given.dataset, split, augment=augment, **data_options(given, model))
    return make_loader(data, given.batch_size, seed=given.seed, workers=given.workers)


def open_model(given: argparse.Namespace, model: str, weights: str, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """Make a model by name, with its own classifier where it brings one, and say what it is."""
    found = create_model(model, classes if weights == "random" else None, weights=weights, seed=given.seed)
    text = f"untrained, seed {given.seed}" if weights == "random" else Path(weights).name
    return found, {"model": model, "weights": text} | _tested(weights, given.dataset)


def _tested(weights: str, dataset: str) -> dict[str, float]:
    """Return the accuracy that a checkpoint's training measured at its end, on the data set that is asked for."""
    if weights in ("random", "pretrained"):
        return {}
    content = read_checkpoint(Path(weights))
    test, recipe = content.get("test"), content.get("recipe")
    same = isinstance(recipe, dict) and recipe.get("dataset") == dataset
    return {"accuracy": float(test["top1"])} if same and isinstance(test, dict) and "top1" in test else {}


def data_facts(loader: Loader) -> dict[str, Any]:
    """Say what the images are, for captions."""
    augmented = ", augmented" if loader.augment else ""
    name = f"{loader.dataset.name} ({loader.dataset.part}{augmented})"
    return {"dataset": name, "num_classes": loader.dataset.num_classes}


def write_result(result: Result, figures: Mapping[str, Figure], base: Path, **look: Any) -> list[Path]:
    """Write a result, its table as CSV, and figures under the base's name and their own endings.

    Args:
        result: Has ``to_frame``.
        figures: Ending of the name -> figure.
        base: Path of all files, less their endings.
        **look: Of figures, see `figure_options`.

    Returns:
        The paths.
    """
    paths = [result.save(base), base.with_name(f"{base.name}.json")]
    table = result.to_frame()
    paths.append(write_whole(base.with_name(f"{base.name}.csv"), lambda path: table.to_csv(path, index=False)))
    return paths + save_figures(figures, base, **look)


def run_command(parser: argparse.ArgumentParser, run: Callable[[], list[Path]]) -> None:
    """Run a command and name the files it wrote; errors of the user's become one line and status 2."""
    with reporting(parser):
        files = run()
    print(f"wrote {', '.join(map(str, files))}")
