"""Stitch two networks: what accuracy is left when one goes on from the features of the other.

`stitches` is the function, `plan` chooses layers and pairs, `cuts` refuses layers with a shortcut around them, `shapes`
brings outputs together, `sums` solves for the maps, `fitting` fits and trains them, `testing` counts.
"""

from utilities.compare.stitching.stitches import stitch

__all__ = ["stitch"]
