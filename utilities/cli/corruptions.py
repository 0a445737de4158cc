"""Robustness to corruptions for ``analyse robustness``: of images at hand, or of the published sets on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from utilities.analysis.predictions.robustness import Robustness
from utilities.analysis.predictions.robustness import robustness as on_images
from utilities.analysis.predictions.robustness_on_files import robustness_on_files
from utilities.cli.analyse import Call
from utilities.cli.opening import data_options, open_model
from utilities.datasets.corrupted import CLEAN, load_corrupted
from utilities.datasets.corruptions.parameters import check_sets
from utilities.datasets.factory import load_dataset
from utilities.results.formatting import percent, with_error
from utilities.zoo.trained_on import refuse_other_classes


def robustness(call: Call, *, reference: Path | None = None, **options: Any) -> Robustness:
    """Measure what common corruptions do to a classifier's accuracy and calibration.

    Args:
        call: The command; the data sets cifar10-c, cifar100-c and imagenet-c are read from disk.
        reference: Result (.npz) of another model, AlexNet's, say, on the same sets: mCE is printed.
        **options: Options of `utilities.analysis.predictions.robustness.robustness`.
    """
    check_sets(options["kinds"], options["severities"])
    given = call.given
    if given.dataset not in CLEAN:
        model, facts = call.open()
        return on_images(model, *call.loaders, seed=given.seed, device=given.device, provenance=facts, **options)
    if given.classes is not None:
        raise ValueError(
            f"--classes gives the order of the classes of a folder:PATH; those of {given.dataset} have one"
        )
    choice = data_options(given, call.model)
    sets = {name: options[name] for name in ("kinds", "severities")}
    choice |= {name: options[name] for name in ("mean", "std") if options[name] is not None}
    classes = load_corrupted(given.dataset, sets["kinds"][0], sets["severities"][0], **choice).num_classes
    model, facts = open_model(call.model, classes, given.dataset)
    if call.model.from_file:  # corrupted sets do not all name their classes
        refuse_other_classes(model, load_dataset(CLEAN[given.dataset], **choice))
    reading = {"batch_size": given.batch_size, "workers": given.workers, "device": given.device, "provenance": facts}
    return robustness_on_files(model, given.dataset, **choice, **sets, **reading)


def report(results: Mapping[str, Robustness], given: SimpleNamespace) -> dict[str, pd.DataFrame]:
    """Print the mean accuracy over all sets, and the errors in percent of a reference's where there is one."""
    reference = None if given.reference is None else Robustness.load(given.reference)
    for label, result in results.items():
        mean, error = result.mean_accuracy()
        print(f"{label}: mean accuracy over {result.accuracy.size} sets: {percent(mean, error, ' %')}")
        if reference is not None:
            for name, (value, spread) in (
                ("mCE", result.mce(reference)),
                ("relative mCE", result.relative_mce(reference)),
            ):
                print(f"{label}: {name}: {with_error(value, spread, '.1f', unit=' %')}")
    return {}
