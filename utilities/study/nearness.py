"""Which of two trained models is a third one nearer to? For notebooks, with what is found in words."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from typing import Any

from utilities.compare.nearness import compare_similarities
from utilities.datasets.loaders import same_input
from utilities.hooks.block_families import block_outputs
from utilities.hooks.calls.options import check_options
from utilities.results.similarity_difference import SimilarityDifference
from utilities.results.statistics import LEVEL
from utilities.study.group import Group
from utilities.study.study import Study
from utilities.study.wording import WIDTH


def apart(group: Group) -> list[Study]:
    """Return the studies of a group, the second one with the next seed.

    A hybrid and a CNN of one seed begin with the same weights where their layers have the same shapes. Short training
    moves these little, so that the two would be alike whatever they learn.

    Example:
        >>> [str(study) for study in apart(Group("Nearer", ["alternet18", "resnet18"]))]
        ['alternet18 on digits, quick profile, seed 0', 'resnet18 on digits, quick profile, seed 1']
    """
    return [replace(study, seed=study.seed + (number == 1)) for number, study in enumerate(group.studies)]


def nearness_of(group: Group, **options: Any) -> SimilarityDifference:
    """Train or load three models, and tell whether the first is more like the second than like the third.

    The features after each block are compared, unless layers are named.

    Args:
        group: Three models, the shared one first; see `apart`.
        **options: Options of `utilities.compare.compare_similarities`.

    Raises:
        ValueError: If there are not three models.
    """
    check_options(nearness_of, options, compare_similarities, but=("provenance",))  # before the training
    studies = apart(group)
    if len(studies) != 3:
        raise ValueError(f"one model is compared with two others, but there are {len(studies)}")
    found = [study.finished_model() for study in studies]
    loaders = [study.loader(n_images=study.n_images) for study in group.studies]
    for name, (model, _) in zip(("layers", "layers1", "layers2"), found, strict=True):
        options.setdefault(name, block_outputs(model))
    facts = studies[0].shared_facts(loaders[0])
    facts |= {f"{key}{k}": value for k, (_, own) in enumerate(found, 1) for key, value in own.items()}
    others = [None if same_input(loaders[0], loader) else loader for loader in loaders[1:]]
    return compare_similarities(*(model for model, _ in found), loaders[0], *others, provenance=facts, **options)


def describe_nearness(result: SimilarityDifference) -> str:
    """State as a whole, and for single layers, which model is nearer, as far as the numbers support it.

    Args:
        result: Differences of similarities.

    Example:
        >>> import numpy as np
        >>> one, none = np.array([0.9, 0.5]), np.array([0.6, 0.5])
        >>> whole = {"difference": 0.15, "low": -0.1, "high": 0.4, "p_value": 0.2, "similarity1": 0.7}
        >>> whole |= {"similarity2": 0.55}
        >>> names = {"model1": "hybrid", "model2": "cnn", "model3": "vit"}
        >>> result = SimilarityDifference(
        ...     ["a", "b"], ["x", "y"], ["u", "v"], one, none, one - none, *[none] * 6, np.array([0.01, 1.0]),
        ...     np.array([4.0, 0.0]), np.ones(3), 2.0, whole, 10, names,
        ... )
        >>> print(describe_nearness(result))
        As a whole, hybrid is not shown to be nearer to cnn (CKA 0.70) or to vit (0.55): difference +0.150, 95% interval
        -0.100 to +0.400, p = 0.2. Of 2 layers, 1 is nearer to cnn and 0 to vit, at p <= 0.05 among all of them. The
        largest difference is at a, +0.300, p = 0.01 among all layers.
    """
    model, one, two = result.names
    whole, level = result.whole, 100 * result.provenance.get("confidence", 0.95)
    values = [
        f"({result.provenance.get('measure', 'CKA')} {whole['similarity1']:.2f})",
        f"({whole['similarity2']:.2f})",
    ]
    if result.nearer:
        (near, own), (far, other) = [(one, values[0]), (two, values[1])][:: 1 if result.nearer == 1 else -1]
        verdict = f"{model} is nearer to {near} {own} than to {far} {other}"
    else:
        verdict = f"{model} is not shown to be nearer to {one} {values[0]} or to {two} {values[1]}"
    real = result.p_family <= LEVEL
    first, second = int((real & (result.difference > 0)).sum()), int((real & (result.difference < 0)).sum())
    at = result.place
    what, among = ("layers", "layers") if result.difference.ndim == 1 else ("pairs of layers", "pairs")
    count = f"{first} {'is' if first == 1 else 'are'} nearer to {one} and {second} to {two}"
    text = (
        f"As a whole, {verdict}: difference {whole['difference']:+.3f}, {level:g}% interval {whole['low']:+.3f} to "
        f"{whole['high']:+.3f}, p = {whole['p_value']:.2g}. Of {result.difference.size} {what}, {count}, "
        f"at p <= {LEVEL} among all of them. The largest difference is at {result.largest}, "
        f"{result.difference[at]:+.3f}, p = {result.p_family[at]:.2g} among all {among}."
    )
    return textwrap.fill(text, WIDTH)
