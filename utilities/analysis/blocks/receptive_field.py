"""Effective receptive fields: which pixels move what a layer holds in the middle of its grid?

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Figs. 6 and C.1-C.4, after Luo et al. 2016,
https://arxiv.org/abs/1701.04128: the gradient of the mean over channels at the central position with respect to each
pixel, its absolute value averaged over images. It is taken after each block's residual sum, and before it, of the
branch alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.blocks.gradient_extent import half_radius, own_share, pooled
from utilities.analysis.blocks.pixel_gradients import PARTS, Middle, MiddleReader, frozen, pixel_gradients
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.merging import Sums
from utilities.results.moments import Moments, precise
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions


@dataclass(frozen=True)
class ReceptiveField(Result):
    """Effective receptive fields, with one entry for each layer. ``before`` is of the branch alone, NaN without one.

    Attributes:
        names: Names of the layers, in the order in which they run, without the classifier.
        kinds: Kinds of the layers, see `utilities.hooks.block.BLOCK_KINDS`.
        stages: Stage of each layer: 0 for the stem, then from 1; all 0 for named layers.
        image_size: Height and width of the images in pixels.
        grid: Rows and columns of each layer's grid, (layers, 2).
        position: The position that is read, (layers, 2).
        centre: Pixel coordinates of its middle, (layers, 2).
        maps: Mean over images of the absolute gradient, summed over colours, (layers, rows, columns).
        before_maps: The same before the residual sum.
        image_radius: Radius in pixels that holds half of each image's map, (images, layers); NaN where a map is zero.
        image_before_radius: The same before the residual sum.
        image_share: Share of each image's map in the position's own cell of the grid, (images, layers).
        image_before_share: The same before the residual sum.
        flat_radius: Radius of a map with the same gradient everywhere, which no local field reaches, (layers,).
        provenance: What it was made from.
    """

    names: list[str]
    kinds: list[str]
    stages: list[int]
    image_size: list[int]
    grid: np.ndarray
    position: np.ndarray
    centre: np.ndarray
    maps: np.ndarray
    before_maps: np.ndarray
    image_radius: np.ndarray
    image_before_radius: np.ndarray
    image_share: np.ndarray
    image_before_share: np.ndarray
    flat_radius: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each layer, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    def mean(self, value: str) -> tuple[np.ndarray, np.ndarray]:
        """Average a value of each image, such as ``"radius"`` or ``"before_share"``, with its standard error."""
        return mean_and_stderr(getattr(self, f"image_{value}"))

    @property
    def radius(self) -> np.ndarray:
        """Radius after each layer in pixels, mean over images."""
        return self.mean("radius")[0]

    @property
    def growth(self) -> np.ndarray:
        """Radius of each layer minus that of the layer before it, (images, layers); NaN for the first."""
        return np.diff(self.image_radius, axis=1, prepend=np.nan)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row per layer, with standard errors over images."""
        table = {"layer": self.names, "kind": self.kinds, "stage": self.stages}
        for name in ("radius", "share", "before_radius", "before_share"):
            table[name], table[f"{name}_stderr"] = self.mean(name)
        table["growth"], table["growth_stderr"] = mean_and_stderr(self.growth)
        return pd.DataFrame(table | {"flat_radius": self.flat_radius})


