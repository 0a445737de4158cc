"""What every token of an image says about its class, block by block: choose an image, a block, and point at a token."""

from __future__ import annotations

import html
from collections.abc import Sequence

import ipywidgets as widgets
import numpy as np
import plotly.graph_objects as go

from utilities.analysis.class_embedding.lens import Lens
from utilities.explorer.heatmap import figure_widget, replace_figures
from utilities.gallery.heatmaps import colour_scale
from utilities.plots.class_embedding.lens import PART_TITLES

SIDE = 320  # pixels of a picture


class TokenLens(widgets.VBox):
    """An image beside the map of its tokens.

    Args:
        result: The lens' readings of some images.
        images: The same images, (images, height, width, 3), values from 0 to 1.
        classes: Names of the classes.

    Example:
        >>> tokens = np.zeros((1, 1, 1, 4), np.int16)
        >>> one = np.array([2])
        >>> result = Lens(["b"], ["block"], tokens, tokens, tokens[..., None], one, one, one, 0, False, [2, 2], 10)
        >>> shown = TokenLens(result, np.zeros((1, 4, 4, 3)), list("abcdefghij"))
        >>> shown.told(0, 0, 0, 3)
        'token (1, 1): a; rank of c: 1 of 10'
    """

    def __init__(self, result: Lens, images: np.ndarray, classes: Sequence[str]) -> None:
        self.result, self.images, self.classes = result, images, list(classes)
        self.image = widgets.IntSlider(1, 1, len(images), description="image")
        self.block = widgets.SelectionSlider(options=result.names, value=result.names[-1], description="block")
        self.part = widgets.Dropdown(
            options=[(f"state {PART_TITLES[part]}" if part == "block" else PART_TITLES[part], part)
                     for part in result.parts], description="reads",
        )  # fmt: skip
        self.drawn = widgets.HBox(layout={"flex_flow": "row wrap"})
        self.text = widgets.HTML()
        for one in (self.image, self.block, self.part):
            one.observe(lambda _: self._draw(), "value")
        choices = widgets.HBox([self.image, self.block, self.part], layout={"flex_flow": "row wrap"})
        super().__init__([choices, self.drawn, self.text])
        self._draw()

    def told(self, image: int, part: int, block: int, token: int) -> str:
        """State what a token says: its first classes, and the rank of the image's class."""
        found = self.result
        place = "class token" if token < found.prefix else "token ({}, {})".format(
            *divmod(token - found.prefix, found.grid[1])
        )  # fmt: skip
        first = ", ".join(self.classes[k] for k in found.top[image, part, block, token])
        own = self.classes[found.target[image]]
        rank = int(found.rank[image, part, block, token]) + 1
        return f"{place}: {first}; rank of {own}: {rank} of {found.num_classes}"

    def _draw(self) -> None:
        image, part, block = self.image.value - 1, self.result.parts.index(self.part.value), self.block.index
        scores = self.result.image_map(self.result.score[image, part, block])
        count = len(self.result.rank[image, part, block])
        said = [self.told(image, part, block, token) for token in range(self.result.prefix, count)]
        shown = go.Image(z=(self.images[image] * 255).astype(np.uint8), hoverinfo="skip")
        tokens = go.Heatmap(
            z=scores.astype(np.float32), zmin=0, zmax=1, colorscale=colour_scale("viridis"),
            customdata=np.array(said, object).reshape(self.result.grid),
            hovertemplate="%{customdata}<extra></extra>", colorbar={"thickness": 12},
        )  # fmt: skip
        own = self.classes[self.result.target[image]]
        replace_figures(self.drawn, [_square(shown, own), _square(tokens, "class identifiability", more=80)])
        answer = self.classes[self.result.predictions[image]]
        lines = [f"The model's answer: {answer}."]
        lines += [f"{self.told(image, part, block, 0)}."] if self.result.class_token else []
        self.text.value = "<br>".join(html.escape(line) for line in lines)


def _square(trace: go.Image | go.Heatmap, title: str, more: int = 0) -> go.FigureWidget:
    """Draw a picture, with its first row at the top; ``more`` pixels are for its colour bar."""
    bare = {"visible": False, "constrain": "domain"}
    layout = {
        "width": SIDE + more, "height": SIDE, "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
        "title": {"text": html.escape(title), "font": {"size": 14}},
        "xaxis": bare, "yaxis": {**bare, "autorange": "reversed", "scaleanchor": "x"},
    }  # fmt: skip
    return figure_widget([trace], layout)
