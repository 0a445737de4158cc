"""Compare tokens that show the object with tokens that show its surroundings.

Vilas et al. 2023, https://arxiv.org/abs/2310.18969, pool class-labelled and context-labelled tokens over images. Here
both kinds are averaged over each image first, because tokens of one image are not independent. An image with only one
kind says nothing about the difference.
"""

from __future__ import annotations

import torch

from utilities.results.moments import precise

PLACES = ("class", "context")


def by_place(values: torch.Tensor, on_object: torch.Tensor | None) -> torch.Tensor:
    """Average over an image's class-labelled tokens and over its context-labelled ones.

    Args:
        values: One value for each image token, (batch, tokens).
        on_object: Whether each token shows the object, booleans (batch, tokens); None without masks.

    Returns:
        Means over class and context tokens, float64 (batch, 2); both NaN if all tokens of an image are of one kind.

    Example:
        >>> values = torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 4.0]])
        >>> by_place(values, torch.tensor([[True, False, False], [False, False, False]]))
        tensor([[1., 3.],
                [nan, nan]], dtype=torch.float64)
    """
    if on_object is None:
        return torch.full_like(precise(values[:, :1]), torch.nan).expand(-1, 2)
    values, kinds = precise(values), (on_object, ~on_object)
    sums = [torch.where(kind, values, 0).sum(1) / kind.sum(1) for kind in kinds]
    both = torch.stack([kind.any(1) for kind in kinds]).all(0)
    return torch.where(both[:, None], torch.stack(sums, 1), torch.nan)


def difference(places: torch.Tensor) -> torch.Tensor:
    """Subtract context from class: (batch, 2, ...) -> (batch, ...).

    Example:
        >>> difference(torch.tensor([[1.0, 3.0]]))
        tensor([-2.])
    """
    return places[:, 0] - places[:, 1]
