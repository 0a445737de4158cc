"""Describe what comparisons of layers and of models show, in words that the numbers support."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

import numpy as np
import pandas as pd

from utilities.plots.captions import describe_accuracy
from utilities.results.similarity import Similarity
from utilities.results.statistics import LEVEL

WIDTH = 110
Results = Mapping[tuple[str, str], Similarity]


def describe(result: Similarity) -> str:
    """Describe in two sentences what the matrix of a self-comparison shows.

    Args:
        result: Comparison of a model with itself.

    Example:
        >>> import numpy as np
        >>> matrix = np.array([[1, 0.9, 0.2], [0.9, 1, 0.4], [0.2, 0.4, 1]])
        >>> print(describe(Similarity(matrix, ["a", "b", "c"], ["a", "b", "c"], 10, provenance={"model": "m"})))
        In m, layers that follow each other have a CKA of 0.65 on average, the first and the last one 0.20.
        The sharpest break between neighbours is from b to c, 0.40.
    """
    names, neighbours = result.layers1, np.diagonal(result.matrix, 1)
    weights = f" ({result.provenance['weights']})" if "weights" in result.provenance else ""
    model = f"{result.provenance.get('model', 'the model')}{weights}"
    if not np.isfinite(neighbours).any():
        return f"In {model}, no two layers that follow each other could be compared."
    sharpest = int(np.nanargmin(neighbours))
    return (
        f"In {model}, layers that follow each other have a CKA of "
        f"{np.nanmean(neighbours):.2f} on average, the first and the last one {result.matrix[0, -1]:.2f}.\n"
        f"The sharpest break between neighbours is from {names[sharpest]} to {names[sharpest + 1]}, "
        f"{neighbours[sharpest]:.2f}."
    )


def describe_pair(trained: Similarity, untrained: Similarity | None = None) -> str:
    """Describe where two models agree, next to what chance and their untrained twins give.

    Args:
        trained: Comparison of two models.
        untrained: Comparison of the same two before training, or None.

    Example:
        >>> import numpy as np
        >>> matrix = np.array([[0.9, 0.5], [0.6, 0.8], [0.3, 0.4]])
        >>> facts = {"model1": "cnn", "model2": "vit"}
        >>> print(describe_pair(Similarity(matrix, ["a", "b", "c"], ["x", "y"], 10, provenance=facts)))
        cnn and vit: the best match of a layer of cnn in vit has a similarity of 0.70 on average; layers of the first
        half are matched at a mean depth of 0.50, those of the second half at 1.00 (0 first, 1 last layer of vit).
    """
    one, two = (trained.provenance.get(f"model{k}", f"model {k}") for k in "12")
    match = trained.best_match()
    early, late = (match[match["depth"] <= 0.5], match[match["depth"] > 0.5])
    text = (
        f"{one} and {two}: the best match of a layer of {one} in {two} has a similarity of "
        f"{match['similarity'].mean():.2f} on average; layers of the first half are matched at a mean depth of "
        f"{early['match_depth'].mean():.2f}, those of the second half at {late['match_depth'].mean():.2f} "
        f"(0 first, 1 last layer of {two})."
    )
    if trained.p_value is not None:
        text += f" {100 * np.nanmean(trained.p_value <= LEVEL):.0f}% of all pairs are above chance (p <= {LEVEL} each)."
    if untrained is not None:
        before = untrained.best_match()["similarity"].mean()
        change = np.nanmean(trained.matrix - untrained.matrix)
        text += (
            f" The best match of untrained twins is {before:.2f} on average. Over all pairs training changed the "
            f"similarity by {change:+.2f}."
        )
    return textwrap.fill(text, WIDTH)


def describe_attention(trained: Results, untrained: Results) -> str:
    """Describe what attention changed: how the first model, without attention, agrees with each of the others.

    Args:
        trained: Similarities of all pairs of trained models; see `Group.trained`.
        untrained: Similarities of the same pairs before training.
    """
    (first, *others) = dict.fromkeys(pair[0] for pair in trained)
    lines = [describe_pair(trained[first, other], untrained[first, other]) for other in others]
    gaps = {other: trained[first, other].best_match()["similarity"].mean() for other in others}
    errors = {other: float(np.nanmean(trained[first, other].stderr)) for other in others}
    nearest = max(gaps, key=gaps.__getitem__)
    ranking = ", ".join(f"{other} {gaps[other]:.2f} (mean error of an entry {errors[other]:.2f})" for other in others)
    lines.append(textwrap.fill(f"Nearest to {first} is {nearest}: {ranking}.", WIDTH))
    for name in (first, *others):
        within = [results[name, name].matrix for results in (untrained, trained)]
        before, after = (float(np.nanmean(matrix[np.triu_indices(len(matrix), 1)])) for matrix in within)
        lines.append(
            f"Within {name}, two layers have a similarity of {after:.2f} on average; before training {before:.2f}."
        )
    return "\n".join(lines)


def describe_measures(results: Mapping[str, Similarity]) -> str:
    """Describe where measures disagree: rank correlation of their matrices, and the pair they rank most differently.

    Args:
        results: Name of the measure -> similarity of the same layers.

    Example:
        >>> import numpy as np
        >>> layers = (["a", "b"], ["x", "y"], 10)
        >>> one, two = (Similarity(np.array(m), *layers) for m in ([[0.9, 0.1], [0.2, 0.3]], [[0.8, 0.5], [0.1, 0.2]]))
        >>> print(describe_measures({"cka": one, "rsa": two}))
        cka and rsa: Spearman correlation 0.40 over 4 pairs of layers; most apart on a x y.
    """
    (base, first), *rest = results.items()
    lines = []
    for name, result in rest:
        both = np.isfinite(first.matrix) & np.isfinite(result.matrix)
        ranks = [pd.Series(r.matrix[both]).rank().to_numpy() for r in (first, result)]
        row, column = np.argwhere(both)[np.abs(ranks[0] - ranks[1]).argmax()]
        correlation = np.corrcoef(*ranks)[0, 1]
        lines.append(
            f"{base} and {name}: Spearman correlation {correlation:.2f} over {both.sum()} pairs of layers; most apart "
            f"on {first.layers1[row]} x {first.layers2[column]}."
        )
    return "\n".join(lines)


def describe_datasets(results: Mapping[str, Similarity]) -> str:
    """Describe how a model's self-similarity differs between two data sets, and what is left across them.

    Args:
        results: ``own``, ``other`` and ``across``; see `utilities.study.comparisons.across_datasets`.
    """
    own, other, across = (results[key] for key in ("own", "other", "across"))
    upper = np.triu_indices(len(own.layers1), 1)
    means = [float(np.nanmean(result.matrix[upper])) for result in (own, other)]
    apart = np.abs(own.matrix - other.matrix)
    row, column = np.unravel_index(np.nanargmax(apart), apart.shape)
    above = float(np.nanmean(across.p_value <= LEVEL))
    names = [result.provenance["dataset"] for result in (own, other)]
    model, pair = own.provenance["model"], f"{own.layers1[row]} x {own.layers2[column]}"
    text = (
        f"On {names[0]} two layers of {model} have a similarity of {means[0]:.2f} on average, on {names[1]} "
        f"{means[1]:.2f}; they differ most on {pair}, {own.matrix[row, column]:.2f} and "
        f"{other.matrix[row, column]:.2f}. Across the sets, where image i of one has nothing to do with image i of the "
        f"other, the mean is {np.nanmean(across.matrix):.3f}, and {100 * above:.0f}% of pairs have p <= {LEVEL}: about "
        f"{100 * LEVEL:g}% are expected, and neighbouring layers err together."
    )
    return textwrap.fill(text, WIDTH)


def describe_student(results: Mapping[str, Similarity]) -> str:
    """Describe what a teacher changed: the accuracies, and how close the student's layers come to the teacher's.

    Args:
        results: ``taught`` and ``alone``; see `utilities.study.comparisons.teach`.
    """
    lines = []
    for key, result in results.items():
        last = result.per_batch[:, -1, -1]
        best = result.best_match(axis=0)["similarity"].mean()
        lines.append(
            f"{key}: {describe_accuracy(result.provenance, '2')}; the best match of a layer of the student in "
            f"the teacher {best:.3f} on average; their answers {result.matrix[-1, -1]:.3f} "
            f"(standard error {result.stderr[-1, -1]:.3f}), in single batches {np.nanmin(last):.2f} to "
            f"{np.nanmax(last):.2f}."
        )
    return "\n".join(textwrap.fill(line, WIDTH) for line in lines)
