"""What is kept of each classified image, and how well confidences agree with accuracies.

Guo et al. 2017, *On Calibration of Modern Neural Networks*, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from utilities.labels import check_batch, hits


def score(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Reduce a batch's logits to the numbers kept of each image, computed in float64 from log-softmax.

    Args:
        logits: Or logarithms of probabilities, (batch, classes).
        labels: Integers, (batch,).

    Returns:
        ``labels, predictions``: int64, of equal logits the first; ``confidences``: the largest probability;
        ``losses``: -log p of the label, in nats; ``brier_scores``: sum over classes of (p - one-hot)^2, 0 to 2;
        ``hits, top5_hits``: whether the label is the largest, or among the five largest, ties by
        `utilities.labels.hits`. Each of shape (batch,).

    Raises:
        ValueError: If shapes do not fit, labels are no classes of the model, or a logit is not a number, see
            `utilities.labels.check_batch`.

    Example:
        >>> scores = score(torch.tensor([[0.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
        >>> scores["confidences"].round(4).tolist(), scores["losses"].round(4).tolist()
        ([0.5, 0.8808], [0.6931, 0.1269])
    """
    labels = check_batch(logits, labels).cpu()
    logits = logits.detach().cpu().double()
    log_p = logits.log_softmax(1)
    p = log_p.exp()
    confidences, predictions = p.max(1)
    one_hot = nn.functional.one_hot(labels, p.shape[1])
    values = {
        "labels": labels,
        "predictions": predictions,
        "confidences": confidences,
        "losses": -log_p.gather(1, labels[:, None])[:, 0],
        "brier_scores": (p - one_hot).square().sum(1),
        "hits": hits(logits, labels),
        "top5_hits": hits(logits, labels, 5),
    }
    return {name: value.numpy() for name, value in values.items()}


def bin_index(confidences: np.ndarray, bins: int) -> np.ndarray:
    """Sort confidences into bins of equal width.

    Bin b holds b / bins <= confidence < (b + 1) / bins, compared in float32, where edges such as 0.3 are what they
    look like; the last bin is closed on the right, as in Guo et al. 2017, and holds confidences of exactly 1.

    Args:
        confidences: In 0..1, (n,).
        bins: Their number.

    Returns:
        0 to ``bins`` - 1, (n,).

    Example:
        >>> bin_index(np.array([0.49, 0.5, 0.99, 1.0]), 10).tolist()
        [4, 5, 9, 9]
    """
    inner = torch.linspace(0, 1, bins + 1)[1:-1]
    return torch.bucketize(torch.as_tensor(confidences).float(), inner, right=True).numpy()


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Compute the expected calibration error, sum over bins of n_b / n |accuracy_b - confidence_b|.

    Guo et al. 2017, https://arxiv.org/abs/1706.04599. Without confidences of exactly 1, to which torchmetrics'
    ``multiclass_calibration_error`` gives a bin of their own, it is the same with ``norm="l1"``, in float64.

    Args:
        confidences: (n,).
        correct: Whether each prediction is right, (n,).
        bins: See `bin_index`.

    Returns:
        0 to 1; NaN of no images.

    Example:
        >>> round(calibration_error(np.ones(10), np.arange(10) < 1), 4)  # always sure, right once in ten times
        0.9
    """
    if not len(confidences):
        return float("nan")
    gaps = np.bincount(bin_index(confidences, bins), weights=confidences - correct)
    return float(np.abs(gaps).sum() / len(confidences))


def wilson(hits: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give Wilson's interval of one standard error about shares: of use where they are near 0 or 1, or few.

    Wilson 1927, https://doi.org/10.2307/2276774.

    Args:
        hits: How many.
        count: Of how many.

    Returns:
        Lower and upper ends; NaN where the count is 0.

    Example:
        >>> low, high = wilson(np.array([3.0]), np.array([3.0]))
        >>> low.item(), high.item()
        (0.75, 1.0)
    """
    with np.errstate(invalid="ignore"):
        spread = np.sqrt(hits * (1 - np.divide(hits, count)) + 0.25) / (count + 1)
    centre = (hits + 0.5) / (count + 1)
    return centre - spread, centre + spread
