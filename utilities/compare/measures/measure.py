"""How a measure compares many layers at once, and how its function compares two."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy.typing import ArrayLike

from utilities.hooks.features import unit_scale
from utilities.metrics import _as_matrix

Axis = Literal["row", "column"]


@dataclass(frozen=True)
class Measure:
    """Describe how one measure compares every layer of one model with every layer of another.

    Attributes:
        title: Title for captions.
        symmetric: Whether swapping x and y gives the same value.
        prepare_row: Function that takes a layer x as returned by `centered`, (n, r), and keeps what the measure needs.
            It is called once for each layer. It may raise a ValueError for a reason that only the values show (SVCCA).
        prepare_column: The same function for a layer y.
        pairs: Function that takes prepared rows and columns and returns their similarities, (rows, columns), float64;
            NaN where a layer has no variance.
        check: Function that takes the number of images, the layer's own width and ``"row"`` or ``"column"``. It returns
            the reason why such a layer cannot be compared, or None.
        chance: Value that independent features give.

    Example:
        >>> from utilities.compare.measures import SIMILARITY_MEASURES
        >>> layers = torch.randn(4, 50, 8, generator=torch.Generator().manual_seed(0)).double()
        >>> measure, layers = SIMILARITY_MEASURES["cca"], [centered(layer) for layer in layers]
        >>> rows, columns = map(measure.prepare_row, layers), map(measure.prepare_column, layers)
        >>> measure.pairs(list(rows), list(columns)).diagonal()
        tensor([1.0000, 1.0000, 1.0000, 1.0000], dtype=torch.float64)
    """

    title: str
    symmetric: bool
    prepare_row: Callable[[torch.Tensor], Any]
    prepare_column: Callable[[torch.Tensor], Any]
    pairs: Callable[[list[Any], list[Any]], torch.Tensor]
    check: Callable[[int, int, Axis], str | None]
    chance: str


def centered(x: torch.Tensor) -> torch.Tensor:
    """Centre features and, if there are at least as many as images, rotate them into n columns.

    The R of Xᵀ = QR gives Rᵀ = XQ. No measure that accepts such wide features is changed by a rotation. A spread below
    the rounding of the values counts as none.

    Args:
        x: Features, (n, p), float64.

    Returns:
        (n, min(n, p)).

    Example:
        >>> centered(torch.tensor([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0]]))
        tensor([[-2., 0.],
                [ 0., 0.],
                [ 2., 0.]])
    """
    mean = x.mean(0)
    x = x - mean
    if x.norm() <= 8 * torch.finfo(x.dtype).eps * len(x) ** 0.5 * mean.norm():
        x = torch.zeros_like(x)
    return x if x.shape[1] < len(x) else torch.linalg.qr(x.T, mode="r").R.T


def compare_two(measure: Measure, x: ArrayLike | torch.Tensor, y: ArrayLike | torch.Tensor) -> float:
    """Compare two layers by one measure, after checking the arguments of the public functions."""
    x, y = _as_matrix(x, "x"), _as_matrix(y, "y")
    if len(x) != len(y):
        raise ValueError(f"x and y should be features of the same images, but have {len(x)} and {len(y)} rows")
    prepared = []
    for name, axis, layer in (("x", "row", x), ("y", "column", y)):
        if reason := measure.check(len(layer), layer.shape[1], axis):
            raise ValueError(f"{name}: {reason}")
        prepare = measure.prepare_row if axis == "row" else measure.prepare_column
        try:
            prepared.append([prepare(centered(unit_scale(layer)[0]))])
        except ValueError as reason:
            raise ValueError(f"{name}: {reason}") from None
    value = measure.pairs(*prepared).item()
    if value != value:
        warnings.warn(
            f"{measure.title} is not defined: x or y has no variance (for RSA: of its distances)", stacklevel=3
        )
    return value


def too_few(least: int, n: int, width: int, axis: Axis) -> str | None:
    """Return the reason why fewer images than ``least`` cannot be compared, or None.

    Example:
        >>> too_few(3, 2, 8, "row")
        'at least 3 images are needed, not 2'
    """
    return None if n >= least else f"at least {least} images are needed, not {n}"


def inner_products(rows: list[torch.Tensor], columns: list[torch.Tensor]) -> torch.Tensor:
    """Multiply each row's tensor with each column's, in one product for all.

    Example:
        >>> inner_products([torch.ones(2, 2)], [torch.ones(2, 2), torch.eye(2)])
        tensor([[4., 2.]])
    """
    return torch.stack([a.flatten() for a in rows]) @ torch.stack([b.flatten() for b in columns]).T


def each_pair(similarity: Callable[[Any, Any], torch.Tensor], rows: list[Any], columns: list[Any]) -> torch.Tensor:
    """Compute the similarity of each row with each column, one by one.

    Example:
        >>> each_pair(torch.dot, [torch.ones(2)], [torch.ones(2), torch.zeros(2)])
        tensor([[2., 0.]])
    """
    return torch.stack([torch.stack([similarity(a, b) for b in columns]) for a in rows])


def undefined(x: torch.Tensor) -> torch.Tensor:
    """Return NaN for each pair of images: what is kept of a layer without variance.

    Example:
        >>> undefined(torch.zeros(1, 3))
        tensor([[nan]])
    """
    return torch.full((len(x), len(x)), float("nan"), dtype=x.dtype, device=x.device)
