"""Effects of perturbations over images: intact, perturbed and difference, with errors, intervals and tests."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, paired_p

SIDES = ("intact", "perturbed", "difference")
MEASURES = ("rate", "pooled_rate", "score", "pooled_score", "cls_rate", "accuracy")
WEIGHTS = {
    "self_only": "masked before softmax: each image token's weight on itself is 1",
    "no_cls": "masked before softmax: the weights on other tokens add up to 1",
    "no_cls_unnormalised": "zeroed after softmax: the weights on other tokens add up to less than 1",
    "no_context": "masked before softmax: the weights on the tokens kept add up to 1",
    "no_class": "masked before softmax: the weights on the tokens kept add up to 1",
}


class Estimate(NamedTuple):
    """A mean over images, its standard error, and its bootstrap interval."""

    value: float
    stderr: float
    low: float
    high: float


@dataclass(frozen=True)
class Perturbation(Result):
    """Effects of perturbations on the tokens after the last block, and on the model's answer.

    Rows are perturbations. Sides are `SIDES`; the difference is perturbed minus intact. Measures are `MEASURES`:

    - ``rate`` is the share of image tokens that put the class first, and ``score`` is 1 - rank / classes. Both are
      averaged over each image first, and then over images.
    - ``pooled_rate`` and ``pooled_score`` are averaged over all tokens of all images, so that images with more such
      tokens count more.
    - ``cls_rate`` is the rate of the class token, and ``accuracy`` that of the model.

    All values of a row are over the same images and, for image tokens, the same tokens.

    Attributes:
        kinds: Kind of each row, from `utilities.analysis.class_embedding.perturbation.KINDS`.
        blocks: Indices of the blocks that each row perturbs.
        names: Names of the model's blocks.
        values: Mean values, as fractions, (rows, sides, measures); NaN where there is none.
        stderr: Standard errors of the values over images.
        low: Lower ends of the values' bootstrap intervals over images.
        high: Upper ends of these intervals.
        p: One-sided p-values, paired by image, under the hypothesis that a perturbation does not lower a measure,
            (rows, measures).
        images: Number of images with a value, (rows,).
        tokens: Number of image tokens measured in these images, (rows,).
        provenance: What the result was made from.
    """

    kinds: list[str]
    blocks: list[list[int]]
    names: list[str]
    values: np.ndarray
    stderr: np.ndarray
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    images: np.ndarray
    tokens: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Rate of a token that knows nothing about the class."""
        return 1 / self.provenance["num_classes"]

    def estimate(self, row: int | str, measure: str = "rate", side: str = "difference") -> Estimate:
        """Look up a value with its errors.

        Args:
            row: Index of the row, or a kind, which selects its first row.
            measure: One of `MEASURES`.
            side: One of `SIDES`.

        Raises:
            ValueError: If there is no such kind, measure or side.
        """
        for name, known in ((row, self.kinds), (measure, MEASURES), (side, SIDES)):
            if isinstance(name, str) and name not in known:
                raise ValueError(f"{name!r} is not there; there are {', '.join(dict.fromkeys(known))}")
        row = self.kinds.index(row) if isinstance(row, str) else row
        place = row, SIDES.index(side), MEASURES.index(measure)
        return Estimate(*(float(array[place]) for array in (self.values, self.stderr, self.low, self.high)))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each perturbation and measure, with the errors of the difference."""
        rows = []
        for i, kind in enumerate(self.kinds):
            for j, measure in enumerate(MEASURES):
                which = {"kind": kind, "blocks": ",".join(map(str, self.blocks[i])), "measure": measure}
                values = dict(zip(SIDES, self.values[i, :, j], strict=True))
                errors = {name: getattr(self, name)[i, -1, j] for name in ("stderr", "low", "high")}
                counts = {"images": self.images[i], "tokens": self.tokens[i]}
                rows.append(which | values | errors | {"p": self.p[i, j]} | counts)
        return pd.DataFrame(rows)


def summarise(
    sums: np.ndarray, counts: np.ndarray, *, confidence: float = 0.95, resamples: int = 1000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Turn the counts of each image into means over images and over tokens, with their errors.

    The pooled mean of sums s over counts c is R = sum(s) / sum(c). Its errors are those of the mean over images of R +
    (s - R c) / mean(c), the linearisation of a ratio (Cochran 1977, *Sampling Techniques*, chapter 6).

    Args:
        sums: Four values for each image, perturbation and side (intact, perturbed), (n, rows, 2, 4): number of image
            tokens that put the class first, sum of their scores, whether the class token puts it first, and whether
            the model is right.
        counts: Number of image tokens, (n, rows); an image without any has no value in that row.
        confidence: Confidence level of the intervals.
        resamples: Number of resamples for bootstrap and test.
        seed: Seed of bootstrap and test.

    Returns:
        ``values, stderr, low, high``, (rows, sides, measures); ``p``, (rows, measures); ``images, tokens``, (rows,).

    Example:
        >>> sums = np.array([[[[2, 2, 1, 1], [0, 1, 1, 1]]], [[[1, 1, 0, 0], [1, 1, 0, 0]]]])
        >>> summarise(sums, np.array([[2], [4]]))["values"][0, :, :2].round(3).tolist()
        [[0.625, 0.5], [0.125, 0.167], [-0.5, -0.333]]
    """
    sums = np.stack([sums[:, :, 0], sums[:, :, 1], sums[:, :, 1] - sums[:, :, 0]], 2).astype(np.float64)
    counts = np.where(counts > 0, counts, np.nan).astype(np.float64)[:, :, None, None]
    of_tokens, of_model = sums[..., :2], np.where(np.isnan(counts), np.nan, sums[..., 2:])
    share, there = counts / mean_and_stderr(counts)[0], ~np.isnan(counts)
    means = of_tokens / counts
    additive = means * share  # its mean over images is the pooled mean
    pooled = mean_and_stderr(additive)[0]
    moves = np.where(there, pooled + (means - pooled) * share, np.nan)
    per_image = _in_order(means, moves, of_model)
    mean, stderr = mean_and_stderr(per_image)
    low, high = bootstrap_interval(per_image, confidence=confidence, resamples=resamples, seed=seed)
    p = paired_p(-_in_order(means, additive, of_model)[:, :, 2], resamples=resamples, seed=seed)
    known = there.reshape(len(sums), -1)
    tokens = np.nansum(counts, 0).reshape(-1).astype(np.int64)
    return {
        "values": mean,
        "stderr": stderr,
        "low": low,
        "high": high,
        "p": p,
        "images": known.sum(0),
        "tokens": tokens,
    }


def _in_order(means: np.ndarray, pooled: np.ndarray, of_model: np.ndarray) -> np.ndarray:
    """Arrange rates and scores of both averages, and the model's answers, in the order of `MEASURES`."""
    return np.concatenate([np.stack([means, pooled], -1).reshape(*means.shape[:-1], 4), of_model], -1)
