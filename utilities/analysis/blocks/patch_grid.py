"""The grid of patches that images are cut into, and where positions of a layer lie among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from utilities.hooks.vit_parts import vit_parts

PARTS = 14  # patches along the shorter side of an image, where neither model nor user says: 16 of 224 pixels
MOST = 32  # patches along a side; a model whose own patches are smaller than that gets larger ones


@dataclass(frozen=True)
class PatchGrid:
    """Square patches that images are cut into.

    Attributes:
        size: Height and width of the images in pixels.
        patch: Side of a patch in pixels.

    Example:
        >>> PatchGrid((4, 8), 2).shape, PatchGrid((4, 8), 4).centres.tolist()
        ((2, 4), [[2.0, 2.0], [2.0, 6.0]])
    """

    size: tuple[int, int]
    patch: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch, self.size[1] // self.patch

    @property
    def centres(self) -> np.ndarray:
        """Centre of each patch in pixels from the upper left corner, (patches, 2)."""
        return (np.indices(self.shape).reshape(2, -1).T + 0.5) * self.patch

    def cut(self, images: torch.Tensor) -> torch.Tensor:
        """Cut images into patches, (batch, channels, height, width) -> (patches, batch, pixels of a patch)."""
        parts = images.unfold(2, self.patch, self.patch).unfold(3, self.patch, self.patch)
        return parts.permute(2, 3, 0, 1, 4, 5).flatten(0, 1).flatten(2)

    def own(self, centres: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Tell which patches belong to which position, (positions, patches).

        They are the patch that the position's centre lies in, and those whose centres lie in the position's cell.

        Args:
            centres: Centre of each position in pixels, (positions, 2).
            cell: Height and width of a position's cell in pixels, (2,).

        Example:
            >>> PatchGrid((4, 4), 2).own(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([2.0, 2.0])).sum(1)
            array([1, 1])
            >>> PatchGrid((4, 4), 1).own(np.array([[1.0, 1.0]]), np.array([2.0, 2.0])).sum(1)  # 2x2 patches in a cell
            array([4])
        """
        inside = (np.abs(self.centres[None] - centres[:, None]) < np.asarray(cell) / 2 - 1e-9).all(2)
        place = np.minimum(centres // self.patch, np.array(self.shape) - 1).astype(int)
        inside[np.arange(len(centres)), place[:, 0] * self.shape[1] + place[:, 1]] = True
        return inside

    def with_neighbours(self, chosen: np.ndarray) -> np.ndarray:
        """Add to chosen patches the eight around each, (..., patches).

        Example:
            >>> PatchGrid((3, 3), 1).with_neighbours(np.eye(9, dtype=bool)[0]).sum()
            np.int64(4)
        """
        maps = chosen.reshape(-1, *self.shape)
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
        rows, columns = self.shape
        shifted = [padded[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3)]
        return np.any(shifted, axis=0).reshape(chosen.shape)


def choose_patch(model: nn.Module, size: torch.Size | tuple[int, int], patch: int | None = None) -> PatchGrid:
    """Choose the patches that images of a size are cut into.

    Args:
        model: A transformer's own patches are taken, unless they are more than 32 along a side of the image.
        size: Height and width of the images.
        patch: Side of a patch in pixels; None is the model's, or the whole number of pixels that divides the image and
            is nearest to a fourteenth of its shorter side.

    Raises:
        ValueError: If the image is not a whole number of patches; the message lists the sides that fit.

    Example:
        >>> [choose_patch(nn.Flatten(), (side, side)).patch for side in (224, 32, 16)]
        [16, 2, 1]
    """
    height, width = int(size[0]), int(size[1])
    fitting = [side for side in range(1, min(height, width) + 1) if height % side == 0 == width % side]
    if patch is None:
        parts = vit_parts(model)
        own = getattr(getattr(model, "patch_embed", None), "patch_size", None) if parts is None else parts.step
        own = own[0] if isinstance(own, (tuple, list)) and len(set(own)) == 1 else own
        if isinstance(own, int) and own in fitting and max(height, width) <= MOST * own:
            patch = own
        else:
            patch = min(fitting, key=lambda side: abs(side - min(height, width) / PARTS))
    if patch not in fitting or patch == min(height, width) == max(height, width):
        sides = ", ".join(map(str, fitting[:-1] if height == width else fitting))
        raise ValueError(
            f"patch={patch!r} does not cut images of {height}x{width} pixels into two patches or more; sides that do: "
            f"{sides}"
        )
    return PatchGrid((height, width), int(patch))
