"""What is compared: a model with its weights and layers, and the images."""

from __future__ import annotations

import html
from typing import Any

import ipywidgets as widgets

from utilities.cli.user_errors import USER_ERRORS
from utilities.explorer.catalogue import DATASETS, count_layers, models, weights_of
from utilities.explorer.request import RANDOM

BOX = {"width": "24em"}


class ModelChoice(widgets.VBox):
    """Choose a model, its weights and its layers.

    Args:
        title: What the choice is called.
        name: Model that is chosen at first.
        optional: Whether there may be none.
    """

    def __init__(self, title: str, name: str, optional: bool = False) -> None:
        empty = "none: model 1 with itself" if optional else "such as resnet18"
        late = {"continuous_update": False, "layout": BOX}
        self.name = widgets.Combobox(value=name, placeholder=empty, description=title, **late)
        self.weights = widgets.Dropdown(options=[RANDOM], description="weights", layout=BOX)
        self.layers = widgets.Text(placeholder="the main ones; or globs: layer?.* !*.conv?", description="layers",
                                   layout=BOX)  # fmt: skip
        self.count = widgets.HTML("counting its layers ..." if name else "")
        self.name.observe(lambda _: self._named(), "value")
        self.layers.observe(lambda _: self._count(), "value")
        super().__init__([self.name, self.weights, self.layers, self.count])

    def fill(self) -> None:
        """Fill the lists; this imports the models' libraries."""
        self.name.options = models()
        self._named()

    @property
    def value(self) -> tuple[str, str]:
        """Name and weights."""
        return self.name.value.strip(), self.weights.value

    @property
    def globs(self) -> tuple[str, ...]:
        """Globs of the layers."""
        return tuple(self.layers.value.split())

    def _named(self) -> None:
        """Offer the weights of another model, and count its layers."""
        self.weights.options = weights_of(self.name.value.strip())
        self._count()

    def _count(self) -> None:
        name = self.name.value.strip()
        try:
            self.count.value = html.escape(count_layers(name, self.globs)) if name else ""
        except (*USER_ERRORS, ImportError) as error:
            self.count.value = f'<div role="alert" style="color:#b00020;max-width:24em">{html.escape(str(error))}</div>'


class DataChoice(widgets.VBox):
    """Choose the images."""

    def __init__(self) -> None:
        self.dataset = widgets.Combobox(value="digits", options=DATASETS, description="images", continuous_update=False,
                                        layout=BOX)  # fmt: skip
        self.count = widgets.IntText(256, description="how many", layout=BOX)
        self.batch = widgets.IntText(64, description="in a batch", layout=BOX)
        self.seed = widgets.IntText(0, description="seed", layout=BOX)
        super().__init__([self.dataset, self.count, self.batch, self.seed])

    @property
    def value(self) -> dict[str, Any]:
        """What `utilities.explorer.request.Request` takes."""
        return {"dataset": self.dataset.value.strip(), "n_images": self.count.value, "batch_size": self.batch.value,
                "seed": self.seed.value}  # fmt: skip
