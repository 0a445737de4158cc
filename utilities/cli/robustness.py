"""The command ``python -m utilities.cli.robustness``: robustness of a model by name on a data set by name.

    python -m utilities.cli.robustness corruptions --model resnet18 --weights checkpoints/r18.pth \
        --dataset cifar100 --out runs/r18_corruptions
    python -m utilities.cli.robustness noise-frequency --model resnet18 --weights checkpoints/r18.pth \
        --dataset digits --bands 7 --eps 0.5 --out runs/r18_noise

``--dataset cifar10-c``, ``cifar100-c`` and ``imagenet-c`` read the published sets; on any other set images are
corrupted here. Beside the result lie its table, OUT.csv, and its figures.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from utilities.analysis.predictions.noise_frequency import NOISES, NoiseFrequency, noise_frequency
from utilities.analysis.predictions.robustness import Robustness, robustness
from utilities.analysis.predictions.robustness_on_files import robustness_on_files
from utilities.cli.options import (
    add_options,
    base_of,
    data_facts,
    data_options,
    figure_options,
    open_loader,
    open_model,
    run_command,
    write_result,
)
from utilities.datasets.corrupted import CLEAN, load_corrupted
from utilities.datasets.corruptions import CORRUPTIONS, EXTRA_CORRUPTIONS, SEVERITIES
from utilities.datasets.corruptions.parameters import check_sets
from utilities.datasets.factory import load_dataset
from utilities.plots.predictions.noise_frequency import plot_noise_frequency
from utilities.plots.predictions.robustness import plot_kinds, plot_severity
from utilities.zoo.trained_on import refuse_other_classes


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = _parser()
    given = parser.parse_args(arguments)
    run_command(parser, lambda: run(given))


def _parser() -> argparse.ArgumentParser:
    style = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m utilities.cli.robustness",
        description="Measure what corruptions, or noise of each frequency, do to a classifier's accuracy.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    corruptions = commands.add_parser("corruptions", help="common corruptions", formatter_class=style)
    noise = commands.add_parser("noise-frequency", help="noise of bands of frequencies", formatter_class=style)
    for command in (corruptions, noise):
        add_options(command)
    add = corruptions.add_argument
    names = ", ".join((*CORRUPTIONS, *EXTRA_CORRUPTIONS))
    add("--kinds", nargs="+", default=list(CORRUPTIONS), metavar="KIND", help=f"some of {names}")
    add("--reference", type=Path, help="result of another model (AlexNet's, say) on the same sets: mCE is printed")
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
    base = base_of(given)
    if given.command == "corruptions":
        reference = None if given.reference is None else Robustness.load(given.reference)
        result = _corruptions(given)
        print(_summary(result, reference))
        figures = {"": plot_severity(result), "_types": plot_kinds(result)}
    else:
        result = _noise_frequency(given)
        figures = {"": plot_noise_frequency(result)}
    return write_result(result, figures, base, **figure_options(given))


def _summary(result: Robustness, reference: Robustness | None) -> str:
    """Say the mean accuracy over all sets, and the errors in percent of a reference's where there is one."""
    mean, error = result.mean_accuracy()
    lines = [f"mean accuracy over {result.accuracy.size} sets: {100 * mean:.1f} +- {100 * error:.1f} %"]
    if reference is not None:
        for name, (value, spread) in (("mCE", result.mce(reference)), ("relative mCE", result.relative_mce(reference))):
            lines.append(f"{name}: {value:.1f} +- {spread:.1f} %")
    return "\n".join(lines)


def _corruptions(given: argparse.Namespace) -> Robustness:
    check_sets(given.kinds, given.severities)
    sets = {"kinds": given.kinds, "severities": given.severities, "device": given.device}
    if given.dataset not in CLEAN:
        loader = open_loader(given, given.model)
        model, facts = open_model(given, given.model, given.weights, loader.dataset.num_classes)
        refuse_other_classes(model, loader.dataset)
        return robustness(model, loader, seed=given.seed, provenance=facts | data_facts(loader), **sets)
    if given.classes is not None:
        raise ValueError(
            f"--classes gives the order of the classes of a folder:PATH; those of {given.dataset} have one"
        )
    choice = data_options(given, given.model)
    classes = load_corrupted(given.dataset, given.kinds[0], given.severities[0], **choice).num_classes
    model, facts = open_model(given, given.model, given.weights, classes)
    if given.weights not in ("random", "pretrained"):  # corrupted sets do not all name their classes
        refuse_other_classes(model, load_dataset(CLEAN[given.dataset], **choice))
    reading = {"batch_size": given.batch_size, "workers": given.workers, "provenance": facts}
    return robustness_on_files(model, given.dataset, **choice, **sets, **reading)


def _noise_frequency(given: argparse.Namespace) -> NoiseFrequency:
    loader = open_loader(given, given.model)
    model, facts = open_model(given, given.model, given.weights, loader.dataset.num_classes)
    refuse_other_classes(model, loader.dataset)
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
        provenance=facts | data_facts(loader),
    )


if __name__ == "__main__":
    main()
