"""Result in, figure out: one wing for each room of analyses, and `similarity` for comparisons of layers.

`paper` holds the one style, `captions` says what results were made from, `style` saves figures for print.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utilities import hand_on

if TYPE_CHECKING:
    from utilities.plots.style import save_figure, save_figures

__all__ = ["save_figure", "save_figures"]
__getattr__ = hand_on(__name__, {"style": ["save_figure", "save_figures"]})
