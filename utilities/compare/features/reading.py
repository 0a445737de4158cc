"""Play kept features back to a comparison, as a recorder hands over those of a running model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from utilities.compare.features.folder import KeptFeatures
from utilities.hooks.left_out import warn_of_left_out
from utilities.hooks.selection import Layers, only_excludes, select_layers
from utilities.hooks.views import View

Keep = Callable[[torch.Tensor, nn.Module], Any]


class FeatureReader:
    """Read batches of kept features, with the face of `utilities.hooks.Recorder`.

    Args:
        model: The kept features.
        layers: See `utilities.hooks.select_layers`; None takes all that were kept.
        keep: Function of a layer's output (batch, ...), and of what stands for the layer.
        strict: Whether a layer that cannot be kept so, as it lacks what a view asks for, is an error or left out with a
            warning. None is an error where layers are named.

    Attributes:
        default: Whether no layers were named.
        activations: Mapping from name to what is kept of the last batch, in the order of execution.
    """

    def __init__(self, model: KeptFeatures, layers: Layers | None, keep: Keep, strict: bool | None = None) -> None:
        self.model, self._keep = model, keep
        self.layers = select_layers(model, "*" if layers is None else layers)
        self.default = layers is None or only_excludes(layers)
        self.strict = not self.default if strict is None else strict
        self.activations: dict[str, Any] = {}
        wanted = set(self.layers)
        self._names = [name for name in model.layers if name.partition("#")[0] in wanted]
        self._first = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, rows: torch.Tensor) -> None:
        """Read the rows of a batch, (batch, 1)."""
        numbers, found, left_out = rows.cpu().numpy().ravel(), {}, {}
        for name in self._names:
            try:
                values = self.model.read(name, numbers).to(rows.device)
                found[name] = self._keep(values, self.model.outputs.held[name])
            except ValueError as error:
                if self.strict or not self._first:
                    raise ValueError(f"layer {name!r}: {error}") from error
                left_out[name] = f": {error}"
        if left_out:
            warn_of_left_out(self.model, left_out)
            self._names = list(found)
        self.activations, self._first = found, False


def view_of_kept(model: KeptFeatures, asked: View) -> View:
    """Return the view to take of what was kept.

    Raises:
        ValueError: If a view was kept, and another one is asked for.
    """
    if model.view == "flatten" or (asked == "flatten" and model.view.startswith("function ")):
        return asked
    if asked != model.view:
        said = "leave view= out" if model.view.startswith("function ") else f"take view={model.view!r}"
        raise ValueError(
            f"{model.path} keeps the view {model.view!r} of each output, not {asked!r}; {said}, or keep all"
        )
    return "flatten"
