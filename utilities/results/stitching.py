"""What is left of a network's accuracy when it goes on from another one's features.

`utilities.compare.stitch` returns it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.result import Result

CLOSED, TRAINED = "closed form", "trained"


@dataclass(frozen=True, repr=False)
class Stitching(Result):
    """How the second model classifies where an affine map of the first one's features takes the place of its own.

    Pairs that were not stitched are NaN.

    Attributes:
        layers1: Layers of the first model, whose features are read.
        layers2: Layers of the second model, whose outputs are replaced.
        fits: How maps were fitted: ``closed form`` and perhaps ``trained``.
        accuracy: Top-1 accuracy of the stitched network, (fits, layers1, layers2).
        accuracy_stderr: Its standard error over test images.
        drop_stderr: Standard error, image by image, of the second model's own accuracy less the stitched one.
        agreement: Share of test images for which the stitched network names the class that the second model names.
        cross_entropy: Mean cross entropy of the stitched network, in nats.
        cross_entropy_stderr: Its standard error over test images.
        parts: What has an affine map of its own: ``positions``, which share one, and prefix tokens.
        r2: Share of the variance of the second model's features that the closed-form maps explain on test images,
            1 - sum |y - T(x)|² / sum |y - m|² with m the mean of y over the test images, and over positions where these
            share a map, (parts, layers1, layers2). It is negative where a map is worse than that mean.
        r2_fit: The same on the training images, with their own mean.
        penalty: Ridge penalty in units of the mean variance of the features, (parts, layers1, layers2).
        own: Accuracy of the first and of the second model by themselves, (2,); NaN for a model that does not tell the
            same classes.
        own_stderr: Its standard errors.
        own_cross_entropy: Mean cross entropies of both, (2,).
        chance: Accuracy of always naming the most frequent class of the test images, or 1 / classes if that is more.
        n: Number of test images.
        adapted: "LAYER1 -> LAYER2" to how shapes were brought together.
        refused: "LAYER1 -> LAYER2" to the reason why these cannot be stitched.
        provenance: Facts about its origin: models, weights, data set, numbers of images, options, seed, versions.

    Example:
        >>> two = np.array([0.9, 0.8])
        >>> one, none = np.array([[[0.7]]]), np.zeros((1, 1, 1))
        >>> fits, parts = ["closed form"], ["positions"]
        >>> result = Stitching(["a"], ["b"], fits, *[one] * 6, parts, none, none, none, two, two, two)
        >>> result.drop().round(6), result.pairs
        (array([[0.1]]), [('a', 'b')])
    """

    layers1: list[str]
    layers2: list[str]
    fits: list[str]
    accuracy: np.ndarray
    accuracy_stderr: np.ndarray
    drop_stderr: np.ndarray
    agreement: np.ndarray
    cross_entropy: np.ndarray
    cross_entropy_stderr: np.ndarray
    parts: list[str]
    r2: np.ndarray
    r2_fit: np.ndarray
    penalty: np.ndarray
    own: np.ndarray
    own_stderr: np.ndarray
    own_cross_entropy: np.ndarray
    chance: float = 0.0
    n: int = 0
    adapted: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Stitching: {len(self.pairs)} pairs of layers, n = {self.n}>"

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The pairs that were stitched, by the depth of the first model's layer."""
        return [(self.layers1[i], self.layers2[j]) for i, j in self.places]

    @property
    def places(self) -> list[tuple[int, int]]:
        """Row and column of each pair that was stitched."""
        return [(int(i), int(j)) for i, j in np.argwhere(np.isfinite(self.accuracy[0]))]

    @property
    def matched(self) -> bool:
        """Whether each layer of the first model feeds at most one of the second, and the other way round."""
        return len(self.places) == len({i for i, _ in self.places}) == len({j for _, j in self.places})

    def drop(self, fit: int | str = -1) -> np.ndarray:
        """Return what the stitch costs: the second model's own accuracy less the stitched one, (layers1, layers2).

        Args:
            fit: How the maps were fitted: one of `fits`, or its index; by default the last one.
        """
        return self.own[1] - self.accuracy[self.place_of(fit)]

    def place_of(self, fit: int | str) -> int:
        """Find the index of a way of fitting.

        Raises:
            ValueError: If maps were not fitted in this way.
        """
        if isinstance(fit, str) and fit not in self.fits:
            raise ValueError(f"maps were not fitted as {fit!r}; there are {', '.join(self.fits)}")
        return self.fits.index(fit) if isinstance(fit, str) else range(len(self.fits))[fit]

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each way of fitting and pair."""
        rows = []
        values = ("accuracy", "accuracy_stderr", "drop_stderr", "agreement", "cross_entropy", "cross_entropy_stderr")
        for k, fit in enumerate(self.fits):
            for i, j in self.places:
                one, two = self.layers1[i], self.layers2[j]
                row = {"layer1": one, "layer2": two, "fit": fit} | {
                    name: getattr(self, name)[k, i, j] for name in values
                }
                row |= {"drop": self.own[1] - row["accuracy"]}
                for name in ("r2", "r2_fit", "penalty"):
                    found = zip(self.parts, getattr(self, name)[:, i, j], strict=True)
                    row |= {f"{name} {part}": value for part, value in found}
                rows.append(row | {"shapes": self.adapted.get(f"{one} -> {two}", "")})
        return pd.DataFrame(rows)
