"""The time of a batch."""

import pytest
import torch
from torch import nn

from utilities.analysis.predictions.prediction_time import prediction_time


def test_prediction_time():
    mean, deviation = prediction_time(nn.Linear(3, 2), torch.zeros(4, 3), repeats=3, device="cpu")
    assert 0 < mean < 1
    assert deviation >= 0
    with pytest.raises(ValueError, match="repeats should be 2 or more"):
        prediction_time(nn.Linear(3, 2), torch.zeros(4, 3), repeats=1, device="cpu")
