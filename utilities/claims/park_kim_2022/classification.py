"""Test claims on how well hybrids and CNNs classify."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utilities.analysis.predictions.classification import Classification
from utilities.claims.claim import Claim
from utilities.claims.evidence import not_told, weigh
from utilities.results.formatting import counted, percent
from utilities.results.statistics import stderr_of_mean
from utilities.zoo.families import family

ERRORS = 2  # number of standard errors that a difference has to exceed


def paired_difference(one: Classification, two: Classification, measure: str = "accuracy") -> tuple[float, float]:
    """Compute the difference of a measure between two models, one minus two, and its standard error.

    Both models saw the same images. The error is therefore that of the differences image by image, which is smaller
    than that of two samples.

    Args:
        one: Result of the first model.
        two: Result of the second model, on the same images in the same order.
        measure: Measure that is a mean over all images, see `Classification.per_image`: accuracy, top5, freq_90, nll,
            brier or signed_ece.

    Raises:
        ValueError: If the images differ, or the measure concerns only some of them.

    Example:
        >>> import torch
        >>> from utilities.analysis.predictions.calibration import score
        >>> labels, right = torch.tensor([0, 1, 1, 0]), torch.tensor([[9.0, 0], [0, 9.0], [0, 9.0], [9.0, 0]])
        >>> results = [Classification(**score(x, labels), num_classes=2) for x in (right, right.roll(1, 0))]
        >>> paired_difference(*results)[0]
        0.5
    """
    if not np.array_equal(one.labels, two.labels):
        raise ValueError(
            f"results of {one.n} and {two.n} images have other labels; paired differences need the same images in the "
            "same order"
        )
    values = [result.per_image(measure) for result in (one, two)]
    if {len(value) for value in values} != {one.n}:
        raise ValueError(f"{measure!r} is about some of the images only, so that there are no pairs")
    difference = values[0] - values[1]
    return float(difference.mean()), float(stderr_of_mean(difference))


def claims_of_classification(results: Mapping[str, Classification]) -> list[Claim]:
    """Test what Park and Kim 2022 claim about accuracy.

    Args:
        results: Name of the model -> result on the same images. The first CNN and the first AlterNet are compared.

    Returns:
        One claim. It is decided if the difference exceeds `ERRORS` standard errors.
    """
    claim = (
        "AlterNet, a CNN whose blocks at the end of stages are self-attention, is more accurate than the CNN, on "
        "small data sets too (84.0 % and 82.5 % on CIFAR-100)"
    )
    source = "Park & Kim 2022, abstract, https://arxiv.org/abs/2202.06709"
    cnn = next((name for name in results if family(name) == "cnn"), None)
    hybrid = next((name for name in results if name.startswith("alternet")), None)
    if cnn is None or hybrid is None:
        missing = f"there is no CNN or no AlterNet among {', '.join(results) or 'no models'}"
        return [not_told(claim, source, missing, results)]
    difference, error = paired_difference(results[hybrid], results[cnn])
    found = (
        f"{hybrid} {results[hybrid].accuracy:.1%}, {cnn} {results[cnn].accuracy:.1%}; difference "
        f"{percent(difference, error, ' points', '+.1f')} on the same {counted(results[cnn].n, 'image')}"
    )
    decided = abs(difference) > ERRORS * error
    judged = Claim(claim, source, found, difference > 0 if decided else None)
    return [weigh(judged, {name: results[name] for name in (hybrid, cnn)})]
