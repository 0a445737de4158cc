"""Test claims of Raghu et al. 2021 on which layers of a CNN and a ViT are alike (Figs. 1 and 2)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.claims.claim import Claim, judge
from utilities.claims.evidence import weigh
from utilities.results.formatting import with_error
from utilities.results.similarity import Similarity
from utilities.zoo.families import family

PAPER = "Raghu et al. 2021"
THIRD = 1 / 3


def claims_of_similarity(results: Mapping[tuple[str, str], Similarity]) -> list[Claim]:
    """Test the claims on similarities of all pairs of a CNN and a ViT.

    Args:
        results: (model of the rows, model of the columns) -> similarity; each model with itself, and CNN with ViT.

    Returns:
        The claims: a ViT's low and high layers are more alike than a CNN's; the CNN's lower half is found in the ViT's
        lower third; the ViT's upper third resembles no layer of the CNN as much as its lower layers do.

    Raises:
        ValueError: If a pair is missing.
    """
    names = {family(one): one for one, two in results if one == two}
    pair = next((pair for pair in results if [family(name) for name in pair] == ["cnn", "vit"]), None)
    if pair is None or not {"cnn", "vit"} <= names.keys():
        raise ValueError(
            "results should hold a CNN and a ViT, each with itself, and the CNN's rows by the ViT's columns"
        )
    models = {name: results[name, name] for name in pair}
    return [
        weigh(claim, models) for claim in (_uniform(models, names), _lower_half(results[pair]), _top(results[pair]))
    ]


def _uniform(models: Mapping[str, Similarity], names: Mapping[str, str]) -> Claim:
    text = "lower and higher layers of a ViT are far more alike than those of a CNN"
    (cnn, error), (vit, other) = (_across(models[names[kind]]) for kind in ("cnn", "vit"))
    found = (
        f"mean similarity of layers of the lowest third with layers of the highest third: "
        f"{with_error(vit, other, '.2f')} in {names['vit']}, {with_error(cnn, error, '.2f')} in {names['cnn']}"
    )
    short = f"{with_error(vit, other, '.2f')} in {names['vit']}, {with_error(cnn, error, '.2f')} in {names['cnn']}"
    return Claim(text, f"{PAPER}, Fig. 1", found, judge(vit - cnn, float(np.hypot(error, other))), short=short)


def _across(result: Similarity) -> tuple[float, float]:
    """Return the mean similarity of the lowest with the highest third of the layers, and its standard error.

    Entries share their images, so that their errors are taken to be one and the same: the mean of the errors.
    """
    count = max(1, round(THIRD * len(result.layers1)))
    return _mean(result, slice(0, count), slice(-count, None))


def _mean(result: Similarity, rows: slice, columns: slice) -> tuple[float, float]:
    error = np.nan if result.stderr is None else float(np.nanmean(result.stderr[rows, columns]))
    return float(np.nanmean(result.matrix[rows, columns])), error


def _lower_half(result: Similarity) -> Claim:
    text = "the lower half of a CNN's layers resembles the lowest third of a ViT's layers"
    match = result.best_match()
    depths = match["match_depth"][match["depth"] <= 0.5]
    share = float((depths <= THIRD).mean())
    found = (
        f"{share:.0%} of the {len(depths)} layers of the CNN's lower half have their best match in the ViT's lowest "
        f"third, at a mean depth of {depths.mean():.2f} (0 first, 1 last layer)"
    )
    short = f"{share:.0%} of {len(depths)} layers of the CNN's lower half"
    # Neighbouring layers match together, so that a binomial error would be too small; three of four is the criterion.
    verdict = True if share >= 0.75 else False if share < 0.5 else None
    return Claim(text, f"{PAPER}, Fig. 2", found, verdict, short=short)


def _top(result: Similarity) -> Claim:
    text = "the highest third of a ViT's layers is unlike any layer of a CNN"
    match = result.best_match(axis=0)
    best, errors = match["similarity"].to_numpy(), _best_errors(result)
    count = max(1, round(THIRD * len(best)))
    (high, error), (low, other) = (
        (np.nanmean(best[part]), np.nanmean(errors[part])) for part in (slice(-count, None), slice(0, -count))
    )
    found = (
        f"the best match in the CNN is {with_error(high, error, '.2f')} on average for layers of the ViT's highest "
        f"third, {with_error(low, other, '.2f')} for those below"
    )
    short = f"best match {with_error(high, error, '.2f')} in the highest third, {with_error(low, other, '.2f')} below"
    return Claim(text, f"{PAPER}, Fig. 2", found, judge(low - high, float(np.hypot(error, other))), short=short)


def _best_errors(result: Similarity) -> np.ndarray:
    """Return the standard error of each column's largest entry."""
    rows = np.nanargmax(np.nan_to_num(result.matrix, nan=-np.inf), 0)
    columns = np.arange(result.matrix.shape[1])
    return np.full(len(columns), np.nan) if result.stderr is None else result.stderr[rows, columns]
