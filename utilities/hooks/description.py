"""Tabulate the layers of any model, to choose from."""

from __future__ import annotations

from math import prod
from typing import Any

import pandas as pd
import torch
from torch import nn

from utilities.hooks.recorder import Forward, Recorder
from utilities.hooks.selection import Layers, kind_of, select_layers


class _Shapes(Recorder):
    """Record shapes, for a table of all layers."""

    _quiet = True

    def keep(self, value: torch.Tensor, module: nn.Module) -> tuple[int, ...]:
        return tuple(value.shape[1:])


def describe(
    model: nn.Module, images: Any = None, layers: Layers = "*", *, forward: Forward | None = None
) -> pd.DataFrame:
    """Tabulate a model's layers, to choose from.

    Args:
        model: Any module.
        images: A batch to run the model on, (batch, ...), of two or more images; None does not run the model.
        layers: See `select_layers`.
        forward: How to run the model on the batch, see `Recorder`.

    Returns:
        A row for each layer, by name: ``type``, ``shape`` (of the output for one image), ``width`` (number of
        values in it) and ``parameters`` (including those of its submodules). Rows are in the order of execution, and
        a repeated call has a row of its own, ``name#2``. Without images, rows are in the order of registration. Shape
        and width are None for a layer that has no row for each image, and for one that did not run, which comes last.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
        >>> describe(model, torch.zeros(4, 2))
             type  shape  width  parameters
        name
        0  Linear   (3,)      3           9
        1    ReLU   (3,)      3           0
    """
    shapes: dict[str, tuple[int, ...] | None] = {}
    if images is not None:
        with _Shapes(model, layers, strict=False, forward=forward) as recorder:
            recorder.run(images)
        shapes = recorder.activations
    shapes = shapes | {name: None for name in select_layers(model, layers) if name not in shapes}
    modules = [model.get_submodule(name.partition("#")[0]) for name in shapes]
    return pd.DataFrame(
        {
            "type": [kind_of(module) for module in modules],
            "shape": pd.Series(list(shapes.values()), dtype=object),
            "width": pd.Series([None if shape is None else prod(shape) for shape in shapes.values()], dtype="Int64"),
            "parameters": [sum(parameter.numel() for parameter in module.parameters()) for module in modules],
        }
    ).set_axis(pd.Index(shapes, name="name"))
