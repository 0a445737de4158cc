"""How accurate, how confident and how well calibrated a classifier's predictions are.

The measures are those of Park and Kim 2022 (Blurs Behave Like Ensembles, https://arxiv.org/abs/2105.12639). They are
computed from a few numbers kept for each image: about 40 bytes, or 2 MB for the validation set of ImageNet. Every
measure therefore has a standard error over images. Models that saw the same images can be compared image by image, and
nothing depends on the batch size.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.predictions.calibration import bin_index, calibration_error, score
from utilities.analysis.predictions.uncertainty import dropout_log_probabilities, sampling_dropout
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck
from utilities.hooks.calls.options import check_number, check_whole
from utilities.results.formatting import with_error
from utilities.results.result import Result
from utilities.results.statistics import stderr_of_mean, wilson
from utilities.utils import versions

DRAWS = 200  # bootstrap draws: the standard error is then known to 5 %
# Attribute of a result -> its name in tables and figures. The number after the dash is the cutoff in percent.
CLASSIFICATION_MEASURES = {
    "accuracy": "Acc",
    "accuracy_90": "Acc-90",
    "top5": "Top-5",
    "iou": "IoU",
    "iou_90": "IoU-90",
    "unc_90": "Unc-90",
    "freq_90": "Freq-90",
    "nll": "NLL",
    "brier": "Brier",
    "ece": "ECE",
    "signed_ece": "signed ECE",
}
SHARES = ("accuracy", "accuracy_90", "top5", "unc_90", "freq_90")


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _mean_of(measure: str, text: str) -> property:
    """Make a property for a measure that is a mean over images."""
    return property(lambda result: _mean(result.per_image(measure)), doc=text)


@dataclass(frozen=True)
class Classification(Result):
    """A classifier's prediction for each image, and the measures that follow from them.

    A prediction is certain if its confidence is above the cutoff. Measures at a cutoff have ``_90`` in their names,
    whatever the cutoff is. A measure over no images at all is NaN, such as the accuracy where no prediction is certain.

    Attributes:
        labels: True class of each image, (n,).
        predictions: Most probable class, or the first of several equal ones, (n,).
        confidences: Probability of the predicted class, (n,).
        losses: -log p of the true class, in nats, (n,).
        brier_scores: Sum over classes of (p - one-hot)^2, (n,).
        top5_hits: Whether the true class is among the five most probable, (n,); ties count as in ``hits``.
        num_classes: Number of classes of the model.
        cutoff: Confidence above which a prediction is certain.
        bins: Number of bins of the calibration error, see `bin_index`.
        seed: Seed of the bootstrap and of the dropout masks.
        provenance: What it was made from.
        hits: Whether the true class is the most probable, (n,). If several classes tie, this is 1 over their number,
            see `utilities.hooks.calls.labels.hits`. None in older results, where the first of the tied classes counts.
    """

    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    losses: np.ndarray
    brier_scores: np.ndarray
    top5_hits: np.ndarray
    num_classes: int
    cutoff: float = 0.9
    bins: int = 10
    seed: int = 0
    provenance: dict[str, Any] = field(default_factory=dict)
    hits: np.ndarray | None = None

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.labels)

    @property
    def correct(self) -> np.ndarray:
        """Whether each prediction is right: 1, 0, or the chance of being right among tied classes, (n,)."""
        return (self.predictions == self.labels).astype(np.float64) if self.hits is None else self.hits

    @property
    def certain(self) -> np.ndarray:
        """Whether each prediction is certain, that is, confidence > cutoff, (n,)."""
        return self.confidences > self.cutoff

    def per_image(self, measure: str) -> np.ndarray:
        """Return the per-image values whose mean is a measure, for the images that the measure covers.

        Args:
            measure: A key of `CLASSIFICATION_MEASURES`, except ``iou``, ``iou_90`` and ``ece``, which are no means
                over images.
        """
        values = {
            "accuracy": self.correct,
            "accuracy_90": self.correct[self.certain],
            "top5": self.top5_hits,
            "unc_90": ~self.certain[self.predictions != self.labels],
            "freq_90": self.certain,
            "nll": self.losses,
            "brier": self.brier_scores,
            "signed_ece": self.confidences - self.correct,
        }
        if measure not in values:
            raise ValueError(f"measure {measure!r} is no mean over images; choose from {', '.join(values)}")
        return values[measure].astype(np.float64)

    accuracy = _mean_of("accuracy", "Share of predictions that are right.")
    accuracy_90 = _mean_of("accuracy_90", "Share of the certain predictions that are right.")
    top5 = _mean_of("top5", "Share of images whose class is among the five most probable.")
    unc_90 = _mean_of("unc_90", "Share of the wrong predictions that are uncertain; higher is better.")
    freq_90 = _mean_of("freq_90", "Share of predictions that are certain.")
    nll = _mean_of("nll", "Negative log-likelihood, mean of -log p of the truth, in nats: the cross-entropy.")
    brier = _mean_of("brier", "Brier score, mean of the sum over classes of (p - one-hot)^2, 0 to 2.")
    signed_ece = _mean_of(
        "signed_ece", "Sum over bins of n_b / n (confidence_b - accuracy_b); above 0: over-confident."
    )

    @property
    def ece(self) -> float:
        """Expected calibration error, see `calibration_error`."""
        return calibration_error(self.confidences, self.correct, self.bins)

    @property
    def iou(self) -> float:
        """Intersection over union, TP / (TP + FP + FN), averaged over the classes that have images."""
        return self._iou(0.0)[0]

    @property
    def iou_90(self) -> float:
        """Intersection over union of the certain predictions, averaged over the classes that occur among them."""
        return self._iou(self.cutoff)[0]

    def confusion(self, cutoff: float = 0.0) -> np.ndarray:
        """Count the images with confidence above a cutoff, by true class (rows) and prediction (columns)."""
        chosen = self.confidences > cutoff
        cells = self.labels[chosen] * self.num_classes + self.predictions[chosen]
        return np.bincount(cells, minlength=self.num_classes**2).reshape(self.num_classes, -1)

    def _iou(self, cutoff: float) -> tuple[float, float]:
        """Compute the mean IoU above a cutoff, and its standard error from each image's influence on the mean."""
        chosen = self.confidences > cutoff
        truth, predicted = self.labels[chosen], self.predictions[chosen]
        if not len(truth):
            return float("nan"), float("nan")
        hit = truth == predicted
        of_truth, of_prediction, hits = (
            np.bincount(classes, minlength=self.num_classes) for classes in (truth, predicted, truth[hit])
        )
        union = of_truth + of_prediction - hits
        # Single precision, as torchmetrics' multiclass_jaccard_index has it.
        of_class = np.divide(hits, np.maximum(union, 1), dtype=np.float32).astype(np.float64)
        weight = np.where(of_truth > 0, len(truth) / np.maximum(union, 1) / np.count_nonzero(of_truth), 0)
        influence = weight[truth] * (hit - of_class[truth]) - ~hit * weight[predicted] * of_class[predicted]
        return float(of_class[of_truth > 0].mean()), float(stderr_of_mean(influence))

    def interval(self, measure: str) -> tuple[float, float]:
        """Return a measure's interval of one standard error. For shares of images it is Wilson's, see `wilson`."""
        if measure in SHARES:
            values = self.per_image(measure)
            return tuple(end.item() for end in wilson(values.sum(), np.float64(len(values))))
        value, error = getattr(self, measure), self.stderr(measure)
        return value - error, value + error

    def stderr(self, measure: str) -> float:
        """Estimate a measure's standard error over images.

        Args:
            measure: A key of `CLASSIFICATION_MEASURES`.

        Returns:
            The standard error; NaN where there are too few images. For shares of images it is half of Wilson's
            interval, which does not vanish where all of a few images agree. For ECE it comes from a bootstrap, and for
            IoU from the delta method.
        """
        if measure in SHARES:
            low, high = self.interval(measure)
            return (high - low) / 2
        if measure in ("iou", "iou_90"):
            return self._iou(0.0 if measure == "iou" else self.cutoff)[1]
        if measure != "ece":
            return float(stderr_of_mean(self.per_image(measure)))
        if self.n < 2:
            return float("nan")
        random, index = np.random.default_rng(self.seed), bin_index(self.confidences, self.bins)
        draws = (random.integers(self.n, size=self.n) for _ in range(DRAWS))
        gaps = self.confidences - self.correct
        errors = [np.abs(np.bincount(index[rows], weights=gaps[rows])).sum() / self.n for rows in draws]
        return float(np.std(errors, ddof=1))

    def reliability(self) -> pd.DataFrame:
        """Return the bins that the calibration error sums over, see `bin_index`.

        Returns:
            One row per bin: ``lower`` and ``upper`` edge, ``count``, number of right predictions (``hits``),
            ``accuracy`` and mean ``confidence``. The last two are NaN in empty bins.
        """
        index, edges = bin_index(self.confidences, self.bins), np.linspace(0, 1, self.bins + 1)
        sums = {"count": None, "hits": self.correct, "confidence": self.confidences}
        frame = pd.DataFrame({k: np.bincount(index, weights=w, minlength=self.bins) for k, w in sums.items()})
        frame.insert(0, "lower", edges[:-1])
        frame.insert(1, "upper", edges[1:])
        frame["confidence"] /= frame["count"]
        return frame.assign(accuracy=frame["hits"] / frame["count"])

    def name_of(self, measure: str) -> str:
        """Name a measure for tables and figures, with the cutoff in percent: ``Acc-90``."""
        return CLASSIFICATION_MEASURES[measure].replace("-90", f"-{100 * self.cutoff:g}")

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result in one row: model, images, parameters, then each measure and its standard error."""
        facts = {"model": self.provenance.get("model"), "n": self.n, "parameters": self.provenance.get("parameters")}
        for measure in CLASSIFICATION_MEASURES:
            name = self.name_of(measure)
            facts |= {name: getattr(self, measure), f"{name} stderr": self.stderr(measure)}
        return pd.DataFrame([facts])


def classify(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    cutoff: float = 0.9,
    bins: int = 10,
    passes: int | None = None,
    dropout: Sequence[str] | None = None,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Classification:
    """Measure accuracy, calibration and uncertainty of a classifier over all images of a loader.

    Args:
        model: A model that returns logits (batch, classes), or log-probabilities as an
            `utilities.analysis.predictions.uncertainty.Ensemble` does.
        loader: Yields (images, labels).
        cutoff: Confidence above which a prediction is certain, 0 <= cutoff < 1.
        bins: Number of bins of the calibration error.
        passes: Number of passes with dropout on, averaged in probability space. None is a single pass with dropout off.
            Masks are drawn for each batch. With dropout, and only then, the batch size therefore matters a little.
        dropout: Layers that drop, see `utilities.analysis.predictions.uncertainty.dropout_layers`; None is all.
        seed: Seed of the dropout masks and the bootstrap.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts about model and data to keep with the result.

    Returns:
        The predictions and all measures.

    Raises:
        ValueError: If an option is out of range, the model has no dropout to sample or has NaN weights, the loader
            yields no images or no labels, or a label is not one of the model's classes.

    Example:
        >>> images = torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 1.0]])
        >>> result = classify(nn.Flatten(), [(images, torch.tensor([0, 1, 0]))], device="cpu")
        >>> [round(getattr(result, measure), 3) for measure in ("accuracy", "accuracy_90", "freq_90", "unc_90", "ece")]
        [0.667, 1.0, 0.667, 1.0, 0.256]
    """
    check_number("cutoff", cutoff, least=0, below=1)
    check_whole("bins", bins, 1)
    check_whole("seed", seed, 0)
    if passes is not None:
        check_whole("passes", passes, 1)
    if passes is None and dropout is not None:
        raise ValueError(f"dropout={dropout} needs a number of passes")
    parts, check = [], BatchCheck(loader, model)
    options = {"device": device, "description": "predictions", "labelled": True, "progress": progress}
    sampling = nullcontext([]) if passes is None else sampling_dropout(model, dropout)
    with stream(model, loader, sums=(parts, check), **options) as batches, sampling as layers:
        for images, labels in batches:
            if passes is None:
                logits = model(images)
            else:
                logits = dropout_log_probabilities(model, images, passes, (seed, batches.served.number))
            parts.append(score(logits, check(logits, labels)))
    check.finish()
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    facts = known_facts(provenance, loader) | {
        "n": len(arrays["labels"]),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "passes": passes,
        "dropout": layers,
        "seed_of_dropout": seed,
        "versions": versions(),
    }
    return Classification(**arrays, num_classes=check.outputs, cutoff=cutoff, bins=bins, seed=seed, provenance=facts)


def table(results: Mapping[str, Classification]) -> pd.DataFrame:
    """Tabulate results side by side, with one row per measure and one column per model.

    Each cell holds "value ± standard error".

    Args:
        results: Name of the model -> result. All results need the same cutoff.

    Raises:
        ValueError: If the cutoffs differ.
    """
    cutoffs = sorted({result.cutoff for result in results.values()})
    if len(cutoffs) != 1:
        raise ValueError(f"results of one cutoff can be compared, these have {cutoffs or 'none'}")
    columns = {}
    for model, result in results.items():
        values = {
            result.name_of(m): with_error(getattr(result, m), result.stderr(m), ".4f", unknown="")
            for m in CLASSIFICATION_MEASURES
        }
        columns[model] = values | {
            "parameters": f"{result.provenance.get('parameters', 0):,}",
            "images": f"{result.n:,}",
        }
    return pd.DataFrame(columns)
