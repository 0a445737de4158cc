"""Spatial localisation: does a token still describe the place on the image that it came from?

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Figs. 9, 10 and D.1-D.3, the features of one token, over
images, are compared with the raw pixels of each patch of the images by CKA. In a convolutional map, a token is the
channel vector at one position. Since a patch has few pixels and a token many channels, CKA is the debiased one, summed
over batches.
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

from utilities.analysis.blocks.localisation_measures import MEASURES, Place
from utilities.analysis.blocks.localisation_pass import LocalisationPass
from utilities.analysis.blocks.localisation_sums import LocalisationSums
from utilities.analysis.probing import check_memory_limit
from utilities.analysis.readout import readout_facts
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.block_families import block_outputs
from utilities.hooks.calls.options import check_whole
from utilities.hooks.positions import PositionRecorder
from utilities.hooks.recorder import Forward
from utilities.metrics import MIN_IMAGES
from utilities.results.result import Result
from utilities.results.statistics import block_jackknife
from utilities.utils import versions


@dataclass(frozen=True)
class Localisation(Result):
    """Similarity of the features at each position with the pixels of each patch.

    A position's own patches are the one that its centre lies in, and those whose centres lie in its cell.

    Attributes:
        names: Names of the layers.
        similarity: Debiased CKA, (layers, positions, patches). NaN where a layer has fewer positions than another, or
            where a position or patch has no variance over the images.
        stderr: Standard error of ``similarity`` over batches; NaN for a single batch.
        grids: Rows and columns of each layer's positions, (layers, 2).
        centres: Centre of each position in pixels from the upper left corner, (layers, positions, 2).
        cells: Height and width in pixels of a position's cell, (layers, 2).
        measures: ``own`` and ``others``, the mean similarity of positions with their own patches and with all others;
            ``contrast``, the difference; ``found``, the share of positions whose most similar patch is their own;
            ``near``, the same with the eight neighbours of own patches; ``distance``, the mean distance in pixels from
            a position's centre to the centre of its most similar patch.
        summary: The measures, (layers, measures).
        summary_stderr: Standard errors of the measures over batches; NaN for a single batch.
        chance: The measures for a most similar patch drawn at random, (layers, measures); NaN for similarities.
        patch: Side of a patch in pixels.
        patch_grid: Rows and columns of patches.
        provenance: What it was made from.
    """

    names: list[str]
    similarity: np.ndarray
    stderr: np.ndarray
    grids: np.ndarray
    centres: np.ndarray
    cells: np.ndarray
    measures: list[str]
    summary: np.ndarray
    summary_stderr: np.ndarray
    chance: np.ndarray
    patch: int
    patch_grid: list[int]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each layer in the model, from 0 to 1; among those measured if the model's is unknown."""
        return np.array(self.provenance.get("depth") or np.linspace(0, 1, len(self.names)))

    def of(self, measure: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a measure of all layers, and its standard errors.

        Raises:
            ValueError: If there is no such measure.
        """
        if measure not in self.measures:
            raise ValueError(f"measure {measure!r} is not known; choose from {', '.join(self.measures)}")
        place = self.measures.index(measure)
        return self.summary[:, place], self.summary_stderr[:, place]

    def map(self, layer: int | str, row: int, column: int) -> np.ndarray:
        """Return the similarity of one position with all patches, (rows, columns) of patches.

        Args:
            layer: Name or index of the layer.
            row: Row of the position in the layer's grid; negative counts from the last.
            column: Its column.

        Raises:
            ValueError: If there is no such layer or position, or the layer's maps were left out.
        """
        if isinstance(layer, str) and layer not in self.names:
            raise ValueError(f"layer {layer!r} was not measured; there are {', '.join(self.names)}")
        index = self.names.index(layer) if isinstance(layer, str) else layer
        kept = self.provenance.get("maps_of")
        if kept is not None and self.names[index] not in kept:
            raise ValueError(f"the maps of {self.names[index]} were left out; there are those of {', '.join(kept)}")
        rows, columns = (int(side) for side in self.grids[index])
        if not (-rows <= row < rows and -columns <= column < columns):
            raise ValueError(f"position ({row}, {column}) is not in the {rows}x{columns} grid of {self.names[index]}")
        return self.similarity[index, row % rows * columns + column % columns].reshape(self.patch_grid)

    def with_maps_of(self, layers: Sequence[int]) -> Localisation:
        """Return the result without the maps of other layers, which are NaN; all else stays, for every layer.

        Args:
            layers: Indices of the layers whose maps stay.
        """
        maps, errors = np.full_like(self.similarity, np.nan), np.full_like(self.stderr, np.nan)
        for layer in layers:
            maps[layer], errors[layer] = self.similarity[layer], self.stderr[layer]
        facts = self.provenance | {"maps_of": [self.names[layer] for layer in layers]}
        return replace(self, similarity=maps, stderr=errors, provenance=facts)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the measures, one row per layer."""
        table = {"layer": self.names, "rows": self.grids[:, 0], "columns": self.grids[:, 1]}
        for i, measure in enumerate(self.measures):
            table |= {measure: self.summary[:, i], f"{measure}_stderr": self.summary_stderr[:, i]}
            if np.isfinite(self.chance[:, i]).any():
                table[f"{measure}_chance"] = self.chance[:, i]
        return pd.DataFrame(table)


def localisation(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Sequence[str] | None = None,
    *,
    blocks: int | None = 3,
    patch: int | None = None,
    most: int | None = 16,
    memory_limit: float = 4e9,
    forward: Forward | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Localisation:
    """Compare the features at each position with the raw pixels of each patch of the images, by debiased CKA.

    With K_p the Gram matrix over images of the features at position p, and L_q that of the pixels of patch q, it is
    sum HSIC(K_p, L_q) / sqrt(sum HSIC(K_p, K_p) sum HSIC(L_q, L_q)), summed over batches. Larger batches see more
    pairs of images; the loader should shuffle.

    Args:
        model: Any module; it runs in eval mode.
        loader: Yields images, or (images, labels), in batches of four or more, all of one size.
        layers: Globs of layers, see `utilities.hooks.select_layers`. None takes blocks of a model whose blocks are
            known.
        blocks: Number of these blocks, evenly spread from the first to the last; None is all.
        patch: Side of the patches in pixels, which has to divide the images. None is the transformer's own, or for
            other models the divisor nearest to a fourteenth of the image, 16 of 224 pixels.
        most: Most rows and columns of positions to look at in a larger map, evenly spread; None looks at all.
        memory_limit: Largest size of Gram matrices and sums, in bytes.
        forward: Function that runs the model, if not ``model(images)``. See `utilities.hooks.Recorder`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The similarities, with how sharp they are.

    Raises:
        ValueError: If the model's blocks are not known and no layers are named, a layer has no positions, the patches
            do not fit the images, the first batch is too small, images differ in size, no patch or no layer differs
            from image to image, or the sums would take more than ``memory_limit``.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = localisation(resnet18(), [images], patch=4, device="cpu")
        >>> result.names, result.similarity.shape
        (['layer1.0', 'layer3.0', 'layer4.1'], (3, 256, 16))
    """
    for name, value, least in (("most", most, 1), ("blocks", blocks, 2)):
        if value is not None:
            check_whole(name, value, least)
    check_memory_limit(memory_limit)
    names, depth = _default_layers(model, blocks) if layers is None else (layers, None)
    recorder = PositionRecorder(model, names, most=most, forward=forward)
    work = LocalisationPass(recorder, patch, memory_limit)
    run = {"device": device, "description": "localisation", "progress": progress, "least": MIN_IMAGES["debiased"]}
    with recorder, stream(model, loader, sums=work, **run) as batches:
        work.begin(batches.served.before)
        for images, *_ in batches:
            work.add(images)
    facts = {"n": work.n, "left_out": work.left_out, "batches": work.count, "patch": work.grid.patch}
    facts |= {"most": most, "estimator": "debiased", "depth": depth, "versions": versions()}
    return _collect(work, readout_facts(model) | known_facts(provenance, loader) | facts)


def _default_layers(model: nn.Module, count: int | None) -> tuple[list[str], list[float]]:
    """Name blocks from the first to the last, with their relative depths."""
    names = block_outputs(model)
    places = sorted({round(x) for x in np.linspace(0, len(names) - 1, min(count or len(names), len(names)))})
    return [names[i] for i in places], [i / max(1, len(names) - 1) for i in places]


def _collect(work: LocalisationPass, provenance: dict[str, Any]) -> Localisation:
    if work.left_out:
        warnings.warn(
            f"{work.left_out} images in batches of fewer than 4 are left out of the localisation; choose another "
            "batch_size, or drop_last",
            stacklevel=3,
        )
    _refuse_constant(work)
    names, patches = list(work.sums), len(work.grid.centres)
    most = max(len(where.places) for where in work.where.values())
    maps, errors = np.full((2, len(names), most, patches), np.nan)
    centres = np.full((len(names), most, 2), np.nan)
    grids, cells, summary, summary_stderr, chance = [], [], [], [], []
    for i, name in enumerate(names):
        where, sums = work.where[name], work.sums[name]
        count = len(where.places)
        cell = np.array(work.grid.size) / np.array(where.grid)
        centres[i, :count] = (where.places.numpy() + 0.5) * cell
        place = Place(work.grid, centres[i, :count], cell)
        maps[i, :count] = sums.similarity().double().numpy()
        values = place.measures(maps[i, :count])
        error, errors[i, :count] = _jackknife(sums, place, values, maps[i, :count])
        for column, value in ((summary, values), (summary_stderr, error), (chance, place.chance(maps[i, :count]))):
            column.append(value)
        grids.append([len(np.unique(axis)) for axis in where.places.numpy().T])
        cells.append(cell)
    _warn_of_missing(names, maps, work)
    arrays = {"grids": grids, "cells": cells, "summary": summary, "summary_stderr": summary_stderr, "chance": chance}
    return Localisation(
        names=names,
        similarity=maps,
        stderr=errors,
        centres=centres,
        **{name: np.array(value) for name, value in arrays.items()},
        measures=list(MEASURES),
        patch=work.grid.patch,
        patch_grid=list(work.grid.shape),
        provenance=provenance,
    )


def _refuse_constant(work: LocalisationPass) -> None:
    """Refuse images of which no patch, or with which no layer, has variance: there is nothing to compare."""
    varied = {name: sums.varied() for name, sums in work.sums.items()}
    if not any(patches for _, patches in varied.values()):
        raise ValueError(
            f"localisation: no patch of the {work.n} images differs from image to image, as if all were the same one; "
            "give different images"
        )
    if not any(positions for positions, _ in varied.values()):
        raise ValueError(
            f"localisation: {', '.join(varied)} have no variance over the {work.n} images at any position; give other "
            "images, or look at the model's weights"
        )


def _jackknife(
    sums: LocalisationSums, place: Place, values: np.ndarray, maps: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute standard errors of measures and maps by leaving out blocks of batches in turn."""
    if len(sums.blocks) < 2:
        return np.full_like(values, np.nan), np.full_like(maps, np.nan)
    sizes = np.array([block[3] for block in sums.blocks.values()])
    without = [sums.similarity(key).double().numpy() for key in sums.blocks]
    measures = np.array([place.measures(one) for one in without])
    return block_jackknife(values, measures, sizes), block_jackknife(maps, np.array(without), sizes)


def _warn_of_missing(names: Sequence[str], maps: np.ndarray, work: LocalisationPass) -> None:
    """Name what has no variance over the images."""
    found = []
    for i, name in enumerate(names):
        known = np.isfinite(maps[i, : len(work.where[name].places)])
        patches, positions = int((~known.any(0)).sum()), int((~known.any(1)).sum())
        if patches and patches < known.shape[1] and not i:
            found.append(f"{patches} of {known.shape[1]} patches")
        if positions:
            found.append(f"{positions} of {len(known)} positions of {name}")
    if found:
        warnings.warn(f"without variance over the images, and so without similarity: {', '.join(found)}", stacklevel=4)
