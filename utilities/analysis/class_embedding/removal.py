"""Accuracy while image tokens are removed in the order of their importance.

If a map of importance is right, accuracy stays high while the least important tokens are removed first (negative
curve), and falls at once when the most important ones are (positive curve). See Chefer et al. 2021
(https://arxiv.org/abs/2103.15679) and Vilas et al. 2023 (https://arxiv.org/abs/2310.18969). Tokens are removed from the
sequence after position embeddings are added. The sequence gets shorter, so one curve over all N tokens costs about as
much as N / 2 passes of the intact model.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.masking import deleting, with_prefix
from utilities.analysis.class_embedding.readers import Target, check_size, check_target, targets_of
from utilities.analysis.class_embedding.removal_orders import (
    Maps,
    check_maps,
    check_number,
    orders_of_curves,
    removal_points,
    skip_orders,
    values_of,
)
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import check_labels, hits
from utilities.hooks.calls.merging import Total
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.results.statistics import bootstrap_interval, mean_and_stderr, stderr_of_share
from utilities.utils import versions

DIRECTIONS = ("negative", "positive")


@dataclass(frozen=True)
class RemovalCurves(Result):
    """Accuracy over the number of removed image tokens; the first point is the intact model.

    Attributes:
        names: Names of the maps of importance.
        removed: Numbers of removed tokens, (points,), from 0 to all, or to all but one if only image tokens are read.
        tokens: Number of image tokens of the intact model.
        negative: Accuracy when the least important tokens are removed first, (maps, points).
        positive: Accuracy when the most important tokens are removed first, (maps, points).
        random: Accuracy when tokens are removed in random orders, (orders, points).
        random_stderr: Standard error over images of the mean over random orders, (points,).
        negative_auc: Area under each image's own negative curve (1 where the answer is right, 0 where not), (maps,
            images).
        positive_auc: Area under each image's own positive curve, (maps, images).
        random_auc: Area under each image's own random curve, (orders, images).
        targets: The class that counts as right, (images,).
        provenance: What the result was made from.
    """

    names: list[str]
    removed: np.ndarray
    tokens: int
    negative: np.ndarray
    positive: np.ndarray
    random: np.ndarray
    random_stderr: np.ndarray
    negative_auc: np.ndarray
    positive_auc: np.ndarray
    random_auc: np.ndarray
    targets: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.targets)

    @property
    def fraction(self) -> np.ndarray:
        """Share of image tokens removed, (points,)."""
        return self.removed / self.tokens

    @property
    def intact(self) -> float:
        """Accuracy of the model with all its tokens."""
        return float(np.concatenate([self.negative, self.random])[0, 0])

    def stderr(self, direction: str) -> np.ndarray:
        """Compute standard errors over images of the ``"negative"`` or ``"positive"`` curves, (maps, points)."""
        return stderr_of_share(getattr(self, direction), self.n)

    def auc(self) -> pd.DataFrame:
        """Tabulate the mean area under the images' curves: columns ``method, direction, auc, stderr, low, high``.

        The area is over the share of removed tokens, so it is 1 for a model that is always right. Errors are over
        images, as are the 95 % bootstrap intervals from ``low`` to ``high``. Random orders are averaged for each image
        first.
        """
        labels, areas = self._curves("_auc")
        mean, stderr = mean_and_stderr(areas.T)
        low, high = bootstrap_interval(areas.T)
        return pd.DataFrame({**labels, "auc": mean, "stderr": stderr, "low": low, "high": high})

    def published_auc(self) -> pd.DataFrame:
        """Summarise each curve as the paper's code does: sum(accuracy) / (max(accuracy) * points).

        Unlike `auc`, this divides by the best accuracy of the curve itself. It includes all measured points. The
        columns are ``method, direction, auc``. Random orders are summarised one by one, and then averaged.
        """

        def summary(curves: np.ndarray) -> np.ndarray:
            highest = curves.max(1) * curves.shape[1]
            return np.divide(curves.sum(1), highest, out=np.full(len(curves), np.nan), where=highest > 0)

        labels, _ = self._curves("")
        values = [*summary(self.negative), *summary(self.positive)]
        return pd.DataFrame({**labels, "auc": [*values, summary(self.random).mean()] if len(self.random) else values})

    def to_frame(self) -> pd.DataFrame:
        """Tabulate all curves: columns ``method, direction, removed, fraction, accuracy, stderr, spread``.

        ``spread`` is the standard deviation over random orders; NaN for other curves, and if there is only one order.
        """
        labels, accuracy = self._curves("")
        stderr = np.concatenate([self.stderr("negative"), self.stderr("positive")])
        spread = np.full_like(accuracy, np.nan)
        if len(self.random):
            stderr = np.concatenate([stderr, self.random_stderr[None]])
        if len(self.random) > 1:
            spread[-1] = self.random.std(0, ddof=1)
        frame = pd.DataFrame(labels).loc[np.repeat(np.arange(len(accuracy)), len(self.removed))].reset_index(drop=True)
        frame["removed"], frame["fraction"] = (np.tile(x, len(accuracy)) for x in (self.removed, self.fraction))
        return frame.assign(accuracy=accuracy.ravel(), stderr=stderr.ravel(), spread=spread.ravel())

    def _curves(self, suffix: str) -> tuple[dict[str, list[str]], np.ndarray]:
        """Label and stack the values of negative and positive curves, and the mean of those of random curves."""
        count, random = len(self.names), getattr(self, f"random{suffix}")
        method = [*self.names, *self.names] + ["random"] * (len(random) > 0)
        direction = ["negative"] * count + ["positive"] * count + ["random"] * (len(random) > 0)
        parts = [getattr(self, f"{direction}{suffix}") for direction in DIRECTIONS]
        parts += [random.mean(0, keepdims=True)] if len(random) else []
        return {"method": method, "direction": direction}, np.concatenate(parts)


def removal_curves(
    model: nn.Module,
    loader: Iterable[Any],
    maps: Maps,
    *,
    random: int = 10,
    steps: int | None = None,
    target: Target = "label",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> RemovalCurves:
    """Remove image tokens by importance and at random, and measure how accuracy falls.

    At each point, every image loses the same number of tokens, chosen for that image. Ties are broken at random, by the
    seed. The positive order is the negative one reversed.

    Args:
        model: timm's VisionTransformer.
        loader: Yields (images, labels), for the images of the maps in the same order.
        maps: Name -> importance of the image tokens, (images, tokens), or the result of
            `utilities.analysis.class_embedding.importance.importance`. A larger value is more important; negate ranks
            first, where a smaller one is.
        random: Number of random orders; each order differs between images.
        steps: Number of evenly spaced points of a curve; None measures after each token.
        target: What counts as right: ``"label"``, ``"prediction"`` (the intact model's own) or one class for all.
        seed: Seed of the random orders and of the order of ties.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The curves. Average pooling needs a token, so its curves end when one is left. With a class token, the last
        point is the class token alone, which is the same for all curves.

    Raises:
        ValueError: If maps belong to other images or another grid, are not finite, or an option is out of range.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batches = [(torch.rand(4, 3, 16, 16), torch.tensor([1, 2, 3, 1]))]
        >>> maps = {"top left": np.tile(-np.arange(64.0), (4, 1))}
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=1)
        >>> curves = removal_curves(model, batches, maps, random=2, steps=5, device="cpu")
        >>> curves.removed.tolist(), curves.negative.shape, curves.random.shape
        ([0, 16, 32, 48, 64], (1, 5), (2, 5))
    """
    space = transformer_space(model, what="removal")
    check_target(target, space.num_classes)
    removed, tokens = removal_points(space, steps), space.image_tokens
    check_maps(space, loader, maps, random, seed)
    draws = [np.random.default_rng([seed, i]) for i in range(random + 1)]
    counts, areas, targets, mean_of_random, n = Total(), [], [], Moments(), Total()
    options = {"labelled": target == "label", "device": device, "progress": progress}
    options |= {"sums": (counts, areas, targets, mean_of_random, n)}
    with stream(model, loader, description="token removal", **options) as batches:
        skip_orders(draws, batches.served.first, tokens)
        for images, labels in batches:
            labels = None if labels is None else check_labels(labels, space.num_classes)
            check_size(space, images, own=True)
            rows = slice(batches.served.first, batches.served.first + len(images))
            n.add(len(images))
            orders = orders_of_curves(values_of(maps, rows, labels), (len(images), tokens), draws)
            asked = targets_of(space, images, labels, target)
            right = _sweep(space, images, asked, orders, removed)
            counts.add(right.sum(2))
            areas.append(curve_area(right.swapaxes(1, 2), removed / tokens))
            targets.append(asked.cpu().numpy())
            if random:
                mean_of_random.add(right[-random:].mean(0).T)
    check_number(maps, n.value)
    parts = np.split(np.arange(2 * len(maps) + random), [len(maps), 2 * len(maps)])
    facts = {"n": n.value, "target": target, "random": random, "steps": steps, "seed": seed, "versions": versions()}
    return RemovalCurves(
        list(maps),
        removed,
        tokens,
        *(counts.value[part] / n.value for part in parts),
        mean_of_random.stderr if random else np.full(len(removed), np.nan),
        *(np.concatenate(areas, 1)[part] for part in parts),
        np.concatenate(targets),
        known_facts(provenance, loader) | facts,
    )


def curve_area(values: np.ndarray, fraction: np.ndarray) -> np.ndarray:
    """Integrate curves by the trapezoid rule: (..., points), (points,) -> (...).

    Example:
        >>> float(curve_area(np.array([1.0, 1.0, 0.0]), np.array([0.0, 0.5, 1.0])))
        0.75
    """
    values = np.asarray(values, np.float64)
    return (values[..., 1:] + values[..., :-1]) @ np.diff(fraction) / 2


def _sweep(
    space: TransformerSpace, images: torch.Tensor, target: torch.Tensor, orders: np.ndarray, removed: np.ndarray
) -> np.ndarray:
    """Tell whether the answer is right for each curve, number of removed tokens and image: (curves, points, batch)."""
    right = np.empty((len(orders), len(removed), len(images)))
    sequences = torch.from_numpy(orders).to(images.device)
    for place, count in enumerate(removed):
        # The order does not matter before the first token is removed, nor after the last one.
        same = count in (0, orders.shape[2])
        for curve, order in enumerate(sequences[:1] if same else sequences):
            with (
                deleting(space, with_prefix(order[:, count:].sort(1).values, space.prefix)) if count else nullcontext()
            ):
                found = hits(space.model(images), target)
            right[slice(None) if same else curve, place] = found.cpu().numpy()
    return right