def receptive_field(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Mapping[str, str] | Sequence[str] | None = None,
    *,
    n_images: int | None = 32,
    reduce_to: int | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> ReceptiveField:
    r"""Measure the effective receptive field of the central position after every block, and of its branch alone.

    For image n, pixel p and layer l with features x_l at the central position,

        map_l(p) = mean_n sum_colours | d (mean_channels x_l) / d p |

    Each image's map has a radius around the position's centre that holds half of its sum. Where a grid is even, four
    positions are in the middle, and the lower right one is taken. Class and register tokens have no place and are left
    out. One forward pass is made for each batch, and one backward pass for each layer and branch; along a transformer's
    residual stream the gradients of the branches add up, and one for each branch is enough.

    Args:
        model: See `utilities.hooks.blocks`; it runs in eval mode, and is not changed.
        loader: Yields images, or (images, labels), all of one size. It is read once, up to ``n_images``.
        layers: Names or globs of layers in place of the model's blocks, or of a model whose blocks are not known; with
            their kinds where these cannot be told. See `utilities.hooks.blocks`.
        n_images: Number of images; None takes all.
        reduce_to: Most entries along the longer side of the maps that are kept, means over equal areas; None keeps
            every pixel. The radii are of all pixels in any case.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The maps, radii and shares.

    Raises:
        ValueError: If the model's blocks are not known, a layer has no positions, the gradient does not reach the
            pixels or is zero in all layers, images have several sizes, or an option is out of range.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = receptive_field(resnet18(), [images], device="cpu")
        >>> result.names[:2], result.maps.shape, bool(result.radius[0] < result.radius[-1])
        (['stem', 'layer1.0'], (9, 16, 16), True)
    """
    for name, value in (("n_images", n_images), ("reduce_to", reduce_to)):
        if value is not None and value < 1:
            raise ValueError(f"{name} should be at least 1, or None for all, got {value}")
    reader, sums = MiddleReader(model, layers), _Sums(reduce_to)
    run = {"device": device, "progress": progress, "description": "receptive fields", "gradients": True}
    with frozen(model), stream(model, loader, sums=sums, most=n_images, **run) as batches:
        for images, _ in batches:
            reader.prepare(images)
            sums.add(images, pixel_gradients(reader, images))
    facts = {"n": sums.n, "reduce_to": reduce_to, "versions": versions()}
    return sums.result(known_facts(provenance, loader) | facts)


class _Sums(Sums):
    """Maps, radii and shares of all images so far."""

    ADDS, KEEPS, OWN = ("n",), ("size",), ("layers", "reduce_to")

    def __init__(self, reduce_to: int | None) -> None:
        self.n, self.size, self.reduce_to = 0, (0, 0), reduce_to
        self.layers: dict[str, Middle] = {}
        self.maps: dict[tuple[str, str], Moments] = {}
        self.values: dict[tuple[str, str], list[torch.Tensor]] = {}  # radius and share, (2, images)

    def add(self, images: torch.Tensor, gradients: Iterable[tuple[Middle, torch.Tensor]]) -> None:
        """Add a batch."""
        self.size = tuple(images.shape[-2:])
        for one, gradient in gradients:
            name, maps = one.block.name, precise(gradient)
            if one.part == "after":
                self.layers.setdefault(name, replace(one, value=one.value[:0].detach()))
            cell = [length / count for length, count in zip(self.size, one.grid, strict=True)]
            values = torch.stack([half_radius(maps, one.centre), own_share(maps, one.centre, cell)])
            self.values.setdefault((name, one.part), []).append(values.cpu())
            self.maps.setdefault((name, one.part), Moments()).add(pooled(maps, self.reduce_to))
        self.n += len(images)

    def result(self, provenance: dict[str, Any]) -> ReceptiveField:
        """Collect the result; a layer whose gradient is zero for some images is named in a warning."""
        values = {key: torch.cat(parts, 1).numpy() for key, parts in self.values.items()}
        zero = {key: int(np.isnan(radius).sum()) for key, (radius, _) in values.items() if np.isnan(radius).any()}
        if all(np.isnan(radius).all() for radius, _ in values.values()):
            raise ValueError(
                f"receptive field: no layer moves with any pixel of the {self.n} images, as where no ReLU fires on "
                "images of one grey; give other images, or look at the model's weights"
            )
        if zero:
            named = ", ".join(f"{name} {part} the sum ({count})" for (name, part), count in zero.items())
            warnings.warn(f"maps that are zero everywhere have no radius and are left out: {named}", stacklevel=3)
        layers = list(self.layers.values())
        none = np.full((2, self.n), np.nan)
        arrays = {}
        for part, prefix in zip(PARTS, ("", "before_"), strict=True):
            keys = [(name, part) for name in self.layers]
            shape = next(iter(self.maps.values())).mean.shape
            maps = [self.maps[key].mean if key in self.maps else np.full(shape, np.nan) for key in keys]
            both = np.stack([values.get(key, none) for key in keys], 2)
            arrays |= {f"{prefix}maps": np.stack(maps).astype(np.float32)}
            arrays |= {f"image_{prefix}radius": both[0], f"image_{prefix}share": both[1]}
        flat = [half_radius(torch.ones(1, *self.size, dtype=torch.float64), one.centre).item() for one in layers]
        return ReceptiveField(
            names=list(self.layers),
            kinds=[one.block.kind for one in layers],
            stages=[one.block.stage for one in layers],
            image_size=list(self.size),
            grid=np.array([one.grid for one in layers]),
            position=np.array([one.position for one in layers]),
            centre=np.array([one.centre for one in layers]),
            **arrays,
            flat_radius=np.array(flat),
            provenance=provenance,
        )
