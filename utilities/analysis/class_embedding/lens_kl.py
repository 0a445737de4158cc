"""How far the lens of each block is from the last block's distribution over classes, raw and tuned.

The distance is KL(p || p_b), as in Belrose et al. 2023 (https://arxiv.org/abs/2303.08112). Here p is the distribution
that the lens reads from a token after the last block, and p_b the one it reads from that token after block b.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from utilities.analysis.class_embedding.block_tokens import BlockTokens
from utilities.analysis.class_embedding.lens import lens_facts
from utilities.analysis.class_embedding.readers import Batch, run_readers
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import space_of
from utilities.analysis.class_embedding.tuned import TunedLens
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.merging import Sums
from utilities.results.moments import Moments
from utilities.results.result import Result
from utilities.utils import versions

LENSES = ("raw", "tuned")


@dataclass(frozen=True)
class LensKL(Result):
    """How far the lens is from the last block's distribution over classes, raw and tuned, in nats.

    Attributes:
        names: Names of the blocks.
        groups: ``CLS``, if there is a class token, and ``image``, mean over tokens.
        kl: KL(last block || block) of the raw lens, then of the tuned one, mean over images, (2, blocks, groups). NaN
            where the raw lens cannot read a block because its width is not that of the last block.
        stderr: Standard errors over images, (2, blocks, groups).
        provenance: What the result was made from.
    """

    names: list[str]
    groups: list[str]
    kl: np.ndarray
    stderr: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def to_frame(self) -> pd.DataFrame:
        """Tabulate: a row for each lens, group and block, with columns lens, group, block, name, kl, stderr."""
        tables = []
        for (i, lens), (j, group) in product(enumerate(LENSES), enumerate(self.groups)):
            columns = {"kl": self.kl[i, :, j], "stderr": self.stderr[i, :, j]}
            blocks = {"block": range(1, len(self.names) + 1), "name": self.names}
            tables.append(pd.DataFrame({"lens": lens, "group": group, **blocks, **columns}))
        return pd.concat(tables, ignore_index=True)


def tuned_lens_kl(
    model: nn.Module | ClassSpace,
    tuned: TunedLens,
    loader: Iterable[Any],
    *,
    lens: LensOptions | None = None,
    names: Mapping[str, Any] | None = None,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> LensKL:
    """Measure how far each block's lens, raw and tuned, is from the last block's, on images that the fit did not see.

    Args:
        model: The model that the lens was fitted to.
        tuned: The tuned lens, see `utilities.analysis.class_embedding.tuned_fit.fit_tuned_lens`.
        loader: Yields images that the fit did not see; labels are not needed.
        lens: How tokens are read, as for the fit.
        names: Names of the model's parts, as for the fit.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Raises:
        ValueError: If the lens was fitted to a model with another number of blocks, or with blocks of other widths.

    Example:
        >>> from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> model = vit_tiny_patch2_16(num_classes=10, depth=2)
        >>> images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> tuned = fit_tuned_lens(model, [images[:4]], epochs=1, device="cpu")
        >>> tuned_lens_kl(model, tuned, [images[4:]], device="cpu").kl[:, -1].tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    space = space_of(model, lens, names)
    if len(space.blocks) != len(tuned.widths):
        raise ValueError(f"a tuned lens of {len(tuned.widths)} blocks was not fitted to {len(space.blocks)} blocks")
    measure = _Measure(space, tuned)
    n = run_readers(space, loader, [measure], target=0, device=device, progress=progress, description="KL of lenses")
    facts = {
        **known_facts(provenance, loader),
        "n": n,
        "lens": lens_facts(space.options),
        "fit": tuned.facts,
        "versions": versions(),
    }
    return LensKL(space.names, list(space.groups()), measure.moments.mean, measure.moments.stderr, facts)


def divergence(final: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    """Compute KL(softmax(final) || softmax(logits)) in nats: (..., classes) twice -> (...).

    Example:
        >>> divergence(torch.tensor([0.0, 0.0]), torch.tensor([0.0, 0.0]))
        tensor(0.)
    """
    final, logits = (x.to(torch.promote_types(x.dtype, torch.float32)).log_softmax(-1) for x in (final, logits))
    return (final.exp() * (final - logits)).sum(-1)


def on_grid(logits: torch.Tensor, prefix: int, grid: tuple[int, int], wanted: tuple[int, int]) -> torch.Tensor:
    """Resample token logits from one grid to another by nearest neighbour; prefix tokens are unchanged.

    Args:
        logits: Logits of each token, (batch, prefix + rows * columns, classes).
        prefix: Number of tokens before those of the image.
        grid: Rows and columns of the image tokens.
        wanted: Rows and columns of the result.

    Example:
        >>> on_grid(torch.arange(4.0).view(1, 4, 1), 0, (2, 2), (2, 4)).flatten().tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0]
    """
    if grid == wanted:
        return logits
    image = logits[:, prefix:].mT.unflatten(2, grid)
    image = F.interpolate(image, wanted, mode="nearest-exact").flatten(2).mT
    return torch.cat([logits[:, :prefix], image], 1)


class AllBlocks(ABC):
    """Keeps the tokens of all blocks for a batch, because the last block's answer is only known at the end."""

    def __init__(self, space: ClassSpace) -> None:
        self.space = space
        self.after: list[torch.Tensor] = []
        self.grids: list[tuple[int, int]] = []

    def block(self, tokens: BlockTokens, batch: Batch) -> None:
        """Keep a block's tokens."""
        self.after.append(tokens.after)
        self.grids.append(tokens.grid)

    def finish(self, batch: Batch) -> None:
        """Process the batch, and drop its tokens."""
        self.work()
        self.after, self.grids = [], []

    @abstractmethod
    def work(self) -> None:
        """Process a batch, given the tokens of all its blocks."""

    def finals(self) -> list[torch.Tensor]:
        """Resample the logits of the last block's tokens to the grid of each block."""
        last = self.space.project(self.after[-1])
        return [on_grid(last, self.space.prefix, self.grids[-1], grid) for grid in self.grids]


class _Measure(AllBlocks, Sums):
    """Measures the divergence of raw and tuned lens for each image, block and group of tokens."""

    OWN = ("after", "grids")

    def __init__(self, space: ClassSpace, tuned: TunedLens) -> None:
        super().__init__(space)
        self.tuned, self.moments = tuned, Moments()

    def work(self) -> None:
        """Add the images of a batch: (batch, 2, blocks, groups)."""
        blocks = [self._of_block(index, final) for index, final in enumerate(self.finals())]
        self.moments.add(torch.stack(blocks, 2))

    def _of_block(self, index: int, final: torch.Tensor) -> torch.Tensor:
        """Measure one block: (batch, 2, groups)."""
        tokens = self.after[index]
        readable = tokens.shape[2] == self.after[-1].shape[2]
        tuned = divergence(final, self.space.project(tokens, index, self.tuned))
        raw = divergence(final, self.space.project(tokens)) if readable else torch.full_like(tuned, torch.nan)
        groups = self.space.groups().values()
        return torch.stack([torch.stack([x[:, group].mean(1) for group in groups], 1) for x in (raw, tuned)], 1)
