"""What the commands of the analyses share: options, the model and the images they name, the files they write."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from utilities.datasets import load_dataset
from utilities.loaders import Loader, make_loader
from utilities.results import Result
from utilities.utils import check_writable, resolve_device, write_whole
from utilities.zoo import create_model, input_options


def add_options(parser: argparse.ArgumentParser, *, model: bool = True) -> None:
    """Add the options that say on what images a model by name is run, and where the result goes.

    Args:
        parser: Gets the options.
        model: Whether ``--model`` and ``--weights`` are among them.
    """
    add = parser.add_argument
    if model:
        add("--model", required=True, help="a name of utilities.zoo.list_models, timm/NAME or torchvision/NAME")
        add("--weights", default="random", help="random, pretrained, or a checkpoint's path")
    add("--dataset", required=True, help="see utilities.datasets.load_dataset")
    add("--image-size", type=int, help="pixels; default: what the model asks for, else the data set's own")
    add("--root", type=Path, help="folder of the data sets; default: data in the project")
    add("--n-images", type=int, help="as many of each class as there are; default: all")
    add("--batch-size", type=int, default=256, help="images in a batch")
    add("--seed", type=int, default=0, help="of random weights, of the choice of images, and of what is drawn")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    add("--workers", type=int, default=0, help="processes that load images")
    add("--out", required=True, type=Path, help="OUT.npz, OUT.json, OUT.csv and pictures OUT*.png are written")


def base_of(given: argparse.Namespace) -> Path:
    """Give the path of all files of a result, less their endings, after seeing that they can be written.

    Raises:
        OSError: If nothing can be written there.
        ValueError: If the device is not known or not here.
    """
    base = given.out.with_suffix("") if given.out.suffix == ".npz" else given.out
    check_writable(base)
    resolve_device(given.device)
    return base


def data_options(given: argparse.Namespace, model: str) -> dict[str, Any]:
    """Give the options of `utilities.datasets.load_dataset` for a model's images."""
    size = {} if given.image_size is None else {"image_size": given.image_size}
    return {"n_images": given.n_images, "seed": given.seed, "root": given.root, **input_options(model), **size}


def open_loader(given: argparse.Namespace, model: str, split: str = "test", augment: bool = False) -> Loader:
    """Load the images for a model by name."""
    data = load_dataset(given.dataset, split, augment=augment, **data_options(given, model))
    return make_loader(data, given.batch_size, seed=given.seed, workers=given.workers)


def open_model(given: argparse.Namespace, model: str, weights: str, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """Make a model by name, with its own classifier where it brings one, and say what it is."""
    found = create_model(model, None if weights == "pretrained" else classes, weights=weights, seed=given.seed)
    text = f"untrained, seed {given.seed}" if weights == "random" else Path(weights).name
    return found, {"model": model, "weights": text}


def data_facts(loader: Loader) -> dict[str, Any]:
    """Say what the images are, for captions."""
    augmented = ", augmented" if loader.augment else ""
    name = f"{loader.dataset.name} ({loader.dataset.split}{augmented})"
    return {"dataset": name, "num_classes": loader.dataset.num_classes}


def write_result(result: Result, figures: Mapping[str, Figure], base: Path) -> list[Path]:
    """Write a result, its table as CSV, and figures under the base's name and their own endings; give the paths."""
    paths = [result.save(base), base.with_name(f"{base.name}.json")]
    table = result.to_frame()
    paths.append(write_whole(base.with_name(f"{base.name}.csv"), lambda path: table.to_csv(path, index=False)))
    for part, figure in figures.items():
        path = base.with_name(f"{base.name}{part}.png")
        paths.append(write_whole(path, lambda p, figure=figure: figure.savefig(p, dpi=200)))
    return paths


def run_command(parser: argparse.ArgumentParser, run: Callable[[], list[Path]]) -> None:
    """Run a command and name the files it wrote; errors of the user's become one line and status 2."""
    try:
        files = run()
    except (ValueError, TypeError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"wrote {', '.join(map(str, files))}")
