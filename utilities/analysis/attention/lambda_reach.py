"""How far a lambda layer looks: the attention distance of the hybrids (Bello 2021, https://arxiv.org/abs/2102.08602).

A lambda layer's output is a sum over positions, with weights that `utilities.analysis.attention.lambda_weights` writes
out. They have a content part, which has no place in it, and a position part, whose reach is that of its window. They
are signed. So the distance takes their size, summed over the intra-depth u::

    D = mean over images and queries n of  sum over m of |w[n, m]| |p_n - p_m|  /  sum over m of |w[n, m]|

with w the content weights, the position weights, or their sum. How much each part matters for the output is its share:
the product of the part with the output, over the output's squared norm. The shares of content, position and bias add up
to 1. A part that works against the rest has a share below 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.attention.lambda_weights import LambdaWeights, lambda_weights
from utilities.analysis.attention.places import pixel_distances, step_of_map
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.merging import Total
from utilities.hooks.calls.weights import check_module
from utilities.lambda_layer import LambdaLayer
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions

VALUES = ("content_distance", "position_distance", "distance", "content_share", "position_share")
PIECE = 2**22  # weights that are made at once


@dataclass(frozen=True)
class LambdaReach(Result):
    """How far lambda layers look. Arrays are (layers, heads) unless stated otherwise.

    Attributes:
        names: Names of the lambda layers, in the order of execution.
        content_distance: Mean distance of the content weights, in pixels of the image.
        content_distance_stderr: Its standard error over images.
        position_distance: The same of the position weights.
        position_distance_stderr: Its standard error.
        distance: The same of both together.
        stderr: Its standard error.
        content_share: Share of the content part in the output.
        content_share_stderr: Its standard error.
        position_share: Share of the position part; what is missing to 1 is the bias.
        position_share_stderr: Its standard error.
        uniform_distance: Distance of weights that are equal for all positions, (layers,).
        provenance: What it was made from.
    """

    names: list[str]
    content_distance: np.ndarray
    content_distance_stderr: np.ndarray
    position_distance: np.ndarray
    position_distance_stderr: np.ndarray
    distance: np.ndarray
    stderr: np.ndarray
    content_share: np.ndarray
    content_share_stderr: np.ndarray
    position_share: np.ndarray
    position_share_stderr: np.ndarray
    uniform_distance: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each layer, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row per layer and head."""
        layers, heads = np.indices(self.distance.shape).reshape(2, -1)
        table = {"layer": [self.names[i] for i in layers], "head": heads}
        arrays = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        for name, value in arrays.items():
            table[name] = value[layers, heads] if value.ndim > 1 else value[layers]
        return pd.DataFrame(table)


