"""Make what hands over each layer's batch as a comparison needs it: of a running model, or of kept features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from utilities.compare.features.folder import KeptFeatures
from utilities.compare.features.reading import FeatureReader, Keep, view_of_kept
from utilities.compare.kept_layers import KeptLayer, feature_layer, gram_layer
from utilities.compare.options import ComparisonOptions
from utilities.hooks.precision import Precision
from utilities.hooks.recorder import Layers, Recorder
from utilities.hooks.views import make_view


class _Features(Recorder):
    """Record a running model's layers, and keep of each what a function makes of it."""

    def __init__(self, model: nn.Module, layers: Layers | None, keep: Keep, **options: Any) -> None:
        super().__init__(model, layers, innermost=True, **options)
        self._keep = keep

    def keep(self, value: torch.Tensor, module: nn.Module) -> KeptLayer:
        return self._keep(value, module)


def recorder_of(
    model: nn.Module,
    layers: Layers | None,
    options: ComparisonOptions,
    which: int,
    strict: bool | None,
    precision: Callable[[], Precision],
) -> Recorder | FeatureReader:
    """Make the recorder of one side; its activations are of `KeptLayer`.

    Args:
        model: A model, or kept features.
        layers: See `utilities.hooks.select_layers`.
        options: Choices of the comparison.
        which: Number of the side, 0 or 1.
        strict: See `utilities.hooks.Recorder`.
        precision: Function without arguments that returns the precision in force.

    Raises:
        ValueError: For layers that do not exist, or a view that does not go with the model.

    Example:
        >>> recorder_of(nn.Sequential(nn.ReLU()), None, ComparisonOptions(), 0, None, None).layers
        ['0']
    """
    view, forward = ((options.view1, options.forward1), (options.view2, options.forward2))[which]
    kept = isinstance(model, KeptFeatures)
    rows = make_view(view_of_kept(model, view) if kept else view, model)
    make = gram_layer if options.measure == "cka" else feature_layer

    def keep(value: torch.Tensor, module: nn.Module) -> KeptLayer:
        shape = module.facts["shape"] if kept else value.shape[1:]  # of the output, whatever view of it was kept
        return replace(make(rows(value, module), precision()), shape=tuple(shape))

    if kept:
        return FeatureReader(model, layers, keep, strict)
    return _Features(model, layers, keep, strict=strict, forward=forward, batch_axis=options.batch_axis)
