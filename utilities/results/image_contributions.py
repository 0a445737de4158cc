"""What each image adds to a similarity: `utilities.compare.image_contributions` returns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result


@dataclass(frozen=True, repr=False)
class ImageContributions(Result):
    """Each image's share in the CKA of pairs of layers.

    Attributes:
        pairs: Pairs of layers, (layer of the first model, layer of the second).
        shares: Share of each image in the similarity of each pair, (pairs, n); their sum is the similarity. Shares of
            images that the two layers place differently are negative.
        agreement: Cosine of the image's similarities to all others in its batch, once by one layer and once by the
            other, (pairs, n). Other than a share, it does not grow with the lengths of features.
        places: Place of each image: its number in the data set where the loader can tell, else in the loader's order.
        labels: Label of each image, -1 where it has none, (n,).
        removed: Numbers of images that are taken away, (k,).
        without: Similarity of each pair without the images of the largest absolute shares, (pairs, k).
        without_top_pc: Similarity of each pair without the first principal component of each layer, (pairs,).
        provenance: Facts about its origin: models, weights, accuracy, data set, estimator, seed, versions.

    Example:
        >>> result = ImageContributions(
        ...     [["a", "b"]], np.array([[0.5, -0.1, 0.2]]), np.ones((1, 3)), np.arange(3), np.array([7, 8, 9]),
        ...     np.array([0]), np.array([[0.6]]), np.array([0.6]),
        ... )
        >>> result.similarity.round(6), result.most(2).tolist(), result.least(1).tolist()
        (array([0.6]), [0, 2], [1])
    """

    pairs: list[list[str]]
    shares: np.ndarray
    agreement: np.ndarray
    places: np.ndarray
    labels: np.ndarray
    removed: np.ndarray
    without: np.ndarray
    without_top_pc: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<ImageContributions: {len(self.pairs)} pairs of layers, n = {self.n}>"

    @property
    def n(self) -> int:
        """Number of images."""
        return self.shares.shape[1]

    @property
    def similarity(self) -> np.ndarray:
        """Similarity of each pair: the sum of the shares, (pairs,)."""
        return self.shares.sum(1)

    def scores(self, pair: int | None = 0, by: str = "shares") -> np.ndarray:
        """Return a number for each image, (n,).

        Args:
            pair: Index of the pair of layers; None is the mean over all pairs.
            by: ``"shares"`` or ``"agreement"``.

        Raises:
            ValueError: If there is no such pair or number.
        """
        if by not in ("shares", "agreement"):
            raise ValueError(f"by={by!r}: choose 'shares' or 'agreement'")
        if pair is not None and not 0 <= pair < len(self.pairs):
            raise ValueError(f"there is no pair {pair}; there are {len(self.pairs)}, the first is 0")
        values = getattr(self, by)
        return values.mean(0) if pair is None else values[pair]

    def most(self, count: int = 8, pair: int | None = 0, by: str = "shares") -> np.ndarray:
        """Find the images on which the layers agree most, the first of all first.

        Args:
            count: Number of images.
            pair: See `scores`.
            by: See `scores`.

        Returns:
            Columns of ``shares``; `places` and `labels` tell which images these are.
        """
        return np.argsort(-self.scores(pair, by), kind="stable")[:count]

    def least(self, count: int = 8, pair: int | None = 0, by: str = "shares") -> np.ndarray:
        """Find the images on which the layers agree least, see `most`."""
        return np.argsort(self.scores(pair, by), kind="stable")[:count]

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each pair and image."""
        count, n = self.shares.shape
        return pd.DataFrame(
            {
                "layer1": np.repeat([one for one, _ in self.pairs], n),
                "layer2": np.repeat([two for _, two in self.pairs], n),
                "image": np.tile(self.places, count),
                "label": np.tile(self.labels, count),
                "share": self.shares.ravel(),
                "agreement": self.agreement.ravel(),
            }
        )
