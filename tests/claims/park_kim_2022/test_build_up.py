"""Verdicts on the build-up, and its figure."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from utilities.analysis.predictions.calibration import score
from utilities.analysis.predictions.classification import Classification
from utilities.claims.park_kim_2022.build_up import claims_of_build_up
from utilities.plots.predictions.build_up import plot_build_up


def classified(right, n=400):
    """Make a result with so many of n images right."""
    labels = torch.zeros(n, dtype=torch.long)
    logits = torch.tensor([[0.0, 2.0]]).repeat(n, 1)
    logits[:right] = torch.tensor([2.0, 0.0])
    return Classification(**score(logits, labels), num_classes=2, provenance={"model": f"m{right}", "n": n})


@pytest.mark.parametrize(
    ("right", "whole", "each"),
    [
        ((300, 330, 360), True, True),
        ((300, 330, 330), True, None),
        ((300, 250, 360), True, False),
        ((300, 301, 300), None, None),
        ((330, 315, 300), False, False),
    ],
)
def test_verdicts(right, whole, each):
    claims = claims_of_build_up({f"msa{i}": classified(count) for i, count in enumerate(right)})
    assert [claim.holds for claim in claims] == [whole, each]
    assert f"{(right[-1] - right[0]) / 4:+.1f} ±" in claims[0].found


def test_figure_shows_accuracy_and_loss_of_each_step():
    steps = {f"msa{i}": classified(count) for i, count in enumerate((300, 330, 360))}
    figure = plot_build_up(steps, {"vit": classified(200)})
    accuracy, loss = (ax.containers[0].lines[0].get_ydata().astype(float) for ax in figure.axes)
    np.testing.assert_allclose(accuracy, [75, 82.5, 90])
    np.testing.assert_allclose(loss, [result.nll for result in steps.values()])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["vit", "the steps"]
    plt.close(figure)
