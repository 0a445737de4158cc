"""Norms and cosines of skip and branch, token by token, and their sums over images."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from utilities.hooks.calls.merging import Sums
from utilities.hooks.layout import Layout, has_class_token
from utilities.hooks.residuals import ResidualBranch
from utilities.results.statistics import mean_and_stderr


def ratio_and_cosine(skip: torch.Tensor, branch: torch.Tensor, axis: int = -1) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute ||z|| / ||f|| and the cosine of z and z + f along an axis.

    Args:
        skip: z, of any shape.
        branch: f, of the same shape.
        axis: The axis of the channels.

    Returns:
        Ratio, NaN where f is exactly zero, and cosine, NaN where z or z + f is; both in float64 (float32 on Apple's
        GPUs) without the axis.

    Example:
        >>> ratio, cosine = ratio_and_cosine(torch.tensor([[3.0, 4.0]]), torch.tensor([[-4.0, 3.0]]))
        >>> ratio.item(), round(cosine.item(), 4)
        (1.0, 0.7071)
    """
    if skip.dtype in (torch.float16, torch.bfloat16):
        skip, branch = skip.float(), branch.float()
    total = skip + branch
    wide = torch.float32 if skip.device.type == "mps" else torch.float64
    z, f, y = (torch.linalg.vector_norm(x, dim=axis).to(wide) for x in (skip, branch, total))
    inner = (skip * total).sum(axis).to(wide)
    nothing = z.new_tensor(torch.nan)
    return torch.where(f > 0, z / f, nothing), torch.where((z > 0) & (y > 0), inner / (z * y), nothing)


class Tokens:
    """Tell the tokens of a model's branches: which axis holds channels, which tokens have a place.

    Args:
        model: The model.

    Attributes:
        prefix: Number of tokens before those of positions.
        groups: Groups of tokens, see `SkipRatios`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layout = Layout(model)
        self.prefix, self._cls = self._layout.prefix, int(has_class_token(model))
        self.groups = ["CLS"] * self._cls + ["registers"] * (self.prefix > self._cls) + ["spatial"]

    def norms(
        self, name: str, branch: ResidualBranch, skip: torch.Tensor, added: torch.Tensor, size: tuple[int, int]
    ) -> tuple[dict[str, torch.Tensor], tuple[int, int], list[slice]]:
        """Compute ratio and cosine of each token, (batch, tokens), the grid of those with a place, and the groups.

        Raises:
            ValueError: If it cannot be told where the channels are.
        """
        skip, known = skip.reshape(added.shape), {"NCHW": 1, "NHWC": 3}.get(branch.layout)
        maps = added.ndim == 4
        axis = known if maps and known else self._layout.channel_axis(added.shape, branch.branch.module)
        if added.ndim not in (3, 4) or axis is None:
            raise ValueError(
                f"residual branch {name!r} gives {tuple(added.shape)}, and it cannot be told where its channels are"
            )
        ratio, cosine = (values.flatten(1) for values in ratio_and_cosine(skip, added, axis))
        if maps:
            grid = tuple(length for place, length in enumerate(added.shape) if place not in (0, axis))
        else:
            grid = _grid(ratio.shape[1] - self.prefix, size)
        return {"ratio": ratio, "cosine": cosine}, grid, self.members(ratio.shape[1], maps)

    def members(self, length: int, maps: bool) -> list[slice]:
        """Return the tokens of each group among so many; maps hold no class token."""
        prefix, first = (0, 0) if maps else (self.prefix, self._cls)
        found = [slice(0, first)] * self._cls + [slice(first, prefix)] * (self.prefix > self._cls)
        return [*found, slice(prefix, length)]


def _grid(count: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the grid of so many tokens that has the images' proportions; (0, 0) if there is none."""
    rows = round((count * size[0] / size[1]) ** 0.5)
    return (rows, count // rows) if rows and count % rows == 0 else (0, 0)


class BranchSums(Sums):
    """Ratios and cosines of one branch over all images so far.

    Args:
        name: Name of the branch.
        kind: Its kind.

    Attributes:
        grid: Rows and columns of the positions.
        prefix: Number of tokens before those of positions.
        seen: Number of tokens in all images.
        without: ``"ratio"`` and ``"cosine"`` -> number of tokens that have none.
    """

    ADDS, KEEPS = ("seen", "without"), ("name", "kind", "grid", "prefix")

    def __init__(self, name: str, kind: str) -> None:
        self.name, self.kind, self.grid, self.prefix, self.seen = name, kind, (0, 0), 0, 0
        self.without = {"ratio": 0, "cosine": 0}
        self._groups: dict[str, list[np.ndarray]] = {"ratio": [], "cosine": []}
        self._tokens = {name: TokenMoments() for name in self._groups}

    def add(self, values: dict[str, torch.Tensor], grid: tuple[int, int], members: list[slice]) -> None:
        """Add a batch: ratio and cosine of each token, (batch, tokens), their grid, and the tokens of each group."""
        self.grid, self.prefix = grid, members[-1].start
        self.seen += values["ratio"].numel()
        for name, tensor in values.items():
            array = tensor.cpu().double().numpy()
            self.without[name] += int(np.isnan(array).sum())
            self._groups[name].append(np.stack([mean_and_stderr(array[:, part].T)[0] for part in members], 1))
            self._tokens[name].add(array)

    def of_images(self, value: str) -> np.ndarray:
        """Return each image's mean over the tokens of each group, (images, groups); NaN without a value."""
        return np.concatenate(self._groups[value])

    def of_tokens(self, value: str) -> np.ndarray:
        """Average each token over images, and give its standard error, (2, tokens)."""
        return np.stack(self._tokens[value].mean_and_stderr())


class TokenMoments:
    """Mean over images of each token, with its standard error, where some images have no value.

    Example:
        >>> moments = TokenMoments()
        >>> moments.add(np.array([[1.0, 5.0], [3.0, np.nan]]))
        >>> moments.add(np.array([[5.0, 7.0]]))
        >>> [values.tolist() for values in moments.mean_and_stderr()]
        [[3.0, 6.0], [1.154..., 1.0]]
    """

    def __init__(self) -> None:
        self._shift: np.ndarray | None = None  # close to the mean, so that squares cost no precision
        self._sums = np.zeros((3, 1))

    def add(self, values: np.ndarray) -> None:
        """Add a batch, (batch, tokens); NaN where an image has no value."""
        if self._shift is None:
            self._shift = np.nan_to_num(mean_and_stderr(values)[0])
        moved = np.nan_to_num(values - self._shift)
        self._sums = self._sums + np.stack([(~np.isnan(values)).sum(0), moved.sum(0), (moved**2).sum(0)])

    def merge(self, later: TokenMoments) -> None:
        """Add the images of other moments, whose sums are about another shift."""
        if self._shift is None or later._shift is None:
            self._shift, self._sums = (later._shift, later._sums) if self._shift is None else (self._shift, self._sums)
            return
        moved, (n, total, squares) = later._shift - self._shift, later._sums
        self._sums = self._sums + np.stack([n, total + n * moved, squares + 2 * moved * total + n * moved**2])

    def mean_and_stderr(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean (NaN without values) and its standard error (NaN with fewer than two), each (tokens,)."""
        n, total, squares = self._sums
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = total / n
            spread = np.maximum(squares - n * mean**2, 0) / np.where(n > 1, n * (n - 1), np.nan)
        return self._shift + mean, np.sqrt(spread)
