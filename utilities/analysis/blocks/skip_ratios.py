"""Skip connections and their branches: does a block carry on what it was given, or put something new in its place?

As in Raghu et al. 2021, https://arxiv.org/abs/2108.08810, Figs. 7, E.1 and E.2: for each token of each residual block
z + f(z), the norm of the skip over that of the branch, ||z|| / ||f(z)||, and the cosine of z and z + f(z).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.analysis.blocks.skip_sums import BranchSums, Tokens
from utilities.analysis.stream import stream
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.batch_parts import check_loader
from utilities.hooks.residual_reading import check_residuals, reading
from utilities.hooks.residuals import ResidualBranch, find_residuals
from utilities.results.result import Result
from utilities.results.statistics import mean_and_stderr
from utilities.utils import versions

VALUES = ("ratio", "cosine")


@dataclass(frozen=True)
class SkipRatios(Result):
    """Ratio of skip to branch, and cosine of skip and sum, for each residual branch.

    Groups are ``spatial``, and where the model has them ``CLS`` and ``registers`` (a distillation token counts among
    these). Values of a group are means over its tokens, first for each image.

    Attributes:
        names: Names of the branches, in the order in which they run.
        kinds: Kind of each branch: ``msa``, ``mlp`` or ``conv``.
        groups: Groups of tokens.
        prefix: Number of tokens before those of positions, (branches,).
        grid: Rows and columns of positions of each branch, (branches, 2); 0 where tokens form no grid that is known.
        image_ratio: Norm of the skip over that of the branch, (images, branches, groups); NaN without a value.
        image_cosine: Cosine of the skip and the sum, (images, branches, groups).
        token_ratio: Ratio of each token, mean over images, (branches, tokens); NaN beyond a branch's own tokens.
        token_ratio_stderr: Standard error of ``token_ratio`` over images.
        token_cosine: Cosine of each token, mean over images, (branches, tokens).
        token_cosine_stderr: Standard error of ``token_cosine`` over images.
        left_out: Number of tokens without a ratio, as their branch is exactly zero, (branches,).
        without_cosine: Number of tokens without a cosine, as the skip or the sum is exactly zero, (branches,).
        tokens_seen: Number of tokens in all images, (branches,).
        provenance: What it was made from.
    """

    names: list[str]
    kinds: list[str]
    groups: list[str]
    prefix: np.ndarray
    grid: np.ndarray
    image_ratio: np.ndarray
    image_cosine: np.ndarray
    token_ratio: np.ndarray
    token_ratio_stderr: np.ndarray
    token_cosine: np.ndarray
    token_cosine_stderr: np.ndarray
    left_out: np.ndarray
    without_cosine: np.ndarray
    tokens_seen: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def depth(self) -> np.ndarray:
        """Relative position of each branch, from 0 for the first to 1 for the last."""
        return np.linspace(0, 1, len(self.names))

    @property
    def ratio(self) -> np.ndarray:
        """Ratio of skip to branch, mean over images, (branches, groups)."""
        return self.mean("ratio")[0]

    @property
    def cosine(self) -> np.ndarray:
        """Cosine of skip and sum, mean over images, (branches, groups)."""
        return self.mean("cosine")[0]

    def mean(self, value: str) -> tuple[np.ndarray, np.ndarray]:
        """Average ``"ratio"`` or ``"cosine"`` over images, with its standard error, each (branches, groups)."""
        return mean_and_stderr(getattr(self, f"image_{value}"))

    def to_frame(self) -> pd.DataFrame:
        """Tabulate the result, one row for each branch and group."""
        means = {name: self.mean(name) for name in VALUES}
        rows = []
        for i, (name, kind) in enumerate(zip(self.names, self.kinds, strict=True)):
            for j, group in enumerate(self.groups):
                row = {"branch": name, "kind": kind, "tokens": group}
                for value, (mean, error) in means.items():
                    row |= {value: mean[i, j], f"{value}_stderr": error[i, j]}
                rows.append(row | {"left_out": self.left_out[i]})
        return pd.DataFrame(rows)


def skip_ratios(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    device: str | torch.device = "auto",
    progress: bool = True,
    provenance: Mapping[str, Any] | None = None,
) -> SkipRatios:
    """Measure for every residual branch how large the skip is beside the branch, and how far the sum turns from it.

    For each token, or position of a map, with skip z and branch f(z), norms being over channels,

        ratio = ||z|| / ||f(z)||,    cosine = z . (z + f(z)) / (||z|| ||z + f(z)||)

    LayerScale, stochastic depth and norms in the branch are part of f. See `utilities.hooks.residuals` for what skip
    and branch are in each family. Blocks without a skip, such as those of an EfficientNet that change the resolution,
    have no such numbers.

    Args:
        model: A model with residual branches, not changed. It runs in eval mode.
        loader: Yields images, or (images, labels), all of one size.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.
        provenance: Facts to keep with the result.

    Returns:
        The ratios and cosines. A token whose branch is exactly zero has no ratio and is left out of the means; the
        branches concerned are named in a warning.

    Raises:
        ValueError: If the model has no residual branch that is known, a branch is not what its block adds, images have
            several sizes, skips and branches are all zero, or there is no image.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> result = skip_ratios(vit_tiny_patch2_16(depth=2), [images], device="cpu")
        >>> result.names[:2], result.groups, result.ratio.shape
        (['blocks.0.attn', 'blocks.0.mlp'], ['CLS', 'spatial'], (4, 2))
    """
    check_loader(loader)
    branches, tokens = find_residuals(model), Tokens(model)
    sums: dict[str, BranchSums] = {}
    size = None

    def take(name: str, branch: ResidualBranch, skip: torch.Tensor, added: torch.Tensor) -> None:
        if name not in sums:
            sums[name] = BranchSums(name, branch.kind)
        sums[name].add(*tokens.norms(name, branch, skip, added, size))

    run = {"device": device, "progress": progress, "description": "skip ratios", "sums": sums}
    with stream(model, loader, **run) as batches:
        for images, _ in batches:
            if size is None:
                check_residuals(model, branches, images[:2])
                size = tuple(images.shape[-2:])
            if tuple(images.shape[-2:]) != size:
                both = " and ".join("x".join(map(str, shape)) for shape in (size, images.shape[-2:]))
                raise ValueError(f"images have several sizes, {both} pixels; bring them to one")
            with reading(branches, take) as begin:
                begin()
                model(images)
    return _collect(list(sums.values()), tokens, known_facts(provenance, loader))


def _collect(sums: Sequence[BranchSums], tokens: Tokens, provenance: dict[str, Any]) -> SkipRatios:
    """Collect the result, and name branches with tokens that have no value in a warning."""
    if all(one.without[value] == one.seen for one in sums for value in VALUES):
        raise ValueError(
            "skip ratios: skips and branches are exactly zero on every token, as on images of one grey; give other "
            "images, or look at the model's weights"
        )
    for value, reason in (("ratio", "branch is"), ("cosine", "skip or sum is")):
        some = [f"{one.name} ({one.without[value]:,} of {one.seen:,})" for one in sums if one.without[value]]
        if some:
            text = f"tokens whose {reason} exactly zero have no {value} and are left out: {', '.join(some)}"
            warnings.warn(text, stacklevel=3)
    arrays = {f"image_{value}": np.stack([one.of_images(value) for one in sums], 1) for value in VALUES}
    for value in VALUES:
        rows = [one.of_tokens(value) for one in sums]
        longest = max(row.shape[1] for row in rows)
        padded = [np.pad(row, ((0, 0), (0, longest - row.shape[1])), constant_values=np.nan) for row in rows]
        arrays[f"token_{value}"], arrays[f"token_{value}_stderr"] = np.stack(padded, 1)
    return SkipRatios(
        names=[one.name for one in sums],
        kinds=[one.kind for one in sums],
        groups=tokens.groups,
        prefix=np.array([one.prefix for one in sums]),
        grid=np.array([one.grid for one in sums]),
        **arrays,
        left_out=np.array([one.without["ratio"] for one in sums]),
        without_cosine=np.array([one.without["cosine"] for one in sums]),
        tokens_seen=np.array([one.seen for one in sums]),
        provenance=provenance | {"n": len(arrays["image_ratio"]), "versions": versions()},
    )
