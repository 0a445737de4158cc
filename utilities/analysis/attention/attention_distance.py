"""Mean attention distance: how far, in pixels of the image, each head of each block looks.

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Fig. 3. For head h with weights A_h after softmax::

    D_h = mean over images and queries i of  sum over keys j of A_h[i, j] |p_i - p_j|

where p is the place of a token in pixels: patch size times its row and column. Tokens without a place, such as the
class token and registers, are left out as queries and as keys, and the other weights of each query are normalised
again. Entropy, -sum over j of A_h[i, j] ln A_h[i, j], stands beside it: a head may look far and still at few places.
Attention that spreads evenly over all keys that a query may attend to is the reference.

Within windows, as in Swin, places are those within the window; one token's step is the image's size over that of the
stage. What a cyclic shift brings together from opposite ends of the image is masked there, and is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.attention.eager import attention_matrices
from utilities.analysis.attention.layers import AttentionLayer, attention_layers
from utilities.analysis.attention.places import Places, Size
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.merging import Total
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions

PIECE = 2**19  # weights that a thread reduces at once: 2 MB, which stay in a core's cache from step to step


@dataclass(frozen=True)
class AttentionDistance(Result):
    """How far heads look, and how many places they look at.

    Arrays are (layers, heads) unless stated otherwise; layers with fewer heads than the most are filled up with NaN.

    Attributes:
        names: Names of the attention layers, in the order of depth.
        distance: Mean attention distance in pixels of the image, mean over images.
        stderr: Its standard error over images.
        entropy: Mean entropy of a query's weights in nats, mean over images.
        entropy_stderr: Its standard error over images.
        uniform_distance: Distance of attention that is spread evenly over the allowed keys, (layers,).
        uniform_entropy: Its entropy, (layers,).
        provenance: What it was made from.
    """

    names: list[str]
    distance: np.ndarray
    stderr: np.ndarray
    entropy: np.ndarray
    entropy_stderr: np.ndarray
    uniform_distance: np.ndarray
    uniform_entropy: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each layer, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    @property
    def order(self) -> np.ndarray:
        """Heads of each layer from the most local to the most global, (layers, heads); NaN comes last."""
        return np.argsort(self.distance, axis=1, kind="stable")

    @property
    def sorted_distance(self) -> np.ndarray:
        """Distances of each layer's heads in ascending order, as in the paper's figures; NaN comes last."""
        return np.take_along_axis(self.distance, self.order, 1)

    @property
    def sorted_stderr(self) -> np.ndarray:
        """Standard errors of `sorted_distance`."""
        return np.take_along_axis(self.stderr, self.order, 1)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row per layer and head."""
        layers, heads = np.nonzero(np.isfinite(self.distance))
        table = {"layer": [self.names[i] for i in layers], "head": heads}
        for name in ("distance", "stderr", "entropy", "entropy_stderr"):
            table[name] = getattr(self, name)[layers, heads]
        for name in ("uniform_distance", "uniform_entropy"):
            table[name] = getattr(self, name)[layers]
        return pd.DataFrame(table)


