"""Where the queries and keys of attention lie in the image: a grid of tokens or a window, and what is left out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch

Size = tuple[int, int]
Step = tuple[float, float]


@dataclass(frozen=True)
class Places:
    """Places of an attention layer's tokens, for images of one size.

    Attributes:
        grid: Rows and columns of the tokens that attend to each other: those of the image, or of a window.
        step: Pixels of the image from a token to the next, down and across.
        prefix: Number of tokens before those of the grid, which have no place: class token, registers.
        allowed: Which keys each query may attend to, (windows, queries, keys) booleans; None allows all. A single
            window stands for all of them.
        present: Which queries are part of the image, (windows, queries); None counts all.

    Example:
        >>> Places((2, 2), (16, 16)).distances()[0]
        tensor([ 0.0000, 16.0000, 16.0000, 22.6274], dtype=torch.float64)
    """

    grid: Size
    step: Step
    prefix: int = 0
    allowed: torch.Tensor | None = None
    present: torch.Tensor | None = None

    @property
    def count(self) -> int:
        """Number of tokens of the grid."""
        return self.grid[0] * self.grid[1]

    @property
    def windows(self) -> int:
        """Number of windows that are told apart."""
        return max([1, *(len(part) for part in (self.allowed, self.present) if part is not None)])

    def distances(self) -> torch.Tensor:
        """Return the distance in pixels from each token to each, (tokens, tokens), float64."""
        return pixel_distances(self.grid, self.step)

    def uniform(self) -> torch.Tensor:
        """Return attention that is spread evenly over the allowed keys, (windows, 1, queries, keys), not normalised."""
        even = torch.ones(self.windows, 1, self.count, self.count, dtype=torch.float64)
        return even if self.allowed is None else even * self.allowed.cpu()[:, None]


@lru_cache(maxsize=32)
def pixel_distances(grid: Size, step: Step) -> torch.Tensor:
    """Return the distances in pixels between all places of a grid, (places, places), float64.

    Args:
        grid: Rows and columns.
        step: Pixels from a place to the next, down and across.

    Example:
        >>> pixel_distances((1, 3), (1.0, 4.0))
        tensor([[0., 4., 8.],
                [4., 0., 4.],
                [8., 4., 0.]], dtype=torch.float64)
    """
    axes = [torch.arange(n, dtype=torch.float64) * size for n, size in zip(grid, step, strict=True)]
    points = torch.cartesian_prod(*axes)
    return (points[:, None] - points[None]).square().sum(-1).sqrt()


def step_of_map(image: Size, grid: Size) -> Step:
    """Compute how many pixels of the image lie between neighbours of a map whose sides were halved some times.

    Layers of stride 2 round up. So the ratio of the sizes may be a little too small, and the next power of two is the
    product of the strides.

    Args:
        image: Height and width of the image.
        grid: Rows and columns of the map.

    Example:
        >>> step_of_map((16, 9), (2, 2))
        (8.0, 8.0)
    """
    down, across = (2.0 ** (-(-size // places) - 1).bit_length() for size, places in zip(image, grid, strict=True))
    return down, across
