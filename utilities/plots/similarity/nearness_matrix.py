"""Heatmap of which of two models a model is nearer to, pair of layers by pair of layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from utilities.plots.paper import PaperFigure
from utilities.plots.similarity.comparison import marked_heatmap
from utilities.plots.similarity.nearness import describe_three
from utilities.results.images import describe_images
from utilities.results.matrix_difference import MatrixDifference
from utilities.results.similarity_difference import SimilarityDifference
from utilities.results.statistics import LEVEL


def plot_nearness_matrix(result: SimilarityDifference, **options: Any) -> PaperFigure:
    """Draw the difference of two matrices of similarities, with dots on the pairs of layers that stand out among all.

    Args:
        result: Difference of whole matrices, of ``match="all"``. Layers of the shared model form the vertical axis.
        **options: ``width``, ``caption`` and ``ticks``, as in `utilities.plots.similarity.plot_results`.

    Returns:
        The figure. Above zero, the first other model is nearer. A dot marks a pair whose p-value among all pairs of
        layers is 0.05 or less.

    Raises:
        ValueError: If the result has one difference for each layer.

    Example:
        >>> one, two = np.array([[0.9, 0.5]]), np.array([[0.6, 0.5]])
        >>> none = np.zeros((1, 2))
        >>> result = MatrixDifference(
        ...     ["a"], ["x", "y"], ["x", "v"], one, two, one - two, *[none] * 6, np.array([[0.01, 1.0]]),
        ...     np.array([[4.0, 0.0]]), np.ones(3), 2.0, {"difference": 0.15, "p_value": 0.2}, 10,
        ... )
        >>> plot_nearness_matrix(result).axes[0].collections[0].get_offsets().tolist()
        [[0.0, 0.0]]
    """
    if not isinstance(result, MatrixDifference):
        raise ValueError("this result has one difference for each layer: plot_nearness draws it")
    table, facts = result.to_similarity(), result.provenance
    top = float(np.nanmax(np.abs(result.difference), initial=0)) or 0.01
    model, one, two = result.names
    return marked_heatmap(
        table,
        result.difference,
        result.p_family <= LEVEL,
        f"{model}: nearer to {one} (above 0)\nor to {two} (below 0)",
        ". ".join([*describe_three(result), describe_images(facts, result.n), _note(result)]),
        table.provenance["measure"],
        {"vmin": -top, "vmax": top, "cmap": "vlag"},
        **options,
    )


def _note(result: MatrixDifference) -> str:
    found, there = int((result.p_family <= LEVEL).sum()), int(np.isfinite(result.difference).sum())
    whole = result.whole
    text = f"Dots: p <= {LEVEL} among all pairs of layers, {found:,} of {there:,}."
    if there:
        text += f" Largest: {result.difference[result.place]:+.3f}, {result.largest}, p = "
        text += f"{result.p_family[result.place]:.2g} among all."
    return f"{text} All layers: {whole['difference']:+.3f}, p = {whole['p_value']:.2g}."
