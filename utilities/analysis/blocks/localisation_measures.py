"""How sharply positions are localised: measures of a map of similarities with the patches of an image."""

from __future__ import annotations

import numpy as np

from utilities.analysis.blocks.patch_grid import PatchGrid

MEASURES = ("own", "others", "contrast", "found", "near", "distance")


class Place:
    """Where a layer's positions lie among the patches.

    Args:
        grid: The patches.
        centres: Centres of the positions in pixels, (positions, 2).
        cell: Height and width of a position's cell.
    """

    def __init__(self, grid: PatchGrid, centres: np.ndarray, cell: np.ndarray) -> None:
        self.own = grid.own(centres, cell)
        self.near = grid.with_neighbours(self.own)
        self.distance = np.linalg.norm(centres[:, None] - grid.centres[None], axis=2)

    def measures(self, maps: np.ndarray) -> np.ndarray:
        """Compute the measures of a layer from its similarities, (positions, patches).

        A position without variance, or whose own patches have none, has no measures.
        """
        known = np.isfinite(maps)
        kept = (known & self.own).any(1) & (known & ~self.own).any(1)
        if not kept.any():
            return np.full(len(MEASURES), np.nan)
        maps, known, own = maps[kept], known[kept], self.own[kept]
        best = np.where(known, maps, -np.inf).argmax(1)
        rows = np.arange(len(best))
        on, off = (_mean_where(maps, known & mask) for mask in (own, ~own))
        parts = [on, off, on - off]
        parts += [part[kept][rows, best].astype(float) for part in (self.own, self.near, self.distance)]
        return np.array([part.mean() for part in parts])

    def chance(self, maps: np.ndarray) -> np.ndarray:
        """Compute the measures for a most similar patch drawn at random from those with variance."""
        known = np.isfinite(maps)
        kept = (known & self.own).any(1) & (known & ~self.own).any(1)
        parts = (self.own, self.near, self.distance)
        found = [_mean_where(part[kept].astype(float), known[kept]).mean() if kept.any() else np.nan for part in parts]
        return np.array([np.nan, np.nan, np.nan, *found])


def _mean_where(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Average each row where a mask is set; each row has such an entry."""
    return np.where(mask, values, 0).sum(1) / mask.sum(1)
