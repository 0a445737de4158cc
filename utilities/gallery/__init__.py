"""Results on disk in, a static site out: pages that open from disk and need no server, kernel or network.

`entries` finds what belongs to each notebook, `heatmaps` hands similarities to the browser, `site` writes the pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.gallery.site import build_gallery

__all__ = ["build_gallery"]
__getattr__ = hand_on(__name__, {"site": ["build_gallery"]})
