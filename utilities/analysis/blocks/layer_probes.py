"""Linear probes of any model's layers: where over depth can a linear map read the class?

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Figs. 11, 13, D.4 and F.1-F.3, a ridge regression in closed
form, with targets +1 for an image's class and -1 for all others, is fitted to a layer's features of training images,
all of them or a few of each class, and names the class of test images. It reads the mean over positions, the class
token, or each token by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.blocks.layer_probe_passes import TOKENS, Fitted, Testing, Training, ViewRecorder
from utilities.analysis.blocks.probe_draws import Draws, draw_images
from utilities.analysis.probing import check_memory_limit, check_splits
from utilities.analysis.readout import readout_facts
from utilities.analysis.ridge import check_alpha
from utilities.datasets.naming import known_facts
from utilities.hooks.recorder import Forward
from utilities.hooks.views import View, check_view
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr, wilson
from utilities.utils import versions
from utilities.zoo.layers import comparison_layers, known_blocks


@dataclass(frozen=True)
class LayerProbes(Result):
    """How often linear probes of each layer name the class of an image that they were not fitted to.

    Attributes:
        names: Names of the layers.
        views: What probes read of a layer: ``gap``, ``cls``, ... or ``tokens``, one probe for each position.
        accuracy: Top-1 accuracy of each probe, the mean over draws, (views, layers, probes), class and register tokens
            first. NaN where a layer has fewer probes than another. Each of m tied scores counts 1/m.
        correct: Share of a layer's probes that are right about each image, the mean over draws, (images, views,
            layers), without class and register tokens.
        by_draw: Mean of this share over images for each draw of training images, (draws, views, layers).
        alpha: Penalty of each draw's probes, (draws, views, layers); of several probes the mean.
        widths: Number of features that a probe reads, (views, layers).
        prefix: Number of class and register tokens among the probes of each view and layer, (views, layers).
        grids: Rows and columns of the probes after these, (views, layers, 2); zeros for one probe a layer.
        labels: Class of each test image, (images,).
        num_classes: Number of classes.
        provenance: What it was made from.
    """

    names: list[str]
    views: list[str]
    accuracy: np.ndarray
    correct: np.ndarray
    by_draw: np.ndarray
    alpha: np.ndarray
    widths: np.ndarray
    prefix: np.ndarray
    grids: np.ndarray
    labels: np.ndarray
    num_classes: int
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each layer among those probed, from 0 to 1."""
        return np.linspace(0, 1, len(self.names))

    @property
    def chance(self) -> float:
        """Accuracy of guessing, or of always naming the most frequent class of the test images if that is higher."""
        return max(1 / self.num_classes, float(np.bincount(self.labels).max() / len(self.labels)))

    def of(self, view: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean accuracy of each layer's probes under a view, and its standard error.

        Class and register tokens do not count. The error is over test images; with several draws of training images,
        the error over draws is added in quadrature.

        Raises:
            ValueError: If the view was not read.
        """
        place = self._place(view)
        mean, error = mean_and_stderr(self.correct[:, place].astype(np.float64))
        draws = mean_and_stderr(self.by_draw[:, place])[1]
        return mean, np.hypot(error, np.nan_to_num(draws))

    def interval(self, view: str) -> tuple[np.ndarray, np.ndarray]:
        """Return Wilson's interval of one standard error over test images, for each probe of a view: (layers, probes).

        Raises:
            ValueError: If the view was not read.
        """
        share, n = self.accuracy[self._place(view)], len(self.labels)
        return wilson(share * n, np.full(share.shape, n))

    def class_token(self, layer: int = -1) -> tuple[float, float]:
        """Return the accuracy of the class token's own probe in a layer, and its standard error over test images.

        Raises:
            ValueError: If neither the view ``cls`` nor ``tokens`` with a class token was read.
        """
        if "cls" in self.views:
            mean, error = self.of("cls")
            return float(mean[layer]), float(error[layer])
        if TOKENS not in self.views or not self.prefix[self._place(TOKENS), layer]:
            raise ValueError("no probe read the class token; take view 'cls', or 'tokens' of a model that has one")
        share, n = float(self.accuracy[self._place(TOKENS), layer, 0]), len(self.labels)
        return share, float(np.sqrt(share * (1 - share) / max(1, n - 1)))

    def token_map(self, layer: int) -> np.ndarray:
        """Return the accuracy of each position's probe in a layer, (rows, columns).

        Raises:
            ValueError: If ``tokens`` was not read.
        """
        place = self._place(TOKENS)
        rows, columns = (int(side) for side in self.grids[place, layer])
        first = int(self.prefix[place, layer])
        return self.accuracy[place, layer, first : first + rows * columns].reshape(rows, columns)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate mean accuracies, one row for each view and layer."""
        tables = []
        for place, view in enumerate(self.views):
            mean, error = self.of(view)
            columns = {"view": view, "layer": self.names, "depth": self.depth, "width": self.widths[place]}
            columns |= {"probes": np.isfinite(self.accuracy[place]).sum(1), "accuracy": mean, "stderr": error}
            tables.append(pd.DataFrame(columns | {"alpha": self.alpha[:, place].mean(0)}))
        return pd.concat(tables, ignore_index=True)

    def _place(self, view: str) -> int:
        if view not in self.views:
            raise ValueError(f"view {view!r} was not read; there are {', '.join(self.views)}")
        return self.views.index(view)


def layer_probes(
    model: nn.Module,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    layers: Sequence[str] | None = None,
    *,
    view: Sequence[str] = ("gap",),
    shots: int | None = None,
    draws: int = 5,
    alpha: float | None = None,
    most: int | None = 16,
    num_classes: int | None = None,
    memory_limit: float = 4e9,
    forward: Forward | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    seed: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> LayerProbes:
    """Fit linear probes to every layer in one pass over training images, and test them in one pass over others.

    The sums of one probe take 8 width (width + classes) bytes, twice that where the penalty is chosen, for each draw.

    Args:
        model: Any module; it runs in eval mode.
        train_loader: Yields images and labels to fit the probes to, in a fixed order.
        test_loader: Yields other images and labels.
        layers: Globs of layers, see `utilities.hooks.select_layers`. None is the output of every block; for models
            whose blocks are not known, the layers that `utilities.zoo.layers.comparison_layers` names.
        view: What probes read of a layer, one or more: see `utilities.hooks.views`, of which ``"gap"``, ``"cls"``,
            ``"mean_all"`` and ``"token:0"`` are the four of the paper's Fig. 11b; or ``"tokens"``, one probe for each
            token, class and register tokens included, or position of a map.
        shots: Number of training images of each class; None takes all.
        draws: Number of draws of these images; with all images there is one.
        alpha: Penalty of the ridge regression. None chooses it for each layer and draw on a fifth of its training
            images, by the squared error, and fits to all of them with it, see `utilities.analysis.ridge_penalty`.
        most: Most rows and columns of positions for ``"tokens"`` in a larger map, evenly spread; None takes all.
        num_classes: Number of classes; None asks the loader's data set, or counts the training labels.
        memory_limit: Largest size of the sums, in bytes, on the device that the model runs on.
        forward: Function that runs the model, if not ``model(images)``. See `utilities.hooks.Recorder`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show bars.
        seed: Seed of the draws.
        provenance: Facts to keep with the result.

    Returns:
        The accuracies.

    Raises:
        ValueError: If an option is out of range, both loaders serve the same set, a label is no class, a layer has no
            such view, or the sums would take more memory than ``memory_limit``.
        TypeError: If the training images can be read only once.

    Example:
        >>> from utilities.resnet import resnet18
        >>> images = torch.rand(20, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> train, test = ([(part, torch.arange(10) % 2)] for part in images.split(10))
        >>> layer_probes(resnet18(), train, test, ["layer?.1"], device="cpu").accuracy.shape
        (1, 4, 1)
    """
    views = _named_views(view)
    _check_options(shots, draws, alpha, most, memory_limit)
    check_splits(train_loader, test_loader)
    names, strict = _chosen_layers(model, layers)
    recorder = ViewRecorder(model, names, views, most=most, forward=forward, strict=strict)
    options = {"device": device, "progress": progress}
    drawn = draw_images(train_loader, shots, draws, num_classes, seed)
    training = Training(recorder, drawn, alpha, memory_limit)
    fitted = training.run(train_loader, **options)
    test = Testing(recorder, fitted)
    test.run(test_loader, drawn.num_classes, **options)
    facts = {"n": sum(map(len, test.labels)), "n_train": int(training.counts.mean()), "shots": shots}
    facts |= {"draws": drawn.count, "alpha": alpha, "most": most, "probe_seed": seed, "versions": versions()}
    facts = readout_facts(model) | known_facts(provenance, test_loader) | facts
    return _collect(list(views), test, fitted, drawn, facts)


def _named_views(view: Sequence[View] | View) -> dict[str, View]:
    """Name the views, and refuse unknown ones."""
    views = [view] if isinstance(view, str) or callable(view) else list(view)
    if not views:
        raise ValueError("view is empty; name one or more, such as 'gap'")
    for one in views:
        if one != TOKENS:
            check_view(one)
    return {getattr(one, "__name__", str(one)): one for one in views}


def _check_options(shots: int | None, draws: int, alpha: float | None, most: int | None, memory_limit: float) -> None:
    for name, value in (("shots", shots), ("draws", draws), ("most", most)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}={value!r} should be a whole number of 1 or more")
    if alpha is not None:
        check_alpha(alpha)
    elif shots == 1:
        raise ValueError("shots=1 leaves no image to choose the penalty on; pass alpha=, such as 1.0, or more shots")
    check_memory_limit(memory_limit)


def _chosen_layers(model: nn.Module, layers: Sequence[str] | None) -> tuple[list[str], bool]:
    """List the layers, and tell whether each has to be there."""
    if layers is not None:
        return [layers] if isinstance(layers, str) else list(layers), True
    with suppress(ValueError):
        return known_blocks(model), True
    return comparison_layers(model), False


def _collect(
    views: list[str], test: Testing, fitted: Sequence[Fitted], drawn: Draws, provenance: dict[str, Any]
) -> LayerProbes:
    names = list(dict.fromkeys(layer for _, layer in test.shapes))
    labels = np.concatenate(test.labels)
    shape = len(views), len(names)
    accuracy = np.full((*shape, max(len(right) for right in test.right.values())), np.nan)
    correct = np.empty((len(labels), *shape), np.float32)
    by_draw, alpha = np.empty((2, len(fitted), *shape))
    widths, prefix, grids = np.zeros(shape, int), np.zeros(shape, int), np.zeros((*shape, 2), int)
    for v, view in enumerate(views):
        for i, layer in enumerate(names):
            key = view, layer
            accuracy[v, i, : len(test.right[key])] = test.right[key] / len(labels) / len(fitted)
            shares = np.concatenate(test.shares[key], 1)
            correct[:, v, i], by_draw[:, v, i] = shares.mean(0), shares.mean(1)
            alpha[:, v, i] = [one.alpha[key] for one in fitted]
            widths[v, i], prefix[v, i], grids[v, i] = test.shapes[key]
    arrays = {"accuracy": accuracy, "correct": correct, "by_draw": by_draw, "alpha": alpha, "widths": widths}
    arrays |= {"prefix": prefix, "grids": grids, "labels": labels}
    return LayerProbes(names=names, views=views, **arrays, num_classes=drawn.num_classes, provenance=provenance)
