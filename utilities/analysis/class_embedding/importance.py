"""How much each image token matters for a class: maps of several methods, over all images of a loader.

The methods are gradients in class-embedding space (Vilas et al. 2023, https://arxiv.org/abs/2310.18969), relevance by
attention and its gradient (Chefer et al. 2021, https://arxiv.org/abs/2103.15679), and random orders as a baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.gradient_map import gradient_maps_of, gradient_space
from utilities.analysis.class_embedding.readers import Target, check_size, check_target, targets_of
from utilities.analysis.class_embedding.relevance import relevance_of
from utilities.analysis.class_embedding.space import LensOptions
from utilities.analysis.class_embedding.spaces import transformer_space
from utilities.analysis.class_embedding.transformer_space import TransformerSpace
from utilities.analysis.stream import stream
from utilities.datasets.masks import token_coverage
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import check_labels
from utilities.hooks.calls.options import check_whole
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions

METHODS = ("gradient", "relevance", "random")


@dataclass(frozen=True)
class Importance(Result):
    """How much each token matters in each image; a larger value is more important.

    Attributes:
        maps: Importance of each image token, float32 (images, tokens), row by row of the grid.
        grid: Rows and columns of patches.
        targets: The class asked about, (images,).
        method: One of `METHODS`.
        labels: True classes, (images,), or None.
        coverage: Fraction of each patch that the object covers, float32 (images, tokens), or None without masks.
        provenance: What the result was made from.
    """

    maps: np.ndarray
    grid: list[int]
    targets: np.ndarray
    method: str
    labels: np.ndarray | None = None
    coverage: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.maps)

    @property
    def heatmaps(self) -> np.ndarray:
        """The maps as pictures, (images, rows, columns)."""
        return self.maps.reshape(-1, *self.grid)

    def on_object(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute the share of each map's positive values on the object, and the share of the image it fills.

        Returns:
            Two arrays (images,), see `object_share`.

        Raises:
            ValueError: If the loader had no masks.
        """
        if self.coverage is None:
            raise ValueError(
                "there were no masks; take a loader of (images, labels, masks), as of load_dataset('canvas')"
            )
        return object_share(self.maps, self.coverage), self.coverage.mean(1, dtype=np.float64)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the mean over images at each place of the grid: columns ``row, column, mean, stderr``."""
        row, column = np.divmod(np.arange(self.maps.shape[1]), self.grid[1])
        mean, stderr = mean_and_stderr(self.maps)
        return pd.DataFrame({"row": row, "column": column, "mean": mean, "stderr": stderr})


def importance(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    method: str = "gradient",
    loss: str = "ce",
    lens: LensOptions | None = None,
    target: Target = "label",
    seed: int = 0,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Importance:
    """Map how much each image token matters for a class, over all images of a loader.

    Args:
        model: timm's VisionTransformer.
        loader: Yields images, (images, labels) or (images, labels, masks).
        method: ``"gradient"``, the sum over blocks and heads of the ``gradient_maps`` of
            `utilities.analysis.class_embedding.gradient_map`; ``"relevance"``, see
            `utilities.analysis.class_embedding.relevance`; or ``"random"``, a separate random order for each image.
        loss: Loss for ``"gradient"``, see `utilities.analysis.class_embedding.gradient_map.gradient_maps`.
        lens: How tokens are read, for ``"gradient"``.
        target: The class asked about: ``"label"``, ``"prediction"`` (the model's own; it runs twice) or an index.
        seed: Seed for ``"random"``.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The maps.

    Raises:
        ValueError: If an option is not known, the model is of another kind, or labels are missing.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batches = [(torch.rand(3, 3, 16, 16), torch.tensor([1, 2, 3]))]
        >>> result = importance(vit_tiny_patch2_16(num_classes=10, depth=2), batches, device="cpu")
        >>> result.heatmaps.shape, result.targets.tolist()
        ((3, 8, 8), [1, 2, 3])
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r} is not known; choose from {', '.join(METHODS)}")
    gradient = method == "gradient"
    space = gradient_space(model, loss, lens) if gradient else transformer_space(model, what="importance")
    check_target(target, space.num_classes)
    check_whole("seed", seed, 0)
    grid, rng = list(space.own_grid), np.random.default_rng(seed)
    maps, targets, labels, coverage = [], [], [], []
    options = {"labelled": target == "label", "masked": False, "device": device, "progress": progress}
    options |= {"sums": (maps, targets, labels, coverage)}
    with stream(model, loader, description="importance", **options) as batches:
        if method == "random":  # what is drawn for images that another process sees
            random_maps(rng, batches.served.first, space.image_tokens)
        for images, label, masks in batches:
            label = None if label is None else check_labels(label, space.num_classes)
            check_size(space, images, own=True)
            asked = targets_of(space, images, label, target)
            drawn = _maps_of(space, images, asked, method, loss, rng)
            maps.append(drawn.float().cpu().numpy())
            targets.append(asked.cpu().numpy())
            labels.append(None if label is None else label.cpu().numpy())
            coverage.append(None if masks is None else token_coverage(masks, tuple(grid)).float().cpu().numpy())
    facts = {"n": sum(map(len, maps)), "method": method, "target": target, "seed": seed, "versions": versions()}
    if gradient:
        chosen = space.options
        facts |= {"loss": loss, "lens": {"norm": chosen.norm, "bias": chosen.bias, "scale": chosen.scale}}
    return Importance(
        np.concatenate(maps),
        grid,
        np.concatenate(targets),
        method,
        _joined(labels),
        _joined(coverage),
        known_facts(provenance, loader) | facts,
    )


def _maps_of(
    space: TransformerSpace,
    images: torch.Tensor,
    target: torch.Tensor,
    method: str,
    loss: str,
    rng: np.random.Generator,
) -> torch.Tensor:
    """Map the importance of a batch's image tokens with one of the methods, (batch, tokens)."""
    if method == "gradient":
        return gradient_maps_of(space, images, target, loss, per_head=False).sum(1)
    if method == "relevance":
        return relevance_of(space, images, target)
    return torch.from_numpy(random_maps(rng, len(images), space.image_tokens))


def object_share(maps: np.ndarray, coverage: np.ndarray) -> np.ndarray:
    """Compute the share of each map's positive values on the object; by chance it is the object's share of the area.

    Args:
        maps: Importance of each image token, (images, tokens).
        coverage: Fraction of each patch that the object covers, (images, tokens).

    Returns:
        Shares, (images,); NaN where a map has no positive value.

    Example:
        >>> object_share(np.array([[3.0, 1.0, -5.0], [-1.0, 0.0, 0.0]]), np.array([[1.0, 0.5, 1.0]] * 2))
        array([0.875, nan])
    """
    positive = np.maximum(np.asarray(maps, np.float64), 0)
    total = positive.sum(1)
    return np.divide((positive * coverage).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)


def random_maps(rng: np.random.Generator, n: int, tokens: int) -> np.ndarray:
    """Draw a random order of the tokens for each of n images, float32 (n, tokens), without ties.

    Example:
        >>> sorted(random_maps(np.random.default_rng(0), 1, 3)[0].tolist())
        [0.0, 1.0, 2.0]
    """
    return rng.permuted(np.tile(np.arange(tokens, dtype=np.float32), (n, 1)), axis=1)


def _joined(parts: list[np.ndarray | None]) -> np.ndarray | None:
    """Join the arrays of all batches, or return None if a batch has none."""
    return None if any(part is None for part in parts) else np.concatenate(parts)
