"""Find where the images are in a layer's output, by looking at values instead of guessing from sizes.

A model is run on three images, and on two of them in another order. A dimension that grows with the number of images
counts them; the values along it show in which order. Thus 2n rows may hold each image's two rows side by side
(windows, flattened tokens), or all first halves before all second ones (``torch.cat`` inside a forward pass). Time
may come before the images, and a position embedding of 196 rows belongs to no image, whatever the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

SAMPLES = 64  # values looked at in each row, besides its mean and its mean square
FOLLOWS = 0.1  # share of the spread over images: a layer that differs by more does not follow its images
ROUNDING = 8.0  # multiple of a type's precision: a spread over images below it may be nothing but rounding
TIE = 4.0  # residuals within this factor are both rounding, and the more usual arrangement wins


@dataclass(frozen=True)
class Placement:
    """State where the images are: in a dimension of ``outer * n * inner``, row ``(j * n + image) * inner + k``.

    Attributes:
        axis: The dimension that counts images.
        outer: Number of runs over all images in it; 1 where the image varies slowest.
        inner: Number of rows of one image that lie side by side; 1 where the image varies fastest.
        follows: Whether the values were seen to follow the images.
        sure: Whether the values could tell this arrangement from others; values of equal images cannot.
    """

    axis: int = 0
    outer: int = 1
    inner: int = 1
    follows: bool = True
    sure: bool = True

    def arrange(self, tensor: torch.Tensor, n: int) -> torch.Tensor:
        """Bring the images to the front, without a copy: (n, ...).

        Raises:
            ValueError: If the dimension does not hold n images.

        Example:
            >>> Placement(0, outer=2).arrange(torch.tensor([1, 2, 3, 10, 20, 30]), 3).tolist()
            [[1, 10], [2, 20], [3, 30]]
            >>> Placement(1).arrange(torch.zeros(5, 3, 8), 3).shape  # time first
            torch.Size([3, 5, 8])
        """
        size = tensor.shape[self.axis] if -tensor.ndim <= self.axis < tensor.ndim else 0
        if size == 0 or self.outer * n * self.inner != size:
            raise ValueError(
                f"dimension {self.axis} of its output {tuple(tensor.shape)} does not hold a batch of {n} images"
            )
        axis = self.axis % tensor.ndim
        if self.outer == self.inner == 1:
            return tensor if axis == 0 else tensor.movedim(axis, 0)
        split = tensor.unflatten(axis, (self.outer, n, self.inner)).movedim(axis + 1, 0)
        return split.squeeze(axis + 2) if self.inner == 1 else split.squeeze(axis + 1)


@dataclass
class Evidence:
    """Collect what a few passes show of one output.

    Attributes:
        shapes: Mapping from the number of images to the shape of the output.
        rows: Mapping from a dimension to a few values of each row along it, (size, values), in the first order.
    """

    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    rows: dict[int, torch.Tensor] = field(default_factory=dict)

    def see(self, n: int, tensor: torch.Tensor) -> None:
        """Record the output for n images in their first order: its shape, and a few values of every row."""
        self.shapes[n] = tuple(tensor.shape)
        self.rows = {axis: some_values(tensor, axis) for axis in self._counting(n)}

    def counts(self, n: int) -> bool:
        """Tell whether some dimension grows with the number of images; n is the first such number."""
        return bool(self._counting(n))

    def _counting(self, n: int) -> list[int]:
        """List the dimensions whose size is, or may be, proportional to the number of images."""
        shape, others = self.shapes[n], {m: s for m, s in self.shapes.items() if m != n}
        if any(len(other) != len(shape) for other in others.values()):
            return []
        return [
            axis
            for axis, size in enumerate(shape)
            if size and size % n == 0 and all(other[axis] * n == size * m for m, other in others.items())
        ]

    def place(self, n: int, again: torch.Tensor, order: Sequence[int], axis: int | None = None) -> Placement | str:
        """Determine where the images are, given some of them in another order.

        Args:
            n: Number of images in the first order.
            again: The output for some of them in another order.
            order: For each place, the index of its image in the first order.
            axis: The dimension that counts images, where the user states it.

        Returns:
            The placement, or the reason why the output belongs to no image.
        """
        self.shapes.setdefault(len(order), tuple(again.shape))
        shape = self.shapes[n]
        if axis is not None:
            return self._said(axis, n, again, order)
        counting = self._counting(n)
        if not counting or (len(order) == n and tuple(again.shape) != shape):
            seen = " and ".join(f"{s} for {m} images" for m, s in sorted(self.shapes.items()))
            return f"no dimension of its output counts images: {seen}"
        best = self._best(counting, n, again, order)
        # If only one size was seen and it is a multiple of n, and no value differs, there is no evidence either way.
        if best is not None and (best.sure or len(self.shapes) > 1):
            return best
        if len(self.shapes) > 1 and len(counting) == 1 and shape[counting[0]] == n:
            return Placement(counting[0], follows=False)
        return (
            f"dimension {counting[0]} of its output {shape} grows with the number of images, but its values do not "
            "follow them when they change places"
        )

    def _said(self, axis: int, n: int, again: torch.Tensor, order: Sequence[int]) -> Placement | str:
        shape, m = self.shapes[n], len(order)
        fits = -len(shape) <= axis < len(shape) and shape[axis] and again.ndim == len(shape)
        if not fits or shape[axis] % n or again.shape[axis] * n != shape[axis] * m:
            return f"batch_axis={axis} does not count images: its output is {shape} for a batch of {n}"
        axis %= len(shape)
        best = self._best([axis], n, again, order) if axis in self.rows else None
        return best or Placement(axis, inner=shape[axis] // n)

    def _best(self, counting: list[int], n: int, again: torch.Tensor, order: Sequence[int]) -> Placement | None:
        """Return the arrangement in which the values follow the images best, if any does.

        Rounding decides nothing. Among arrangements that fit alike, the image varies slowest, along an early dimension.
        """
        tried = []
        eps = torch.finfo(again.dtype).eps if again.dtype.is_floating_point else 0.0
        for axis in counting:
            first, second = self.rows[axis], some_values(again, axis)
            if first.shape[1] != second.shape[1]:
                continue
            for outer in sorted(_divisors(len(first) // n)):
                inner = len(first) // n // outer
                before, after = first.unflatten(0, (outer, n, inner)), second.unflatten(0, (outer, len(order), inner))
                residual = (after - before[:, list(order)]).norm().item()
                spread, size = (before - before.mean(1, keepdim=True)).norm().item(), before.norm().item()
                fits = residual <= FOLLOWS * spread + eps**0.5 * size
                # With one row per image there is one arrangement; with more, only differences above rounding tell.
                sure = outer * inner == 1 or spread > ROUNDING * eps * size
                tried.append((residual, fits, Placement(axis, outer, inner, sure=sure)))
        least = min((residual for residual, *_ in tried), default=0.0)
        alike = TIE * least + 1e-12 * max((rows.norm().item() for rows in self.rows.values()), default=0.0)
        return next((placement for residual, fits, placement in tried if fits and residual <= alike), None)


def some_values(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """Take a few values of every row along a dimension: (size, values), float64, finite.

    Example:
        >>> some_values(torch.tensor([[3.0, 1.0], [3.0, 7.0]]), axis=1).tolist()  # two values, mean, root mean square
        [[3.0, 3.0, 3.0, 3.0], [1.0, 7.0, 4.0, 5.0]]
    """
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    rows = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    if rows.shape[1] == 0:
        return torch.zeros(len(rows), 1, dtype=torch.float64)
    some = rows[:, :: max(1, rows.shape[1] // SAMPLES)].cpu().double()
    rows = rows.double() if rows.dtype == torch.float64 else rows.float()
    means = [rows.mean(1), rows.square().mean(1).sqrt()]
    return torch.cat([some, torch.stack(means, 1).cpu().double()], 1).nan_to_num(0.0, 0.0, 0.0)


def _divisors(count: int) -> set[int]:
    return {d for k in range(1, int(count**0.5) + 1) if count % k == 0 for d in (k, count // k)}
