"""How long a model takes to classify a batch."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import nn

from utilities.utils import evaluating


def prediction_time(
    model: nn.Module, images: torch.Tensor, *, repeats: int = 100, device: str | torch.device = "auto"
) -> tuple[float, float]:
    """Time the prediction of a batch in eval mode, after one pass that is not counted.

    Args:
        model: Any model.
        images: Batch of images, (batch, ...).
        repeats: Number of timed passes, 2 or more.
        device: See `utilities.utils.resolve_device`.

    Returns:
        Mean and standard deviation of the time, in seconds.

    Example:
        >>> mean, deviation = prediction_time(nn.Linear(4, 2), torch.ones(8, 4), repeats=5, device="cpu")
        >>> 0 < mean < 1
        True
    """
    if repeats < 2:
        raise ValueError(f"repeats should be 2 or more for a standard deviation, got {repeats}")
    times = []
    with evaluating(model, device) as target, torch.inference_mode():
        images = images.to(target)
        for _ in range(repeats + 1):
            start = time.perf_counter()
            model(images).sum().item()  # waits until the device is done
            times.append(time.perf_counter() - start)
    return float(np.mean(times[1:])), float(np.std(times[1:], ddof=1))
