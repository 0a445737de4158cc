"""On which images two opened models agree: pairs of layers that match best, and the images to be shown."""

from __future__ import annotations

import numpy as np
import torch

from utilities.compare.image_shares import image_contributions
from utilities.datasets.images import ImageDataset
from utilities.datasets.pixels import to_pictures
from utilities.results.image_contributions import ImageContributions
from utilities.study.real_weights import Opened, compare_pair


def contributions_of_matches(first: Opened, second: Opened, count: int = 3) -> ImageContributions:
    """Compute each image's share in the similarity of layers of the first model with their best matches in the second.

    Args:
        first: A model, from `utilities.study.real_weights.open_models`.
        second: Another one.
        count: Number of layers of the first model, evenly spaced from its first to its last.

    Returns:
        The shares, one pair of layers for each of these layers.
    """
    similarity = compare_pair(first, second)
    matches = similarity.best_match()
    chosen = matches.iloc[np.unique(np.linspace(0, len(matches) - 1, count).round().astype(int))]
    pairs = list(zip(chosen.index, chosen["match"], strict=True))
    facts = {key: value for key, value in similarity.provenance.items() if key not in ("measure", "estimator")}
    return image_contributions(first.model, second.model, first.loader, second.loader, pairs=pairs, provenance=facts)


def describe_contributions(result: ImageContributions) -> str:
    """State each similarity, and what is left of it without its most dominant images.

    Example:
        >>> result = ImageContributions(
        ...     [["a", "b"]], np.array([[0.5, -0.1, 0.2]]), np.ones((1, 3)), np.arange(3), np.array([7, 8, 9]),
        ...     np.array([0, 1]), np.array([[0.6, 0.4]]), np.array([0.6]),
        ... )
        >>> print(describe_contributions(result))
        a with b: 0.60, and 0.40 without the 1 most dominant of 3 images.
    """
    last = result.removed[-1]
    return "\n".join(
        f"{one} with {two}: {whole:.2f}, and {left:.2f} without the {last} most dominant of {result.n:,} images."
        for (one, two), whole, left in zip(result.pairs, result.similarity, result.without[:, -1], strict=True)
    )


def extremes(
    result: ImageContributions, data: ImageDataset, count: int = 8, pair: int | None = 0, by: str = "shares"
) -> dict[str, np.ndarray]:
    """Fetch the images on which layers agree most and least, as `utilities.plots.similarity.plot_extremes` takes them.

    Args:
        result: Shares of images.
        data: The data set of the loader that they were computed with.
        count: Number of images of each kind.
        pair: See `ImageContributions.scores`.
        by: See `ImageContributions.scores`.

    Returns:
        ``most`` and ``least``, each (count, height, width, 3), values 0 to 1.
    """

    def fetch(columns: np.ndarray) -> np.ndarray:
        images = torch.stack([data[int(place)][0] for place in result.places[columns]])
        return to_pictures(images, data.mean, data.std)

    return {"most": fetch(result.most(count, pair, by)), "least": fetch(result.least(count, pair, by))}
