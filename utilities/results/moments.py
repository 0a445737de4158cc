"""Sums over streamed images in float64: mean, standard error, and what is kept of them."""

from __future__ import annotations

import numpy as np
import torch


def precise(values: torch.Tensor) -> torch.Tensor:
    """Convert to float64, or to float32 on Apple's GPUs, which lack float64.

    Raises:
        TypeError: If values are complex, because their imaginary part would be lost.

    Example:
        >>> precise(torch.zeros(1, dtype=torch.bfloat16)).dtype
        torch.float64
    """
    if values.is_complex():
        raise TypeError("a layer gives complex features, which have no such analysis: leave it out, or take its parts")
    return values.to(torch.float32 if values.device.type == "mps" else torch.float64)


class Moments:
    """Mean and spread over images of values of any shape, accumulated batch by batch in float64.

    Sums of squared deviations are merged as in Chan, Golub and LeVeque 1983, so that neither the batch size nor a large
    mean costs precision.

    Attributes:
        n: Number of images so far.
        mean: Mean over these images, in the shape of one image's values.

    Example:
        >>> moments = Moments()
        >>> moments.add(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
        >>> moments.add(torch.tensor([[5.0, 5.0]]))
        >>> moments.n, moments.mean.tolist(), moments.variance.tolist()
        (3, [3.0, 5.0], [4.0, 0.0])
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: np.ndarray = np.zeros(())
        self._squares: np.ndarray = np.zeros(())

    def add(self, values: torch.Tensor | np.ndarray) -> None:
        """Add a batch with one value or one array of values per image, (batch, ...)."""
        if isinstance(values, torch.Tensor):
            values = precise(values.detach().cpu()).numpy()
        batch = Moments()
        batch.n, batch.mean = len(values), np.asarray(values, np.float64).mean(0)
        batch._squares = ((values - batch.mean) ** 2).sum(0)
        self.merge(batch)

    def merge(self, later: Moments) -> None:
        """Add the images of other moments."""
        if not later.n:
            return
        total, change = self.n + later.n, later.mean - self.mean
        self.mean = self.mean + change * (later.n / total)
        self._squares = self._squares + later._squares + change**2 * (self.n * later.n / total)
        self.n = total

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance over images; NaN for a single image."""
        return self._squares / (self.n - 1) if self.n > 1 else np.full_like(self._squares, np.nan)

    @property
    def stderr(self) -> np.ndarray:
        """Standard error of the mean; NaN for a single image."""
        return np.sqrt(self.variance / max(self.n, 1))
