"""The tab of analyses: one of them by name, for the models and images that are chosen."""

from __future__ import annotations

import html
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import plotly.graph_objects as go

from utilities.cli.analyses import ANALYSES, summary
from utilities.explorer.export import links, picture
from utilities.explorer.heatmap import depth_figure
from utilities.explorer.libraries import import_libraries
from utilities.explorer.request import FOLDER, Request, command
from utilities.explorer.runner import Runner
from utilities.gallery.heatmaps import labels_of

OFFERED = (
    "fourier", "variance", "attention_distance", "lambda_reach", "lesions", "skip_ratios", "receptive_field",
    "classify", "identifiability", "lens",
)  # fmt: skip
FEW = 32  # images of the lens, at most


class Analyses(widgets.VBox):
    """Choose an analysis, run it, and read what it found.

    Args:
        request: Gives the models and images that are chosen.
        folder: Where results are written.
    """

    def __init__(self, request: Callable[[], Request], folder: Path = FOLDER) -> None:
        self._request, self._folder = request, folder
        self.choice = widgets.Dropdown(options=[(name.replace("_", " "), name) for name in OFFERED],
                                       description="analysis")  # fmt: skip
        self.about, self.found = widgets.HTML(), widgets.VBox()
        self.code = widgets.VBox()
        self.choice.observe(lambda _: self._say(), "value")
        self.runner = Runner("Analyse", self._words, self._show, folder, "Run the analysis for the models above")
        super().__init__([self.choice, self.about, self.runner, self.found, self.code])
        self._say()

    def _say(self) -> None:
        self.about.value = html.escape(summary(ANALYSES[self.choice.value].function))

    def _asked(self) -> Request:
        asked = self._request()
        few = self.choice.value == "lens"  # which keeps all tokens of all images
        return replace(asked, n_images=min(asked.n_images or FEW, FEW)) if few else asked

    def _words(self) -> list[str]:
        self._shown = (self._asked(), self.choice.value)
        return self._shown[0].analysis_words(self._shown[1])

    def _show(self, path: Path) -> None:
        import_libraries()
        from utilities.analysis.class_embedding.lens import Lens
        from utilities.gallery.curves import as_data
        from utilities.gallery.tables import read_result

        asked, analysis = self._shown
        results = {file.stem: read_result(file) for file in _files(path, ".npz")}
        parts: list[widgets.Widget] = [_curves(plot) for plot in as_data(results, labels_of(results))]
        parts += [_lens(asked, one) for one in results.values() if isinstance(one, Lens)]
        files = _files(path, ".png")
        parts += [widgets.HTML(picture(file, f"{analysis}: {file.stem}")) for file in files]
        written = [*_files(path, ".csv"), *files, *_files(path, ".pdf")]
        parts += [widgets.HTML(f"{links(written)} Written to {html.escape(str(path.parent))}.")]
        self.found.children = parts
        self.code.children = [snippet("Command", command(asked.analysis_words(analysis), self._folder)),
                              snippet("Python", asked.analysis_python(analysis))]  # fmt: skip


def snippet(title: str, text: str) -> widgets.Textarea:
    """Show lines to be copied."""
    rows = min(16, text.count("\n") + 1 + len(text) // 140)
    return widgets.Textarea(text, description=title, rows=rows, layout={"width": "98%"}, disabled=False)


def _files(path: Path, ending: str) -> list[Path]:
    """List the files of a command: under its name, or its name and what follows."""
    return sorted(path.parent.glob(f"{path.name}*{ending}"))


def _curves(plot: dict[str, Any]) -> go.FigureWidget:
    mode = "lines+markers" if plot["joined"] else "markers"
    curves = [
        go.Scatter(
            x=curve["x"], y=curve["y"], text=curve["points"], name=curve["name"], mode=mode,
            error_y={"type": "data", "array": curve["errors"], "thickness": 1, "width": 0},
            hovertemplate="%{text}: %{y:.4g}<extra></extra>",
        )
        for curve in plot["curves"]
    ]  # fmt: skip
    return depth_figure(curves, plot["title"], height=360)


def _lens(asked: Request, result: Any) -> widgets.Widget:
    from utilities.datasets import load_dataset, make_loader
    from utilities.explorer.token_lens import TokenLens
    from utilities.study.class_embedding import pictures
    from utilities.zoo import input_options

    name, weights = next(pair for pair in asked.models if pair[0] == result.provenance["model"])
    data = load_dataset(asked.dataset, "test", n_images=asked.n_images, seed=asked.seed, **input_options(name, weights))
    loader = make_loader(data, asked.batch_size, seed=asked.seed)
    return TokenLens(result, pictures(loader, len(result.target))[1], data.classes)
