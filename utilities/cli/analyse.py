"""The command ``python -m utilities.cli.analyse``: an analysis of blocks for several models, on the same images.

    python -m utilities.cli.analyse fourier --models timm/resnet50 timm/vit_tiny_patch16_224 timm/convnext_tiny \
        --weights pretrained --dataset imagenet --n-images 1000 --out runs/frequencies

``fourier``, ``variance``, ``lesions`` and ``classify`` of any number of models, and of Vision Transformers what is read
in class-embedding space: ``identifiability`` (of ResNets too), ``key_value`` and ``perturb``. Each model's result is
written beside the figures that show all of them. ``-o NAME VALUE`` gives any option of the analysis.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from utilities.analysis.blocks.fourier import fourier
from utilities.analysis.blocks.lesion import lesions
from utilities.analysis.blocks.variance import feature_variance
from utilities.analysis.class_embedding.identifiability import identifiability
from utilities.analysis.class_embedding.key_value import key_value_agreement
from utilities.analysis.class_embedding.perturbation import perturb
from utilities.analysis.predictions.classification import classify
from utilities.claims.claim import state_claims
from utilities.claims.park_kim_2022.blocks import claims_of_fourier, claims_of_lesions, claims_of_variance
from utilities.claims.park_kim_2022.classification import claims_of_classification
from utilities.claims.vilas_2023.identifiability import claims_of_identifiability
from utilities.claims.vilas_2023.key_value import claims_of_key_value
from utilities.claims.vilas_2023.perturbation import claims_of_perturbation
from utilities.cli.options import (
    add_options,
    base_of,
    data_facts,
    figure_options,
    open_loader,
    open_model,
    run_command,
    write_result,
)
from utilities.plots.blocks.fourier import plot_gain, plot_high_frequency, plot_spectra
from utilities.plots.blocks.lesion import plot_lesions
from utilities.plots.blocks.variance import plot_variance
from utilities.plots.class_embedding.identifiability import plot_changes, plot_context, plot_evolution
from utilities.plots.class_embedding.key_value import plot_compositionality, plot_key_value_agreement
from utilities.plots.class_embedding.perturbation import plot_perturbation
from utilities.plots.predictions.classification import plot_measures, plot_reliability
from utilities.plots.style import save_figures
from utilities.zoo.factory import NAMES, check_name
from utilities.zoo.trained_on import refuse_other_classes

# Name -> the analysis, its figures by the endings of their files, and the claims it bears on.
ANALYSES: dict[str, tuple[Callable[..., Any], dict[str, Callable[..., Any]], Callable[..., Any]]] = {
    "fourier": (fourier, {"": plot_spectra, "_high": plot_high_frequency, "_gain": plot_gain}, claims_of_fourier),
    "variance": (feature_variance, {"": plot_variance}, claims_of_variance),
    "lesions": (lesions, {"": plot_lesions}, claims_of_lesions),
    "classify": (classify, {"": plot_reliability, "_measures": plot_measures}, claims_of_classification),
    "identifiability": (
        identifiability,
        {"": plot_evolution, "_changes": plot_changes, "_context": plot_context},
        claims_of_identifiability,
    ),
    "key_value": (
        key_value_agreement,
        {"": plot_key_value_agreement, "_compositionality": plot_compositionality},
        claims_of_key_value,
    ),
    "perturb": (perturb, {"": plot_perturbation}, claims_of_perturbation),
}

LABELLED = ("lesions", "classify", "identifiability", "key_value", "perturb")  # that ask what class an image is of


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line; None takes that of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m utilities.cli.analyse",
        description="Analyse the blocks of several models on the same images.",
        epilog="options (-o): " + "; ".join(f"{name}: {', '.join(_known(one[0]))}" for name, one in ANALYSES.items()),
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("analysis", choices=list(ANALYSES))
    parser.add_argument(
        "--models",
        nargs="+",
        required=True,
        help=f"each {NAMES}",
    )
    parser.add_argument(
        "--weights", nargs="+", default=["random"], help="random, pretrained or a path: one for all, or one each"
    )
    parser.add_argument(
        "-o",
        "--option",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help='of the analysis; the value in JSON or as it is: -o path radial, -o layers \'{"features.3": "conv"}\'',
    )
    add_options(parser, model=False)
    given = parser.parse_args(arguments)
    run_command(parser, lambda: run(given))


def run(given: argparse.Namespace) -> list[Path]:
    """Analyse as the command line says, and write results and figures.

    Returns:
        The files.
    """
    base = base_of(given)
    weights = given.weights * len(given.models) if len(given.weights) == 1 else given.weights
    if len(weights) != len(given.models):
        raise ValueError(f"there are {len(given.models)} models, but {len(weights)} weights; give one, or one each")
    if len(set(given.models)) < len(given.models):
        raise ValueError(f"a model is named twice: {' '.join(given.models)}; results go by the models' names")
    for name in given.models:
        check_name(name)
    analysis, figures, claims = ANALYSES[given.analysis]
    options = _options(analysis, given.option)
    results, paths = {}, []
    for name, which in zip(given.models, weights, strict=True):
        loader = open_loader(given, name)
        model, facts = open_model(given, name, which, loader.dataset.num_classes)
        if given.analysis in LABELLED:
            refuse_other_classes(model, loader.dataset)
        known = {"device": given.device, "provenance": facts | data_facts(loader)}
        results[name] = analysis(model, loader, **known, **options)
        own = base.with_name(f"{base.name}_{re.sub(r'[^A-Za-z0-9_.]+', '-', name)}")
        paths += write_result(results[name], {}, own)
    drawn = {ending: plot(results) for ending, plot in figures.items()}
    paths += save_figures(drawn, base, **figure_options(given))
    print(state_claims(claims(results), base.with_name(f"{base.name}_claims")))
    return paths


def _known(analysis: Callable[..., Any]) -> list[str]:
    """Name the options of an analysis that a command line can give."""
    taken = ("model", "loader", "device", "provenance", "progress", "lens")
    return [name for name in inspect.signature(analysis).parameters if name not in taken]


def _options(analysis: Callable[..., Any], given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Read the options of an analysis, and refuse those that it does not have.

    Raises:
        ValueError: Naming the option, and those there are.
    """
    known, options = _known(analysis), {}
    for name, text in given:
        if name not in known:
            raise ValueError(f"{analysis.__name__} has no option {name!r}; it has {', '.join(known)}")
        try:
            options[name] = json.loads(text)
        except json.JSONDecodeError:
            options[name] = text
    return options


if __name__ == "__main__":
    main()
