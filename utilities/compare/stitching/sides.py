"""Run both models of a stitch on paired images, and record the layers of each, arranged by positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.compare.paired_batches import PairedBatches
from utilities.compare.stitching.shapes import Shape, shape_of
from utilities.hooks.calls.batch_parts import split_batch
from utilities.hooks.calls.labels import as_labels, need_labels
from utilities.hooks.layout import Layout
from utilities.hooks.recorder import Recorder


class Batch(NamedTuple):
    """A batch as both models take it, on their devices, with its labels."""

    images1: torch.Tensor
    images2: torch.Tensor
    labels: torch.Tensor


class Seen(NamedTuple):
    """What both models make of a batch: arranged features by layer, and outputs."""

    features1: dict[str, torch.Tensor]
    features2: dict[str, torch.Tensor]
    output1: Any
    logits2: Any


class ShapeRecorder(Recorder):
    """Record layers arranged by positions, and keep how each is arranged.

    Attributes:
        shapes: Name -> how a layer's output is arranged, known once the model has run.
        size: Height and width of the images, to be set before the model runs.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str]) -> None:
        super().__init__(model, list(layers), strict=True)
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", None)
        self.own = tuple(grid) if isinstance(grid, (tuple, list)) and len(grid) == 2 else None
        self.layout, self.size = Layout(model), torch.Size([1, 1])
        self._names = {model.get_submodule(name): name for name in self.layers}
        self.shapes: dict[str, Shape] = {}

    def keep(self, value: torch.Tensor, module: nn.Module) -> torch.Tensor:
        """Arrange a layer's output, in memory of its own."""
        shape = shape_of(value, module, self.layout, self.size, self.own)
        self.shapes[self._names[module]] = shape
        return shape.arrange(value).clone()

    def read(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], Any]:
        """Run the model on images: name -> features, and the model's output."""
        self.size = images.shape[-2:] if images.ndim == 4 else torch.Size([1, 1])
        with self:
            output = self.run(images)
        found, self.activations = self.activations, {}
        return found, output


@dataclass
class Sides:
    """Both models, with a recorder each, or one for both where they are the same.

    Attributes:
        models: The models.
        recorders: Record the layers of each.
        devices: Where they run.
    """

    models: tuple[nn.Module, nn.Module]
    recorders: tuple[ShapeRecorder, ShapeRecorder]
    devices: tuple[torch.device, torch.device]

    @classmethod
    def of(
        cls,
        models: tuple[nn.Module, nn.Module],
        layers: tuple[Sequence[str], Sequence[str]],
        devices: tuple[torch.device, torch.device],
    ) -> Sides:
        """Prepare to record some layers of each model."""
        if models[0] is models[1]:
            both = ShapeRecorder(models[0], list(dict.fromkeys([*layers[0], *layers[1]])))
            return cls(models, (both, both), devices)
        return cls(models, (ShapeRecorder(models[0], layers[0]), ShapeRecorder(models[1], layers[1])), devices)

    def see(self, batch: Batch) -> Seen:
        """Run both models on a batch; one pass does for a model that is given the same images twice."""
        first, output = self.recorders[0].read(batch.images1)
        if self.models[0] is self.models[1] and batch.images1 is batch.images2:
            return Seen(first, first, output, output)
        second, logits = self.recorders[1].read(batch.images2)
        return Seen(first, second, output, logits)

    def batches(self, pairs: PairedBatches, description: str, progress: bool) -> Iterator[Batch]:
        """Serve paired batches on the models' devices.

        Raises:
            ValueError: If a batch has no labels.
        """
        bar = tqdm(pairs.read(), total=pairs.length, desc=description, delay=2, leave=False, disable=not progress)
        for _, one, two in bar:
            yield self.on_devices(one, two)

    def on_devices(self, one: Any, two: Any) -> Batch:
        """Take images and labels out of paired batches."""
        (images1, labels), (images2, _) = split_batch(one), split_batch(two)
        need_labels(labels, "stitching needs labels:")
        moved = images1.to(self.devices[0])
        same = images2 is images1 and self.devices[0] == self.devices[1]
        return Batch(moved, moved if same else images2.to(self.devices[1]), as_labels(labels).to(self.devices[1]))
