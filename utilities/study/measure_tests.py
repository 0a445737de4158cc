"""Which measure of similarity can be trusted? Tests with known answers, on a CNN, a hybrid and a ViT.

After Klabunde et al. 2025, ReSi (https://arxiv.org/abs/2408.00531), with small models. Layers: within a network,
similarity should fall with distance; between networks of two seeds, a layer should be most similar to that at its
place. Training: models trained in one way should be more similar than models trained in two. Answers: models that
answer differently should be less similar. The first looks at blocks averaged over positions, the others at what the
classifier sees.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from utilities.compare.feature_matrices import compare_features
from utilities.compare.grounded_scores import (
    agreement_score,
    chance_of_groups,
    differences,
    group_scores,
    order_scores,
)
from utilities.compare.layer_matching import mean_accuracy
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.datasets.factory import load_dataset
from utilities.results.formatting import with_error
from utilities.results.measure_tests import MeasureTests
from utilities.results.statistics import jackknife, stderr_of_mean
from utilities.study.grounded_models import CONDITIONS, KINDS, Trained, train_grounded, widths_of
from utilities.utils import versions

MEASURES = ("cka", "cka_biased", *SIMILARITY_MEASURES)
_PLAIN, _HALF, _DRAWN, _MARKED, _SHIFTED = CONDITIONS
GROUPS = {"labels": (_PLAIN, _HALF, _DRAWN), "shortcut": (_PLAIN, _MARKED), "shifts": (_PLAIN, _SHIFTED)}
ANSWERS = ("accuracy", "disagreement", "divergence")
TESTS = (
    *("order of layers", "distance of layers", "layer found again"),
    *(f"{name}, {score}" for name in GROUPS for score in ("precision", "conformity")),
    *ANSWERS,
)
PANELS = [test for test in TESTS if "conformity" not in test and test != "distance of layers"]
ROUNDING = 1e-12  # of scores that are equal
Score = tuple[float, float]  # and its standard error


def run_measure_tests(
    kinds: Iterable[str] = tuple(KINDS),
    measures: Sequence[str] = MEASURES,
    *,
    seeds: int = 3,
    dataset: str | None = None,
    n_images: int | None = None,
    profile: str | None = None,
    **training: Any,
) -> MeasureTests:
    """Train small models in known ways, or load those that have been trained, and put every measure to the tests.

    Args:
        kinds: Keys of `utilities.study.grounded_models.KINDS`.
        measures: ``"cka"``, ``"cka_biased"`` and names in `utilities.compare.measures.SIMILARITY_MEASURES`.
        seeds: Number of models for each kind and way of training.
        dataset: See `utilities.study.grounded_models.train_grounded`.
        n_images: Number of test images to compare on; None is all.
        profile: Name of the study's profile, which figures state.
        **training: Further options of `train_grounded`.

    Returns:
        The scores.

    Raises:
        ValueError: For an unknown kind, measure or option, fewer than two seeds, or too few images for a measure;
            before any model is trained.
    """
    kinds, found, blocks, accuracies = list(kinds), [], [], {}
    _check_known("kind", kinds, KINDS)
    _check_known("measure", measures, MEASURES)
    data = load_dataset(dataset or "digits", "test", image_size=8, n_images=n_images)
    _check_number(len(data), kinds, measures)
    for kind in kinds:
        trained = train_grounded(kind, seeds, dataset=dataset, n_images=n_images, **training)
        shown = tqdm(measures, desc=f"measures of {kind}s", delay=2)
        found.append([scores_of(trained, data.targets, one) for one in shown])
        blocks.append(len(trained[0].blocks))
        accuracies[kind] = {
            way: float(np.mean([one.accuracy for one in trained if one.condition == way])) for way in CONDITIONS
        }
    values = np.array([[[row[test] for test in TESTS] for row in rows] for rows in found])
    groups = [chance_of_groups(np.repeat(np.arange(len(ways)), seeds)) for ways in GROUPS.values()]
    by_group = [value for chance in groups for value in (chance, 0.5)]
    chance = np.array([0.5, 0.0, np.mean(1 / np.array(blocks)), *by_group, 0.0, 0.0, 0.0])
    provenance = {
        "models": {kind: KINDS[kind].model for kind in kinds},
        "accuracies": accuracies,
        "dataset": f"{data.name} ({data.part})",
        "image_size": 8,
        "n": len(data),
        "seeds": seeds,
        "profile": profile,
        "versions": versions(),
    }
    return MeasureTests(kinds, list(measures), list(TESTS), values[..., 0], values[..., 1], chance, provenance)


def _check_known(what: str, given: Sequence[str], known: Iterable[str]) -> None:
    for one in given:
        if one not in known:
            raise ValueError(f"{what} {one!r} is not known; choose from {', '.join(known)}")
    if not given or len(set(given)) < len(given):
        raise ValueError(f"give each {what} once, and one at least, not {', '.join(given) or 'none'}")


def _check_number(n: int, kinds: Sequence[str], measures: Sequence[str]) -> None:
    """Refuse measures that are meaningless for so few images."""
    checks = [SIMILARITY_MEASURES[one].check for one in measures if one in SIMILARITY_MEASURES]
    for kind in kinds:
        for width, check, axis in product(widths_of(kind), checks, ("row", "column")):
            if reason := check(n, width, axis):
                raise ValueError(f"{kind}s: {reason}")


def scores_of(trained: Sequence[Trained], labels: np.ndarray, measure: str) -> dict[str, Score]:
    """Score one measure on the models of one kind.

    Args:
        trained: Models of all conditions, two or more of each.
        labels: Labels of the images.
        measure: See `run_measure_tests`.

    Returns:
        Score and standard error for each of `TESTS`: over networks for the order and distance of layers, else by a
        jackknife over networks or models.
    """
    plain = [one for one in trained if one.condition == _PLAIN]
    found = dict(zip(TESTS[:3], _layers(plain, measure), strict=True))
    matrix = compare_features([one.last for one in trained], measure)
    for name, ways in GROUPS.items():
        chosen = np.array([i for i, one in enumerate(trained) if one.condition in ways])
        groups = np.array([ways.index(trained[i].condition) for i in chosen])
        marked = name == "shortcut"
        own = compare_features([trained[i].last_marked for i in chosen], measure) if marked else _cut(matrix, chosen)
        scores = _of_groups(own, groups)
        found |= {f"{name}, {what}": one for what, one in zip(("precision", "conformity"), scores, strict=True)}
    apart = differences(torch.stack([one.probabilities for one in trained]).numpy(), labels)
    every = np.arange(len(trained))
    for name in ANSWERS:
        found[name] = jackknife(
            every, lambda kept, far=apart[name]: agreement_score(_cut(matrix, kept), _cut(far, kept))
        )
    return found


def _layers(plain: Sequence[Trained], measure: str) -> list[Score]:
    """Score the order and the distance of layers within each network, and how often they match between networks."""
    count, layers = len(plain), len(plain[0].blocks)
    features = [x for one in plain for x in one.blocks.values()]
    matrices = compare_features(features, measure).reshape(count, layers, count, layers).transpose(0, 2, 1, 3)
    within = np.array([order_scores(matrices[i, i]) for i in range(count)])
    errors = stderr_of_mean(within)
    return [*zip(within.mean(0), errors, strict=True), mean_accuracy(matrices)]


def _of_groups(matrix: np.ndarray, groups: np.ndarray) -> list[Score]:
    every = np.arange(len(groups))

    def score(which: int) -> Score:
        return jackknife(every, lambda kept: group_scores(_cut(matrix, kept), groups[kept])[which])

    return [score(0), score(1)]


def _cut(matrix: np.ndarray, kept: np.ndarray) -> np.ndarray:
    return matrix[np.ix_(kept, kept)]


def describe_measure_tests(result: MeasureTests) -> str:
    """State which measures scored best in each test, and on the whole; all are named that share a score.

    Example:
        >>> scores = np.array([[[0.9, 0.5], [0.7, 0.6]]])
        >>> names = (["CNN"], ["cka", "rsa"], ["order", "labels"])
        >>> print(describe_measure_tests(MeasureTests(*names, scores, scores / 10, np.array([0.5, 0.3]))))
        order: cka 0.90 ± 0.09, last rsa 0.70 (chance 0.50).
        labels: rsa 0.60 ± 0.06, last cka 0.50 (chance 0.30).
        Mean rank over 2 tests: cka 1.5, rsa 1.5. Best in all tests: none.
    """
    mean, stderr = result.mean(), result.mean_stderr()
    lines = []
    for test, chance in zip(result.tests, result.chance, strict=True):
        best, worst = (_sharing(mean[test], end) for end in (mean[test].max(), mean[test].min()))
        if best == worst:
            lines.append(f"{test}: all {mean.loc[best[0], test]:.2f} (chance {chance:.2f}).")
            continue
        first = _in_numbers({one: with_error(mean.loc[one, test], stderr.loc[one, test], ".2f") for one in best})
        last = _in_numbers({one: f"{mean.loc[one, test]:.2f}" for one in worst})
        lines.append(f"{test}: {first}, last {last} (chance {chance:.2f}).")
    ranks = result.ranks().mean(axis=1).sort_values()
    everywhere = [one for one in result.measures if (mean.loc[one] >= mean.max() - ROUNDING).all()]
    order = ", ".join(f"{name} {rank:.1f}" for name, rank in ranks.items())
    whole = ", ".join(everywhere) or "none"
    lines.append(f"Mean rank over {len(result.tests)} tests: {order}. Best in all tests: {whole}.")
    return "\n".join(lines)


def _sharing(scores: pd.Series, end: float) -> list[str]:
    """Name the measures with one score, but for rounding."""
    return [name for name, score in scores.items() if abs(score - end) <= ROUNDING]


def _in_numbers(texts: dict[str, str]) -> str:
    """Name measures with their scores, the scores once where all are written alike."""
    names, scores = list(texts), list(dict.fromkeys(texts.values()))
    if len(names) > 1 and len(scores) == 1:
        return f"{', '.join(names)} {scores[0]} each"
    return ", ".join(f"{name} {text}" for name, text in texts.items())
