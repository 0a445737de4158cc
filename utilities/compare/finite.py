"""Refuse features that are not finite, and say which layer, and which weights, are to blame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from utilities.hooks.calls.weights import check_weights


def refuse_non_finite(
    names: Sequence[list[str]], own: Sequence[torch.Tensor | np.ndarray], models: Sequence[nn.Module] = ()
) -> None:
    """Refuse features that are not finite, judged by their HSIC.

    Args:
        names: The layers of both sides.
        own: HSIC of each layer with itself, perhaps with the confounder's at the end.
        models: The models of these layers; weights that are not finite are blamed.

    Raises:
        ValueError: If there are any; the message names a layer, and the parameter to blame if there is one.

    Example:
        >>> refuse_non_finite([["fc"]], [np.array([1.0])])
    """
    for layers, squares in zip(names, own, strict=True):
        values = torch.as_tensor(squares)[: len(layers)]
        # Features that are not finite make NaN; an infinite HSIC has been too large to add up.
        wrong = {"NaN or infinite features": values.isnan(), "features too large to add up": values.isinf()}
        for what, places in wrong.items():
            bad = [layer for layer, there in zip(layers, places.tolist(), strict=True) if there]
            if bad:
                more = f", as do {len(bad) - 1} more" if len(bad) > 1 else ""
                raise ValueError(f"layer {bad[0]!r} gives {what}{more}; {_remedy(models)}")


def _remedy(models: Sequence[nn.Module]) -> str:
    for model in models:
        try:
            check_weights(model)
        except ValueError as error:
            return str(error)
    if any(isinstance(module, _BatchNorm) for model in models for module in model.modules()):
        return (
            "an untrained model with fresh batch-norm statistics overflows: first call "
            "utilities.training.trainer.estimate_batch_norm"
        )
    return "look at the images' scale, and whether the model's type is wide enough for what it computes"
