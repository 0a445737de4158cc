"""The command ``python -m utilities.robustness_command``: robustness of a model by name on a data set by name.

    python -m utilities.robustness_command corruptions --model resnet18 --weights checkpoints/r18.pth \
        --dataset cifar100 --out runs/r18_corruptions
    python -m utilities.robustness_command noise-frequency --model resnet18 --weights checkpoints/r18.pth \
        --dataset digits --bands 7 --eps 0.5 --out runs/r18_noise

``--dataset cifar10-c``, ``cifar100-c`` and ``imagenet-c`` read the published sets; on any other set images are
corrupted here. Beside the result lie its table, OUT.csv, and its figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from utilities.analysis.noise_frequency import NOISES, NoiseFrequency, noise_frequency
from utilities.analysis.robustness import Robustness, check_sets, robustness
from utilities.corrupted_sets import CLEAN, load_corrupted, robustness_on_files
from utilities.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES
from utilities.datasets import load_dataset
from utilities.loaders import Loader, make_loader
from utilities.plots.noise_frequency import plot_noise_frequency
from utilities.plots.robustness import plot_kinds, plot_severity
from utilities.utils import check_writable, resolve_device, write_whole
from utilities.zoo import create_model, input_options


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    try:
        files = run(given)
    except (ValueError, TypeError, OSError) as error:
        parser.exit(2, f"error: {error}\n")
    print(f"wrote {', '.join(map(str, files))}")


def _parser() -> argparse.ArgumentParser:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m utilities.robustness_command",
        description="Measure what corruptions, or noise of each frequency, do to a classifier's accuracy.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    corruptions = commands.add_parser("corruptions", help="common corruptions", formatter_class=style)
    noise = commands.add_parser("noise-frequency", help="noise of bands of frequencies", formatter_class=style)
    for command in (corruptions, noise):
        add = command.add_argument
        add("--model", required=True, help="a name of utilities.zoo.list_models, timm/NAME or torchvision/NAME")
        add("--weights", default="random", help="random, pretrained, or a checkpoint's path")
        add("--dataset", required=True, help="see utilities.datasets.load_dataset; for corruptions also cifar10-c ...")
        add("--image-size", type=int, help="pixels; default: what the model asks for, else the data set's own")
        add("--root", type=Path, help="folder of the data sets; default: data in the project")
        add("--n-images", type=int, help="as many of each class as there are; default: all")
        add("--batch-size", type=int, default=256, help="images in a batch")
        add("--seed", type=int, default=0, help="of the noise, of random weights, and of the choice of images")
        add("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
        add("--workers", type=int, default=0, help="processes that load images")
        add("--out", required=True, type=Path, help="OUT.npz, OUT.json, OUT.csv and OUT.png are written")
    add = corruptions.add_argument
    names = ", ".join((*CORRUPTIONS, *EXTRA_CORRUPTIONS))
    add("--kinds", nargs="+", default=list(CORRUPTIONS), metavar="KIND", help=f"some of {names}")
    add("--severities", nargs="+", type=int, default=list(SEVERITIES), metavar="S", help="from 1 to 5")
    add = noise.add_argument
    add("--eps", type=float, default=0.2, help="root mean square of the noise in normalised units")
    add("--bands", nargs="+", type=float, default=[9.0], help="their number, or their edges in units of pi")
    add("--noise", choices=NOISES, default="sign", help="what is filtered")
    add("--unequal-energy", action="store_true", help="filter noise of amplitude eps, as the paper does")
    return parser


def run(given: argparse.Namespace) -> list[Path]:
    """Measure as the command line says, and write the result, its table and its figures.

    Returns:
        The files.
    """
    base = given.out.with_suffix("") if given.out.suffix == ".npz" else given.out
    check_writable(base)
    resolve_device(given.device)
    if given.command == "corruptions":
        result = _corruptions(given)
        figures = {"": plot_severity(result), "_types": plot_kinds(result)}
    else:
        result = _noise_frequency(given)
        figures = {"": plot_noise_frequency(result)}
    return _write(result, figures, base)


def _corruptions(given: argparse.Namespace) -> Robustness:
    check_sets(given.kinds, given.severities)
    sets = {"kinds": given.kinds, "severities": given.severities, "device": given.device}
    if given.dataset not in CLEAN:
        loader = _loader(given)
        model, facts = _model(given, loader.dataset.num_classes)
        return robustness(model, loader, seed=given.seed, provenance=facts | _data(loader), **sets)
    choice = {"root": given.root, "n_images": given.n_images, "seed": given.seed, **_input_options(given)}
    classes = load_corrupted(given.dataset, given.kinds[0], given.severities[0], **choice).num_classes
    model, facts = _model(given, classes)
    reading = {"batch_size": given.batch_size, "workers": given.workers, "provenance": facts}
    return robustness_on_files(model, given.dataset, **choice, **sets, **reading)


def _noise_frequency(given: argparse.Namespace) -> NoiseFrequency:
    loader = _loader(given)
    model, facts = _model(given, loader.dataset.num_classes)
    number = len(given.bands) == 1 and given.bands[0].is_integer()
    return noise_frequency(
        model,
        loader,
        eps=given.eps,
        bands=int(given.bands[0]) if number else given.bands,
        noise=given.noise,
        equal_energy=not given.unequal_energy,
        seed=given.seed,
        device=given.device,
        provenance=facts | _data(loader),
    )


def _input_options(given: argparse.Namespace) -> dict[str, Any]:
    options: dict[str, Any] = input_options(given.model)
    return options | ({} if given.image_size is None else {"image_size": given.image_size})


def _loader(given: argparse.Namespace) -> Loader:
    choice = {"n_images": given.n_images, "seed": given.seed, "root": given.root}
    data = load_dataset(given.dataset, "test", **choice, **_input_options(given))
    return make_loader(data, given.batch_size, seed=given.seed, workers=given.workers)


def _model(given: argparse.Namespace, classes: int) -> tuple[nn.Module, dict[str, Any]]:
    """Make the model, with its own classifier where it brings one, and say what it is."""
    own = given.weights == "pretrained"
    model = create_model(given.model, None if own else classes, weights=given.weights, seed=given.seed)
    weights = f"untrained, seed {given.seed}" if given.weights == "random" else Path(given.weights).name
    return model, {"model": given.model, "weights": weights}


def _data(loader: Loader) -> dict[str, Any]:
    return {"dataset": f"{loader.dataset.name} ({loader.dataset.split})"}


def _write(result: Robustness | NoiseFrequency, figures: dict[str, Figure], base: Path) -> list[Path]:
    paths = [result.save(base), base.with_name(f"{base.name}.json")]
    table = result.to_frame()
    paths.append(write_whole(base.with_name(f"{base.name}.csv"), lambda path: table.to_csv(path, index=False)))
    for part, figure in figures.items():
        path = base.with_name(f"{base.name}{part}.png")
        paths.append(write_whole(path, lambda p, figure=figure: figure.savefig(p, dpi=200)))
    return paths


if __name__ == "__main__":
    main()
