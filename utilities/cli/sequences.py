"""Consistency under perturbation for ``analyse consistency``: of images at hand, or of published sequences on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from utilities.analysis.predictions.consistency import Consistency, consistency_on_files
from utilities.analysis.predictions.consistency import consistency as on_images
from utilities.cli.analyse import Call
from utilities.cli.opening import open_model
from utilities.datasets.perturbations import PERTURBATIONS
from utilities.datasets.perturbed import KINDS, check_sequences
from utilities.results.formatting import counted, percent, with_error

CLASSES = {"cifar10-p": 10, "imagenet-p": 1000}


def consistency(call: Call, *, reference: Path | None = None, **options: Any) -> Consistency:
    """Measure how often a classifier changes its answer along sequences of small perturbations.

    Args:
        call: The command; the data sets cifar10-p and imagenet-p are read from disk, with their ten kinds unless others
            are named.
        reference: Result (.npz) of another model, AlexNet's, say, on the same kinds: mFP and mT5D are printed.
        **options: Options of `utilities.analysis.predictions.consistency.consistency`.
    """
    given = call.given
    if given.dataset not in KINDS:
        model, facts = call.open()
        return on_images(model, *call.loaders, seed=given.seed, device=given.device, provenance=facts, **options)
    kinds = None if list(options["kinds"]) == list(PERTURBATIONS) else options["kinds"]
    kinds = check_sequences(given.dataset, kinds, given.root)
    model, facts = open_model(call.model, CLASSES[given.dataset], given.dataset)
    choice = {"kinds": kinds, "root": given.root, "n_images": given.n_images, "mean": options["mean"]}
    # A sequence holds some thirty images, and a batch is of images.
    choice |= {"std": options["std"], "batch_size": max(1, given.batch_size // 31)}
    return consistency_on_files(model, given.dataset, device=given.device, provenance=facts, **choice)


def report(results: Mapping[str, Consistency], given: SimpleNamespace) -> dict[str, pd.DataFrame]:
    """Print the means over kinds, and those in percent of a reference's where there is one."""
    reference = None if given.reference is None else Consistency.load(given.reference)
    for label, result in results.items():
        rate, over = percent(*result.mean_flip_rate(), " %", ".2f"), counted(len(result.kinds), "kind")
        print(f"{label}: mean flip rate over {over}: {rate}")
        print(f"{label}: mean top-5 distance: {with_error(*result.mean_distance(), '.3f')}")
        if reference is not None:
            for name, (value, spread) in (("mFP", result.mfp(reference)), ("mT5D", result.mt5d(reference))):
                print(f"{label}: {name}: {with_error(value, spread, '.1f', unit=' %')}")
    return {}
