"""The lens itself: what every token of every layer says about the classes, kept in a few bytes per token.

Follows Vilas et al. 2023, https://arxiv.org/abs/2310.18969. A model's final norm and classifier turn each token into
logits. The lens keeps the rank and the logit of one class, and the first few classes. It is for pictures of chosen
images and for questions that a mean does not answer. `utilities.analysis.class_embedding.identifiability` averages
over images on the fly, and keeps no tokens.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.class_embedding.block_tokens import BlockTokens
from utilities.analysis.class_embedding.ranks import places, score, target_logit
from utilities.analysis.class_embedding.readers import Batch, Target, check_target, run_readers
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.merging import Sums
from utilities.results.result import Result
from utilities.utils import versions

NO_LABEL = -1


@dataclass(frozen=True)
class Lens(Result):
    """Every token of every part of every block, read in class-embedding space.

    In memory, and on disk before compression, it takes tokens * parts * blocks * (2 + 4 + 2 top) bytes per image. For
    ViT-B/16 and its five first classes these are 113 kB, or 0.5 GB for 4,550 images.

    Attributes:
        names: Names of the blocks.
        parts: Parts read of each block, see `utilities.analysis.class_embedding.space.BLOCK_PARTS`; for CNNs, only the
            block.
        rank: Number of classes with a larger logit than the target, int16, (images, parts, blocks, tokens).
        logit: Logit of the target, float32, (images, parts, blocks, tokens).
        top: The classes with the largest logits, in descending order, int16, (images, parts, blocks, tokens, top).
        target: The class looked at in each image, (images,).
        labels: True class of each image, (images,); -1 without labels.
        predictions: The model's own answer for each image, (images,).
        prefix: Number of tokens before those of the image.
        class_token: Whether the first of these is a class token.
        grid: Rows and columns of the image tokens.
        num_classes: Number of logits.
        logits: Logits of all classes, float32, (images, parts, blocks, tokens, classes), or None if not asked for.
        provenance: What the result was made from.
        tied: Number of other classes with the target's logit, int16, in the shape of ``rank``; None without ties.
    """

    names: list[str]
    parts: list[str]
    rank: np.ndarray
    logit: np.ndarray
    top: np.ndarray
    target: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    prefix: int
    class_token: bool
    grid: list[int]
    num_classes: int
    logits: np.ndarray | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    tied: np.ndarray | None = None

    @property
    def score(self) -> np.ndarray:
        """Class identifiability, 1 - rank / classes, float32: 1 where the target comes first; ties take mean rank."""
        mean = self.rank if self.tied is None else self.rank + self.tied.astype(np.float32) / 2
        return score(torch.from_numpy(mean), self.num_classes).numpy()

    @property
    def first(self) -> np.ndarray:
        """Whether the target comes first, float32, in the shape of ``rank``; 1/m if m classes tie for first."""
        return (self.rank == 0) / np.float32(1 if self.tied is None else self.tied.astype(np.float32) + 1)

    def image_map(self, values: np.ndarray) -> np.ndarray:
        """Arrange a value of each token on the grid of the image: (..., tokens) -> (..., rows, columns).

        Args:
            values: Values such as ``rank`` or ``score``; tokens before those of the image are left out.

        Raises:
            ValueError: If the last axis has another number of tokens.
        """
        tokens = self.rank.shape[3]
        if values.shape[-1] != tokens:
            raise ValueError(f"values should have {tokens} tokens along their last axis, got shape {values.shape}")
        return values[..., self.prefix :].reshape(*values.shape[:-1], *self.grid)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate means over images and tokens: a row for each part, block and group of tokens."""
        groups = {"CLS": slice(0, 1)} if self.class_token else {}
        groups |= {"image": slice(self.prefix, None)}
        rows, scores, firsts = [], self.score, self.first
        for p, part in enumerate(self.parts):
            for b, block in enumerate(self.names):
                for group, tokens in groups.items():
                    means = {
                        "score": scores[:, p, b, tokens].mean(dtype=np.float64),
                        "rate": firsts[:, p, b, tokens].mean(dtype=np.float64),
                        "logit": self.logit[:, p, b, tokens].mean(dtype=np.float64),
                    }
                    rows.append({"block": block, "part": part, "group": group, **means})
        return pd.DataFrame(rows)


