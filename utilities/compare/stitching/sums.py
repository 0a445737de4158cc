"""Ridge regression of one layer's features on another's, for many pairs of layers, from sums over batches in float64.

For a pair of layers, X holds the first one's features at each position of each image, and Y the second one's. With both
centred, W = (X'X + s t I)^-1 X'Y, where t is the mean variance of a feature times the number of samples, and s the
penalty. Sums of what several pairs share are kept once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from utilities.hooks.calls.merging import Sums

# Penalties that are tried, in units of the features' mean variance. Below the first, they are rounding.
PENALTIES = tuple(10.0**power for power in (-10, -8, -6, -5, -4, -3, -2, -1, 0, 1))
Key = tuple  # names a set of features: layer of model 1 and source, or layer of model 2 and part


class FeatureSums(Sums):
    """Sums of X'X of some features, X'Y of pairs of them, and all means.

    Attributes:
        counts: Key -> number of samples.
        totals: Key -> sum of the features, (width,).
        grams: Key of inputs -> X'X, (width, width).
        squares: Key of targets -> sum of the squares of each feature, (width,).
        crosses: (key of inputs, key of targets) -> X'Y, (width1, width2).
    """

    ADDS = ("counts", "totals", "grams", "squares", "crosses")

    def __init__(self) -> None:
        self.counts: dict[Key, int] = {}
        self.totals: dict[Key, torch.Tensor] = {}
        self.grams: dict[Key, torch.Tensor] = {}
        self.squares: dict[Key, torch.Tensor] = {}
        self.crosses: dict[tuple[Key, Key], torch.Tensor] = {}

    def add(
        self, inputs: dict[Key, torch.Tensor], targets: dict[Key, torch.Tensor], pairs: Sequence[tuple[Key, Key]]
    ) -> None:
        """Add samples.

        Args:
            inputs: Key -> features, (samples, width1).
            targets: Key -> features, (samples, width2).
            pairs: Keys of inputs and of targets that a map leads from and to.
        """
        inputs, targets = ({key: _exact(x) for key, x in side.items()} for side in (inputs, targets))
        for key, x in {**inputs, **targets}.items():
            self.counts[key] = self.counts.get(key, 0) + len(x)
            _plus(self.totals, key, x.sum(0))
        for key, x in inputs.items():
            _plus(self.grams, key, x.T @ x)
        for key, y in targets.items():
            _plus(self.squares, key, y.square().sum(0))
        for one, two in pairs:
            _plus(self.crosses, (one, two), inputs[one].T @ targets[two].to(inputs[one].device))


def _exact(x: torch.Tensor) -> torch.Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # Apple's GPUs have no float64


def _plus(sums: dict, key: object, value: torch.Tensor) -> None:
    sums[key] = sums[key].add_(value) if key in sums else value


@dataclass(frozen=True)
class Affine:
    """An affine map y = x W + b, as a regression finds it.

    Attributes:
        weight: W, (width1, width2), float64.
        bias: b, (width2,).
        penalty: Ridge penalty in units of the features' mean variance.
        r2: Share of the targets' variance that it explains on the samples that it is fitted to.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    penalty: float
    r2: float

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Map features (..., width1) to (..., width2), in float64 where the device has it."""
        kind = torch.float32 if x.device.type == "mps" else torch.float64
        return x.to(kind) @ self.weight.to(x.device, kind) + self.bias.to(x.device, kind)


class Regressions:
    """Solve for all maps of some sums; what several share is decomposed once.

    Args:
        fitted: Sums of the samples to fit to.
        held_out: Sums of other samples, on which penalties are chosen, and which are fitted to as well in the end; None
            where the penalty is given.

    Example:
        >>> sums, x = FeatureSums(), torch.tensor([[0.0], [1.0], [2.0]])
        >>> sums.add({"x": x}, {"y": 3 * x + 1}, [("x", "y")])
        >>> found = Regressions(sums).solve("x", "y", 1e-10)
        >>> round(found.weight.item(), 6), round(found.bias.item(), 6), round(found.r2, 6)
        (3.0, 1.0, 1.0)
    """

    def __init__(self, fitted: FeatureSums, held_out: FeatureSums | None = None) -> None:
        self.fitted, self.held_out, self.whole = fitted, held_out, fitted
        if held_out is not None:
            self.whole = FeatureSums()
            self.whole.merge(fitted)
            self.whole.merge(held_out)
        self._spectra: dict[tuple[int, Key], tuple[torch.Tensor, torch.Tensor]] = {}

    def solve(self, one: Key, two: Key, penalty: float | None = None) -> Affine:
        """Fit the map from one set of features to another.

        Args:
            one: Key of the inputs.
            two: Key of the targets.
            penalty: See `PENALTIES`; None chooses the one with the smallest squared error on the held-out samples.
        """
        if penalty is None:
            penalty = PENALTIES[int(torch.stack([self._error(one, two, each) for each in PENALTIES]).argmin())]
        weight, bias = self._map(self.whole, one, two, penalty)
        left, total = squared_error(self.whole, one, two, weight, bias), _variation(self.whole, two)
        return Affine(weight, bias, penalty, float(1 - left / total) if total > 0 else float("nan"))

    def _error(self, one: Key, two: Key, penalty: float) -> torch.Tensor:
        return squared_error(self.held_out, one, two, *self._map(self.fitted, one, two, penalty))

    def _map(self, sums: FeatureSums, one: Key, two: Key, penalty: float) -> tuple[torch.Tensor, torch.Tensor]:
        values, vectors = self._spectrum(sums, one)
        n, totals = sums.counts[one], sums.totals
        means = totals[one] / n, totals[two].to(vectors.device) / n
        covariance = sums.crosses[one, two] - n * torch.outer(*means)
        strength = penalty * float(values.mean())
        scale = torch.where(values + strength > 0, 1 / (values + strength), 0.0)
        weight = vectors @ (scale[:, None] * (vectors.T @ covariance))
        return weight, means[1] - means[0] @ weight

    def _spectrum(self, sums: FeatureSums, key: Key) -> tuple[torch.Tensor, torch.Tensor]:
        """Return eigenvalues and eigenvectors of the centred X'X."""
        known = id(sums), key
        if known not in self._spectra:
            mean = sums.totals[key] / sums.counts[key]
            values, vectors = torch.linalg.eigh(sums.grams[key] - sums.counts[key] * torch.outer(mean, mean))
            self._spectra[known] = values.clamp(min=0), vectors
        return self._spectra[known]


