"""The numbers kept for each classified image, and how well confidences agree with accuracies.

Guo et al. 2017, *On Calibration of Modern Neural Networks*, https://arxiv.org/abs/1706.04599.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from utilities.hooks.calls.labels import check_batch, hits


def score(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, np.ndarray]:
    """Reduce a batch's logits to the numbers kept for each image.

    Everything is computed in float64 from log-softmax.

    Args:
        logits: Logits or log-probabilities, (batch, classes).
        labels: Integer labels, (batch,).

    Returns:
        A dictionary of arrays, each of shape (batch,):

        ``labels, predictions``: int64; the prediction is the first of several equal logits.
        ``confidences``: the largest probability.
        ``losses``: -log p of the label, in nats.
        ``brier_scores``: sum over classes of (p - one-hot)^2, 0 to 2.
        ``hits, top5_hits``: whether the label has the largest logit, or one of the five largest. Ties count as in
        `utilities.hooks.calls.labels.hits`.

    Raises:
        ValueError: If shapes do not fit, a label is not one of the model's classes, or a logit is NaN. See
            `utilities.hooks.calls.labels.check_batch`.

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

    Bin b holds b / bins <= confidence < (b + 1) / bins. The comparison is in float32, where edges such as 0.3 are what
    they look like. The last bin is closed on the right, as in Guo et al. 2017, and holds confidences of exactly 1.

    Args:
        confidences: Confidences in 0..1, (n,).
        bins: Number of bins.

    Returns:
        Index of each confidence's bin, 0 to ``bins`` - 1, (n,).

    Example:
        >>> bin_index(np.array([0.49, 0.5, 0.99, 1.0]), 10).tolist()
        [4, 5, 9, 9]
    """
    inner = torch.linspace(0, 1, bins + 1)[1:-1]
    return torch.bucketize(torch.as_tensor(confidences).float(), inner, right=True).numpy()


def calibration_error(confidences: np.ndarray, correct: np.ndarray, bins: int = 10) -> float:
    """Compute the expected calibration error, the sum over bins of n_b / n |accuracy_b - confidence_b|.

    See Guo et al. 2017, https://arxiv.org/abs/1706.04599. The value equals torchmetrics'
    ``multiclass_calibration_error`` with ``norm="l1"``, but in float64. The two differ only where confidences are
    exactly 1, because torchmetrics puts those into a bin of their own.

    Args:
        confidences: Confidence of each prediction, (n,).
        correct: Whether each prediction is right, (n,).
        bins: Number of bins, see `bin_index`.

    Returns:
        The error, 0 to 1; NaN if there are no images.

    Example:
        >>> round(calibration_error(np.ones(10), np.arange(10) < 1), 4)  # always sure, right once in ten times
        0.9
    """
    if not len(confidences):
        return float("nan")
    gaps = np.bincount(bin_index(confidences, bins), weights=confidences - correct)
    return float(np.abs(gaps).sum() / len(confidences))