def lens(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    top: int = 5,
    logits: bool = False,
    lens: LensOptions | None = None,
    names: Mapping[str, Any] | None = None,
    target: Target = "label",
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> Lens:
    """Read every token of every block in class-embedding space.

    Args:
        model: See `utilities.analysis.class_embedding.spaces.class_space`; it runs in eval mode.
        loader: Yields (images, labels), or images alone if the target is not the label.
        top: Number of classes to keep for each token.
        logits: Whether to keep the logits of all classes too: 4 bytes per class, 28 MB per image for ViT-B/16.
        lens: How tokens are read; None is the paper's way.
        names: Names of the parts of an unknown model, see `utilities.analysis.class_embedding.spaces.class_space`.
        target: The class whose rank and logit are kept: ``"label"``, ``"prediction"`` or an index.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        Ranks, logits and classes; see `Lens` for the memory they take.

    Raises:
        ValueError: If an option is out of range, the model has no class-embedding space, or the grids of its blocks
            differ (in a CNN).

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> batches = [(images, torch.tensor([3, 7]))]
        >>> result = lens(vit_tiny_patch2_16(10, depth=2), batches, top=2, device="cpu")
        >>> result.rank.shape, result.top.shape, result.image_map(result.score).shape
        ((2, 3, 2, 65), (2, 3, 2, 65, 2), (2, 3, 2, 8, 8))
    """
    space = class_space(model, lens, names)
    _check(space, top)
    check_target(target, space.num_classes)
    reader = TokenReader(top, logits)
    n = run_readers(space, loader, [reader], target=target, device=device, progress=progress, description="lens")
    arrays = reader.values.arrays()
    arrays["tied"] = arrays["tied"] if arrays["tied"].any() else None
    facts = {"n": n, "target": target, "top": top, "lens": lens_facts(space.options), "versions": versions()}
    return Lens(
        names=list(space.names),
        parts=list(space.parts),
        **arrays,
        prefix=space.prefix,
        class_token=space.class_token,
        grid=list(reader.grid),
        num_classes=space.num_classes,
        provenance=known_facts(provenance, loader) | facts,
    )


def lens_facts(options: LensOptions) -> dict[str, bool]:
    """Describe how tokens were read, for a result's provenance.

    Example:
        >>> lens_facts(LensOptions(bias=False))
        {'norm': True, 'bias': False, 'scale': True, 'tuned': False}
    """
    return {
        "norm": options.norm,
        "bias": options.bias,
        "scale": options.scale,
        "tuned": options.tuned is not None,
    }


def known_labels(batch: Batch) -> torch.Tensor:
    """Return the true classes of a batch, (batch,); -1 without labels.

    Example:
        >>> known_labels(Batch(torch.zeros(2, 3, 4, 4), torch.zeros(2), None, None))
        tensor([-1, -1])
    """
    if batch.labels is None:
        return torch.full((len(batch.images),), NO_LABEL)
    return batch.labels


class PerImage(Sums):
    """Values of images, gathered block by block and batch by batch.

    Example:
        >>> values = PerImage()
        >>> for batch in (torch.zeros(2, 3), torch.ones(1, 3)):
        ...     for block in range(4):
        ...         values.add("depth", batch + block)
        ...     values.end_batch(image=torch.arange(len(batch)))
        >>> {name: array.shape for name, array in values.arrays().items()}
        {'depth': (3, 4, 3), 'image': (3,)}
    """

    OWN = ("_blocks", "_axes")

    def __init__(self) -> None:
        self._blocks: dict[str, list[torch.Tensor]] = defaultdict(list)
        self._axes: dict[str, int] = {}
        self._batches: dict[str, list[np.ndarray]] = defaultdict(list)

    def add(self, name: str, values: torch.Tensor, axis: int = 1) -> None:
        """Add one block's values for a batch, (batch, ...); blocks are stacked along ``axis``."""
        self._blocks[name].append(values)
        self._axes[name] = axis

    def end_batch(self, **of_images: torch.Tensor) -> None:
        """Stack the blocks of a batch, and add values that belong to its images, (batch, ...)."""
        stacked = {name: torch.stack(blocks, self._axes[name]) for name, blocks in self._blocks.items()}
        for name, values in {**stacked, **of_images}.items():
            self._batches[name].append(values.cpu().numpy())
        self._blocks.clear()

    def arrays(self) -> dict[str, np.ndarray]:
        """Join the values of all images: name -> (images, ...)."""
        return {name: np.concatenate(batches) for name, batches in self._batches.items()}


class TokenReader(Sums):
    """Keeps rank, logit and first classes of every token, and optionally all its logits.

    Args:
        top: Number of classes to keep for each token.
        logits: Whether to keep all logits.
    """

    KEEPS, OWN = ("grid",), ("top",)

    def __init__(self, top: int, logits: bool = False) -> None:
        self.top, self.logits, self.grid, self.values = top, logits, None, PerImage()

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Reduce the logits of one block's parts."""
        self.grid = self.grid or tokens.grid
        if tokens.grid != self.grid:
            raise ValueError(
                f"{tokens.space.names[tokens.index]} has a grid of {_size(tokens.grid)} tokens, and others one of "
                f"{_size(self.grid)}: the lens of all tokens needs one grid; identifiability(...) takes several"
            )
        logits = [tokens.logits(part) for part in tokens.space.parts]
        above, tied = zip(*(places(x, batch.target) for x in logits), strict=True)
        self.values.add("rank", torch.stack(above, 1).to(torch.int16), axis=2)
        self.values.add("tied", torch.stack(tied, 1).to(torch.int16), axis=2)
        self.values.add("logit", torch.stack([target_logit(x, batch.target).float() for x in logits], 1), axis=2)
        top = [x.topk(self.top, dim=2).indices.to(torch.int16) for x in logits]
        self.values.add("top", torch.stack(top, 1), axis=2)
        if self.logits:
            self.values.add("logits", torch.stack(logits, 1).float(), axis=2)

    def finish(self, batch: Batch) -> None:
        """Keep target, label and prediction of each image."""
        predictions = batch.logits.argmax(1)
        self.values.end_batch(target=batch.target, labels=known_labels(batch), predictions=predictions)


def _check(space: ClassSpace, top: int) -> None:
    """Refuse to keep no class, or more classes than the model has."""
    if isinstance(top, bool) or not isinstance(top, int) or not 1 <= top <= space.num_classes:
        raise ValueError(f"top={top!r} should be from 1 to the model's {space.num_classes} classes")


def _size(grid: tuple[int, int]) -> str:
    return "x".join(map(str, grid))