def attention_distance(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> AttentionDistance:
    """Measure how far each attention head looks, in pixels of the image.

    Args:
        model: See `utilities.analysis.attention.layers.attention_layers`. It runs in eval mode, and its attention is
            computed step by step meanwhile.
        loader: Yields images of one size, or (images, labels).
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Distance and entropy of all heads. They are NaN for a head with a query that gives no weight to any place.

    Raises:
        ValueError: If the model's attention cannot be read or has no places in the image, if images differ in size, or
            if there are none.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = attention_distance(vit_tiny_patch2_16(depth=2), [images], device="cpu")
        >>> result.names, result.distance.shape, result.uniform_distance.round(2)
        (['blocks.0.attn', 'blocks.1.attn'], (2, 3), array([8.27, 8.27]))
    """
    readers = [_Reader(layer) for layer in attention_layers(model)]
    layers = {reader.layer.name: reader.layer.module for reader in readers}
    visits = {reader.layer.name: reader.visit for reader in readers}
    count, size = Total(), None
    sums = {reader.layer.name: reader.sums for reader in readers}, count
    run = {"device": device, "description": "attention distance", "progress": progress}
    with (
        stream(model, loader, sums=sums, **run) as batches,
        attention_matrices(layers, visits),
    ):
        for images, _ in batches:
            size = _same_size(size, images)
            for reader in readers:
                reader.begin(size, len(images))
            model(images)
            count.add(len(images))
            _refuse_other_calls(model, readers, count.value)
    facts = {"n": count.value, "image_size": list(size), "versions": versions()}
    return _collect(readers, known_facts(provenance, loader) | facts)


def distance_and_entropy(weights: torch.Tensor, places: Places, images: int) -> torch.Tensor:
    """Compute distance and entropy of attention weights, mean over the queries of each image.

    Args:
        weights: Attention weights, (images * windows, heads, queries, keys), with images varying slowest. They are
            normalised over the keys that have a place.
        places: Places of queries and keys.
        images: Number of images.

    Returns:
        Distance in pixels and entropy in nats, (images, 2, heads), in the precision of the weights, float32 at least.

    Example:
        >>> swapped = torch.eye(2).flip(0)  # each of two tokens looks at the other
        >>> distance_and_entropy(swapped[None, None], Places((1, 2), (4, 4)), 1)[0, :, 0].abs()
        tensor([4., 0.])
    """
    first = places.prefix
    weights = weights[..., first:, first:].unflatten(0, (images, -1))
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    like = {"device": weights.device, "dtype": weights.dtype}
    distances = places.distances().to(**like)
    allowed = None if places.allowed is None else places.allowed.to(**like)[:, None]
    present = None if places.present is None else places.present.to(**like)[:, None]
    most = PIECE * torch.get_num_threads()
    heads = max(1, most // weights[0, :, 0].numel())
    pieces = (part.split(heads, 2) for part in weights.split(max(1, most // weights[0].numel())))
    return torch.cat(
        [torch.cat([_reduced(piece, distances, allowed, present) for piece in part], 2) for part in pieces]
    )


def _reduced(
    weights: torch.Tensor, distances: torch.Tensor, allowed: torch.Tensor | None, present: torch.Tensor | None
) -> torch.Tensor:
    """Reduce weights, (images, windows, heads, queries, keys), to distance and entropy, (images, 2, heads)."""
    if allowed is not None:
        weights = weights * allowed
    total = weights.sum(-1)
    work = weights * distances
    moved = work.sum(-1) / total
    torch.add(weights, torch.finfo(weights.dtype).tiny, out=work)  # a weight of 0 adds 0 times a finite number
    entropy = total.log() - work.log_().mul_(weights).sum(-1) / total
    values = torch.stack([moved, entropy], 1)
    if present is None:
        return values.mean((2, 4))
    return (values * present).sum((2, 4)) / present.sum()


class _Reader:
    """Sums over images of one layer's distance and entropy."""

    def __init__(self, layer: AttentionLayer) -> None:
        self.layer, self.sums = layer, Moments()

    def begin(self, size: Size, images: int) -> None:
        """Prepare for the weights of a batch."""
        if self.sums.n == 0:
            self.places = self.layer.places(size)
        self.images = images

    def visit(self, weights: torch.Tensor) -> None:
        """Add the weights of a batch."""
        tokens = self.places.prefix + self.places.count
        if weights.shape[-2:] != (tokens, tokens):
            raise ValueError(
                f"attention of {self.layer.name} is {weights.shape[-2]} queries x {weights.shape[-1]} keys, not the "
                f"{self.places.prefix} + {self.places.grid[0]}x{self.places.grid[1]} tokens that the model was made "
                "for; give images of its own size"
            )
        self.sums.add(distance_and_entropy(weights.detach(), self.places, self.images))

    def uniform(self) -> torch.Tensor:
        """Return distance and entropy of attention spread evenly over what is allowed, (2,)."""
        even = self.places.uniform()
        return distance_and_entropy(even, _without_prefix(self.places), 1)[0, :, 0]


def _without_prefix(places: Places) -> Places:
    return Places(places.grid, places.step, 0, places.allowed, places.present)


def _same_size(before: Size | None, images: torch.Tensor) -> Size:
    size = tuple(images.shape[-2:])
    if before not in (None, size):
        raise ValueError(
            f"images are of {before[0]}x{before[1]} and of {size[0]}x{size[1]} pixels: distances in pixels need images "
            "of one size"
        )
    return size


def _refuse_other_calls(model: nn.Module, readers: list[_Reader], count: int) -> None:
    """Refuse layers that did not run once for each image."""
    other = [reader.layer.name for reader in readers if reader.sums.n != count]
    if other:
        raise ValueError(
            f"{', '.join(other)} of {type(model).__name__} gave no attention weights, or gave them more than once for "
            "an image; each layer should run once in a forward pass, and hand its weights to attn_drop"
        )


def _collect(readers: list[_Reader], provenance: dict[str, Any]) -> AttentionDistance:
    heads = max(reader.sums.mean.shape[-1] for reader in readers)

    def padded(value: str) -> np.ndarray:
        rows = [np.asarray(getattr(reader.sums, value)) for reader in readers]
        return np.stack([np.pad(row, ((0, 0), (0, heads - row.shape[-1])), constant_values=np.nan) for row in rows], 1)

    (distance, entropy), (stderr, entropy_stderr) = padded("mean"), padded("stderr")
    even = torch.stack([reader.uniform() for reader in readers]).numpy()
    return AttentionDistance(
        [reader.layer.name for reader in readers],
        distance,
        stderr,
        entropy,
        entropy_stderr,
        even[:, 0],
        even[:, 1],
        provenance=provenance,
    )