def squared_error(sums: FeatureSums, one: Key, two: Key, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Compute the squared error of a map on the samples of some sums, over all features of the target.

    sum |y - x W - b|^2 = y'y - 2 <W, X'Y> - 2 b'y + <W, X'X W> + 2 b'(x W) + n b'b, with sums x, y over samples.

    Args:
        sums: Sums of the samples.
        one: Key of the inputs.
        two: Key of the targets.
        weight: W, (width1, width2).
        bias: b, (width2,).

    Returns:
        The error, a number in float64; rounding may leave it a little below 0.

    Example:
        >>> sums, x = FeatureSums(), torch.ones(2, 1)
        >>> sums.add({"x": x}, {"y": 3 * x}, [("x", "y")])
        >>> squared_error(sums, "x", "y", torch.ones(1, 1).double(), torch.ones(1).double()).item()
        2.0
    """
    x, y = sums.totals[one], sums.totals[two].to(weight.device)
    quadratic = (weight * (sums.grams[one] @ weight)).sum() + 2 * bias @ (x @ weight) + sums.counts[one] * bias @ bias
    return (
        sums.squares[two].sum().to(weight.device)
        - 2 * (weight * sums.crosses[one, two]).sum()
        - 2 * bias @ y
        + quadratic
    )


def _variation(sums: FeatureSums, key: Key) -> torch.Tensor:
    """Sum the squared deviations of some targets from their means."""
    left = sums.squares[key].sum() - sums.totals[key].square().sum() / sums.counts[key]
    return left if left > 1e-12 * sums.squares[key].sum() else torch.zeros(())
