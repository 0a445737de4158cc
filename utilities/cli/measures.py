"""The verb ``measures``: put measures of similarity to tests with known answers, on small models trained for them.

python -m utilities measures cka procrustes cca --seeds 2 --out runs/measures
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Literal

from utilities.cli.arguments import options_of, parse, position
from utilities.cli.options import shared
from utilities.cli.user_errors import reporting

ABOUT = "Train small CNNs, hybrids and ViTs in five ways, or load those that have been trained, and see which measures "
ABOUT += "find layers in order, models that were trained alike, and models that answer alike."


@dataclasses.dataclass(frozen=True, kw_only=True)
class How:
    """What is tested, and on which models.

    Attributes:
        measures: cka, cka_biased, procrustes, cca, ...; default: all. Also after --measures.
        kinds: Kinds of models.
        seeds: Number of models of each kind and each way of training, 2 or more; with 2, the error of layers found
            again is not known.
        dataset: Set of at most 27 classes that fits into memory; its images are resized to 8 pixels.
        epochs: Epochs of training; default: 4, of a ViT 10.
        checkpoints: Folder of the trained models; default: checkpoints/DATASET/grounded in the project.
        seed: Another one gives other models throughout.
    """

    measures: Annotated[tuple[str, ...], position(metavar="MEASURE ...")] = ()
    kinds: tuple[Literal["CNN", "hybrid", "ViT"], ...] = ("CNN", "hybrid", "ViT")
    seeds: int = 3
    dataset: str = "digits"
    epochs: int | None = None
    checkpoints: Path | None = None
    seed: int = 0


FIXED = ("split", "root", "classes", "image_size", "batch_size", "workers")  # by the training of these models


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        arguments: Command line, less the verb.
    """
    options = shared(*FIXED, models=False) + options_of(How)
    given = parse(options, arguments or [], "python -m utilities measures", ABOUT, many="measures")
    with reporting():
        from utilities.cli.files import say_written  # heavy

        say_written(run(given))


def run(given: SimpleNamespace) -> list[Path]:
    """Train or load the models, test the measures, say what was found, and write the scores and their figure.

    Returns:
        The files.
    """
    from utilities.cli.files import Files
    from utilities.plots.similarity import plot_measure_tests
    from utilities.study.measure_tests import MEASURES, PANELS, describe_measure_tests, run_measure_tests

    files = Files.of(given)
    result = run_measure_tests(
        given.kinds,
        given.measures or MEASURES,
        seeds=given.seeds,
        dataset=given.dataset,
        n_images=given.n_images,
        epochs=given.epochs,
        seed=given.seed,
        folder=given.checkpoints,
        device=given.device,
    )
    print(describe_measure_tests(result))
    paths = files.save(result) + files.save_table(result.to_frame())
    return paths + (files.save_figures({"": plot_measure_tests(result, PANELS)}) if files.formats else [])
