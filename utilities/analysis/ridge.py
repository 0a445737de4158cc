"""Ridge regression of class labels in closed form, from sums that are accumulated batch by batch.

It solves many problems of one width that share their labels, such as one for each token position of a block. Targets
are +1 for an image's class and -1 for all others, with one intercept for each class, as in the linear probes of Vilas
et al. 2023 (https://arxiv.org/abs/2310.18969). The sums are in float64, so one pass over batches gives the same
solution as all images at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from utilities.hooks.calls.options import check_number


class RidgeSums:
    """The sums over data that ridge regression needs, for many problems at once.

    Let X be the features and Y the targets. The sums are X'X and, for each class, the number of its samples and the
    sum of their features. The latter determine X'Y = 2 (sums of the classes) - (sum of all), so Y is never built.

    Attributes:
        gram: X'X, (problems, width, width).
        class_sums: Sum of the features of each class, (problems, classes, width).
        counts: Number of samples of each class, (classes,).

    Example:
        >>> sums = RidgeSums(problems=1, width=1, num_classes=2)
        >>> sums.add(torch.tensor([[[-1.0]], [[1.0]]]), torch.tensor([0, 1]))
        >>> weights, intercept = sums.solve(alpha=1.0)
        >>> print(f"{weights[0, 0, 1]:.4f} {intercept[0, 1]:.4f}")  # 2 / (2 + alpha)
        0.6667 0.0000
    """

    def __init__(self, problems: int, width: int, num_classes: int, device: str | torch.device = "cpu") -> None:
        options = {"dtype": torch.float64, "device": device}
        self.gram = torch.zeros(problems, width, width, **options)
        self.class_sums = torch.zeros(problems, num_classes, width, **options)
        self.counts = torch.zeros(num_classes, **options)

    @staticmethod
    def bytes_needed(problems: int, width: int, num_classes: int) -> int:
        """Count the bytes that the sums take.

        Example:
            >>> RidgeSums.bytes_needed(problems=50, width=768, num_classes=1000)
            543129600
        """
        return 8 * problems * width * (width + num_classes)

    def add(self, features: torch.Tensor, labels: torch.Tensor) -> None:
        """Add samples.

        Args:
            features: Features of each sample and problem, (samples, problems, width).
            labels: Class of each sample, from 0 to classes - 1, (samples,).
        """
        x = features.to(self.gram).transpose(0, 1)
        labels = labels.to(self.gram.device)
        self.gram.baddbmm_(x.mT, x)
        self.class_sums.index_add_(1, labels, x)
        self.counts += torch.bincount(labels, minlength=len(self.counts))

    def merge(self, other: RidgeSums) -> None:
        """Add the samples of other sums.

        Raises:
            ValueError: If the other sums are of another shape.
        """
        if other.class_sums.shape != self.class_sums.shape:
            ours, theirs = tuple(self.class_sums.shape), tuple(other.class_sums.shape)
            raise ValueError(f"sums of (problems, classes, width) {ours} and {theirs} are not of one regression")
        self.gram += other.gram
        self.class_sums += other.class_sums
        self.counts += other.counts

    def varies(self) -> bool:
        """Tell whether the features of any problem differ from sample to sample by more than the rounding of float32.

        Example:
            >>> sums = RidgeSums(problems=1, width=1, num_classes=2)
            >>> sums.add(torch.tensor([[[0.1]], [[0.1]]]), torch.tensor([0, 1]))
            >>> sums.varies()
            False
        """
        n = self.counts.sum()
        of_mean = (self.class_sums.sum(1) / n).square().sum(1) * n
        spread = self.gram.diagonal(dim1=1, dim2=2).sum(1) - of_mean
        return bool((spread > (8 * torch.finfo(torch.float32).eps) ** 2 * of_mean).any())

    def scatter(self, problem: int) -> torch.Tensor:
        """Compute the Gram matrix of a problem's centred features, (width, width).

        Example:
            >>> sums = RidgeSums(problems=1, width=1, num_classes=2)
            >>> sums.add(torch.tensor([[[1.0]], [[3.0]]]), torch.tensor([0, 1]))
            >>> sums.scatter(0).item()
            2.0
        """
        n = float(self.counts.sum())
        mean = self.class_sums[problem].sum(0) / n
        return self.gram[problem] - n * torch.outer(mean, mean)

    def solve(self, alpha: float | Sequence[float] = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Minimise |Y - X W - b|^2 + alpha |W|^2 for each problem; b is not penalised.

        With features and targets centred, W = (X'X + alpha I)^-1 X'Y. Column c of Y is 2 (class is c) - 1, so column c
        of the centred X'Y is 2 (sum of class c - its count * mean of all).

        Args:
            alpha: Strength of the penalty, above 0: one for all problems, or one for each.

        Returns:
            Weights, (problems, width, classes), and intercepts, (problems, classes), both in float64. A sample's scores
            are ``features @ weights + intercept``.

        Raises:
            ValueError: If there are no samples, or alpha is not above 0.
        """
        penalties = [alpha] * len(self.gram) if isinstance(alpha, (int, float)) else list(alpha)
        for penalty in penalties:
            check_alpha(penalty)
        n = float(self.counts.sum())
        if n == 0:
            raise ValueError("ridge regression needs samples; none were added")
        means = self.class_sums.sum(1) / n
        weights = torch.empty_like(self.class_sums).mT.contiguous()
        # One at a time: all centred matrices at once would double the memory.
        for problem, (penalty, mean, solution) in enumerate(zip(penalties, means, weights, strict=True)):
            scatter = self.scatter(problem)
            scatter.diagonal().add_(penalty)
            covariance = 2 * (self.class_sums[problem] - torch.outer(self.counts, mean)).T
            solution.copy_(torch.cholesky_solve(covariance, torch.linalg.cholesky(scatter)))
        intercept = 2 * self.counts / n - 1 - torch.einsum("pd,pdc->pc", means, weights)
        return weights, intercept


def check_alpha(alpha: float) -> None:
    """Refuse a penalty that leaves a problem with fewer samples than features without a unique solution.

    Raises:
        ValueError: If the penalty is refused; the message names it.

    Example:
        >>> check_alpha(0)
        Traceback (most recent call last):
        ValueError: alpha=0 should be a number above 0, such as 1
    """
    check_number("alpha", alpha, above=0, hint=", such as 1")
