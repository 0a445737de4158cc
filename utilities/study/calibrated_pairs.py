"""A CNN, a hybrid and a ViT compared with each other, against permuted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from utilities.compare.all_pairs import pair_facts
from utilities.compare.calibration import calibrate
from utilities.datasets.factory import load_dataset
from utilities.datasets.loaders import make_loader
from utilities.results.calibration import Calibration
from utilities.study.grounded_models import CONDITIONS, KINDS, train_grounded
from utilities.zoo.layers import block_layers

FEW = 60


def calibrate_kinds(
    kinds: Sequence[str] = tuple(KINDS),
    *,
    batch_size: int | None = None,
    dataset: str | None = None,
    n_images: int | None = None,
    permutations: int = 200,
    estimator: str = "biased",
    seed: int = 0,
    epochs: int | None = None,
    folder: str | Path | None = None,
    profile: str | None = None,
    **options: Any,
) -> dict[str, Calibration]:
    """Calibrate the similarity of the blocks of each pair of kinds, trained on plain images.

    Args:
        kinds: Keys of `utilities.study.grounded_models.KINDS`.
        batch_size: Images in a batch; None takes all in one.
        dataset: See `utilities.study.grounded_models.train_grounded`.
        n_images: Number of test images; None is `FEW`, so that chance and width can be seen.
        permutations: See `utilities.compare.calibration.calibrate`.
        estimator: The same; the biased one is raised by width, which calibration has to take away.
        seed: Seed of the first model, of the order of images and of the permutations; every second model has the next.
        epochs: See `train_grounded`.
        folder: See `train_grounded`.
        profile: Name of the study's profile, which figures state.
        **options: Further options of `calibrate`.

    Returns:
        Pair of kinds -> result, the first kind's blocks being the rows.
    """
    n_images = FEW if n_images is None else n_images
    data = load_dataset(dataset or "digits", "test", image_size=8, n_images=n_images)
    loader = make_loader(data, min(len(data), batch_size or len(data)), seed=seed)
    chosen = {"dataset": dataset, "n_images": n_images, "seed": seed, "epochs": epochs, "folder": folder}
    # Neighbours are of two seeds: of one, CNN and hybrid would begin with the same weights in their first layers.
    trained = {kind: train_grounded(kind, 2, CONDITIONS[:1], **chosen)[number % 2] for number, kind in enumerate(kinds)}
    facts = {
        kind: {"model": KINDS[kind].model, "weights": f"seed {one.seed}", "accuracy": one.accuracy}
        for kind, one in trained.items()
    }
    shared = {"dataset": f"{data.name} ({data.part})", "seed": seed, "profile": profile}
    how = {"permutations": permutations, "estimator": estimator, "seed": seed, **options}
    return {
        f"{one} x {two}": calibrate(
            trained[one].model,
            trained[two].model,
            loader,
            layers1=block_layers(trained[one].model),
            layers2=block_layers(trained[two].model),
            provenance=pair_facts(facts[one], facts[two]) | shared,
            **how,
        )
        for one, two in combinations(kinds, 2)
    }


def describe_calibrations(results: Mapping[str, Calibration]) -> str:
    """State for each pair of models the largest similarity, what permuted images reach, and what is left.

    Example:
        >>> import numpy as np
        >>> from utilities.results.calibration import calibration_of
        >>> print(describe_calibrations({"a x b": calibration_of(
        ...     np.array([[0.6]]), np.full((99, 1, 1), 0.2), ["one"], ["two"], 10, provenance={"measure": "linear CKA"}
        ... )}))
        a x b: linear CKA 0.60 at most (one, two), 0.20 by permuted images, 0.50 calibrated (p = 0.01); 1 of 1 layers
        have a match beyond chance.
    """
    lines = []
    for title, result in results.items():
        best, table = result.maximum(), result.best_match()
        passed = int((table["p_value"] <= result.level).sum())
        lines.append(
            f"{title}: {result.provenance.get('measure', 'similarity')} {best['similarity']:.2f} at most "
            f"({best['layer1']}, {best['layer2']}), {best['threshold']:.2f} by permuted images, "
            f"{best['calibrated']:.2f} calibrated (p = {best['p_value']:.2g}); {passed} of {len(table)} layers have a "
            "match beyond chance."
        )
    return "\n".join(lines)