def lambda_reach(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    queries: int | None = 256,
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> LambdaReach:
    """Measure how far the lambda layers of a model look, by content and by place.

    Args:
        model: A model with layers of `utilities.lambda_layer.LambdaLayer`, whose maps are halved by strides of 2 alone,
            as in this package's Lambda ResNets. It runs in eval mode.
        loader: Yields images of one size, or (images, labels).
        queries: Most positions of a map that are taken as queries; larger maps have as many drawn, the same for all
            images. None takes all.
        seed: Seed of that draw.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Distances and shares, at the layers' own resolution: before the pool of layers with stride 2.

    Raises:
        ValueError: If the model has no lambda layer, ``queries`` is below 1, images differ in size, or there are none.

    Example:
        >>> from utilities.lambda_resnet import lambda_resnet26
        >>> images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = lambda_reach(lambda_resnet26(), [images], device="cpu")
        >>> result.names[0], result.distance.shape
        ('layer1.0.conv2', (8, 4))
    """
    check_module(model)
    if queries is not None and queries < 1:
        raise ValueError(f"queries={queries} should be 1 or more, or None for all")
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LambdaLayer)}
    if not layers:
        raise ValueError(
            f"{type(model).__name__} has no lambda layer; attention_distance, beside this analysis, reads attention"
        )
    readers = {name: _Reader(queries, seed) for name in layers}
    handles = [
        module.register_forward_pre_hook(lambda module, args, name=name: readers[name].read(module, args[0].clone()))
        for name, module in layers.items()
    ]
    count, sizes = Total(), set()
    sums = {name: reader.sums for name, reader in readers.items()}, count
    try:
        with stream(model, loader, device=device, description="lambda reach", progress=progress, sums=sums) as batches:
            for images, _ in batches:
                sizes.add(tuple(images.shape[-2:]))
                if len(sizes) > 1:
                    raise ValueError(f"images are of several sizes, {sorted(sizes)}; distances need images of one size")
                for reader in readers.values():
                    reader.image = tuple(images.shape[-2:])
                model(images)
                count.add(len(images))
    finally:
        for handle in handles:
            handle.remove()
    unused = [name for name, reader in readers.items() if reader.sums.n != count.value]
    if unused:
        raise ValueError(f"{', '.join(unused)} did not run once for each image")
    facts = {"n": count.value, "image_size": list(sizes.pop()), "queries": queries, "seed": seed}
    facts |= {"versions": versions()}
    return _collect(readers, known_facts(provenance, loader) | facts)


def reach_of_weights(weights: LambdaWeights, distances: torch.Tensor) -> torch.Tensor:
    """Compute distances and shares of the parts of a lambda layer, mean over queries.

    Args:
        weights: The layer's weights.
        distances: Pixels between queries and positions, (queries, positions).

    Returns:
        Distance of content, position and both; shares of content and position: (batch, 5, heads).
    """
    parts = (weights.content, weights.position, weights.content + weights.position)
    sizes = [part.abs().sum(2) for part in parts]  # over the intra-depth
    reached = [((size * distances).sum(-1) / size.sum(-1)).mean(-1) for size in sizes]
    outputs = weights.outputs()
    whole = sum(outputs)
    norm = whole.square().sum((2, 3))
    shares = [(part * whole).sum((2, 3)) / norm for part in outputs[:2]]
    return torch.stack([*reached, *shares], 1)


class _Reader:
    """Sums over images of one layer's distances and shares."""

    def __init__(self, most: int | None, seed: int) -> None:
        self.most, self.seed, self.sums = most, seed, Moments()

    def read(self, layer: LambdaLayer, x: torch.Tensor) -> None:
        """Add a batch of the layer's input."""
        if self.sums.n == 0:
            self._place(tuple(x.shape[-2:]))
        queries, distances = self.queries.to(x.device), self.distances.to(x)
        each = layer.Nh * layer.du * distances.numel()
        for piece in x.split(max(1, PIECE // each)):
            self.sums.add(reach_of_weights(lambda_weights(layer, piece, queries), distances[queries]))

    def _place(self, grid: tuple[int, int]) -> None:
        """Draw the queries, and measure the distances from them."""
        self.distances = pixel_distances(grid, step_of_map(self.image, grid))
        self.queries = torch.arange(len(self.distances))
        if self.most is not None and self.most < len(self.queries):
            order = torch.randperm(len(self.queries), generator=torch.Generator().manual_seed(self.seed))
            self.queries = order[: self.most].sort().values


def _collect(readers: Mapping[str, _Reader], provenance: dict[str, Any]) -> LambdaReach:
    means = np.stack([reader.sums.mean for reader in readers.values()], 1)
    errors = np.stack([reader.sums.stderr for reader in readers.values()], 1)
    arrays = {}
    for name, mean, error in zip(VALUES, means, errors, strict=True):
        arrays |= {name: mean, "stderr" if name == "distance" else f"{name}_stderr": error}
    even = np.array([float(reader.distances[reader.queries].mean()) for reader in readers.values()])
    return LambdaReach(list(readers), **arrays, uniform_distance=even, provenance=provenance)
