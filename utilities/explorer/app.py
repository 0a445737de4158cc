"""The explorer: choose, compare, question, analyse, export."""

from __future__ import annotations

import html
import json
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import ipywidgets as widgets

from utilities.cli.user_errors import USER_ERRORS
from utilities.explorer.analyses import Analyses, snippet
from utilities.explorer.catalogue import saved_similarities
from utilities.explorer.export import links, picture, write_all
from utilities.explorer.heatmap import AnsweringHeatmap, alike
from utilities.explorer.libraries import import_libraries
from utilities.explorer.models import DataChoice, ModelChoice
from utilities.explorer.request import FOLDER, PROJECT_ROOT, Request, command
from utilities.explorer.runner import Runner
from utilities.results.similarity import Similarity
from utilities.results.writing import write_json

NOTHING = ("nothing", "")
ROW = {"flex_flow": "row wrap"}
# What a result was made by, beside it; read again when the result is chosen.
ASKED = ".asked.json"
# The label of a tab that is not chosen is too pale to be read by all.
AGAIN = (2, 4, 8, 16, 32)  # seconds between tellings of what was filled
STYLE = "<style>.explorer .lm-TabBar-tab { color: var(--jp-ui-font-color0, #000) !important; }</style>"


class Explorer(widgets.VBox):
    """All of it; `explore` makes one.

    Args:
        folders: Folders of saved results; without any, those of the project.
        out: Folder of new results.
    """

    def __init__(self, folders: Sequence[str | Path] = (), out: Path = FOLDER) -> None:
        self._folders, self._out, self._filling = folders, out, False
        self.first, self.second = ModelChoice("model 1", "resnet18"), ModelChoice("model 2", "", optional=True)
        self.data = DataChoice()
        self.measure = widgets.Dropdown(options=["cka"], description="measure")
        self.view = widgets.Combobox(value="flatten", description="view", continuous_update=False)
        self.compare = Runner("Compare", self._compare_words, self._compared, out, "Compare the layers of both models")
        self.saved = widgets.Dropdown(description="result", layout={"width": "60em", "max_width": "98%"})
        self.beside = widgets.Dropdown(description="beside it", layout={"width": "60em", "max_width": "98%"})
        self.difference = widgets.Checkbox(description="difference of both", value=False)
        self.note, self.heatmap = widgets.HTML(), AnsweringHeatmap()
        asks = "Show the images on which the chosen pair of layers agrees most and least"
        self.images = Runner("On which images?", self._image_words, self._show_images, out, asks)
        self.sheets = widgets.VBox()
        self.export = widgets.Button(description="Export", tooltip="Write numbers and figure, and offer them")
        self.exported, self.code = widgets.HTML(), widgets.VBox()
        self.analyses = Analyses(self.request, out)
        for box in (self.saved, self.beside, self.difference):
            box.observe(lambda _: self._show(), "value")
        self.export.on_click(lambda _: self._export())
        tabs = widgets.Tab([self._similarity_tab(), self.analyses], titles=["Similarity", "Analyses"])
        super().__init__([widgets.HTML(STYLE), self._choices(), tabs])
        self.add_class("explorer")
        self._list_saved()
        threading.Thread(target=self._fill, daemon=True).start()  # what this imports takes seconds

    def _fill(self) -> None:
        """Fill the lists that nobody needs at the first look."""
        import_libraries()
        from utilities.compare.measures.table import SIMILARITY_MEASURES
        from utilities.hooks.views import VIEWS

        self.measure.options, self.view.options = ["cka", *SIMILARITY_MEASURES], VIEWS[:-1]
        for choice in (self.first, self.second):
            choice.fill()
        filled = [self.measure, self.view, *self.first.children, *self.second.children]
        for wait in AGAIN:  # a page that is still loading misses what changes meanwhile; to others this is no news
            time.sleep(wait)
            for box in filled:
                box.send_state()

    def _choices(self) -> widgets.Widget:
        return widgets.HBox([self.first, self.second, self.data], layout=ROW)

    def _similarity_tab(self) -> widgets.Widget:
        saved = [self.saved, self.beside, self.difference, self.note]
        anew = [widgets.HBox([self.measure, self.view], layout=ROW), self.compare]
        asked = [self.images, self.sheets, widgets.HBox([self.export, self.exported], layout=ROW), self.code]
        return widgets.VBox([*anew, *saved, self.heatmap, *asked])

    def request(self) -> Request:
        """Return what is chosen.

        Raises:
            ValueError: If a choice is missing.
        """
        models = [self.first.value] + ([self.second.value] if self.second.value[0] else [])
        layers = (self.first.globs, self.second.globs)
        return Request(tuple(models), **self.data.value, layers=layers if any(layers) else (),
                       measure=self.measure.value, view=self.view.value)  # fmt: skip

    def _compare_words(self) -> list[str]:
        self._asked = self.request()
        return self._asked.words

    def _compared(self, path: Path) -> None:
        write_json(path.with_name(path.name + ASKED), self._asked.as_dict())
        self._list_saved(path)

    def _list_saved(self, chosen: Path | None = None) -> None:
        """Fill the lists of results, and show one of them."""
        found = saved_similarities(self._folders)
        if chosen is not None and chosen not in [path for _, path in found]:
            found = [*saved_similarities([chosen.parent]), *found]
        self._filling = True  # lists choose by themselves while they are filled
        self.beside.options = [NOTHING, *found]
        self.saved.options = found
        self.beside.value, self.saved.value = NOTHING[1], chosen or (found[0][1] if found else None)
        self._filling = False
        if not found:
            self.note.value = "No result is saved yet: choose models and press Compare."
        self._show()

    def _show(self) -> None:
        """Draw what is chosen, and offer its command."""
        path, other = self.saved.value, self.beside.value
        if path is None or self._filling:
            return
        try:
            results = [Similarity.load(one) for one in (path, other) if one]
            self.difference.disabled = len(results) < 2 or not alike(*results)
            self.heatmap.show(*results, difference=self.difference.value and not self.difference.disabled)
            self.note.value = ""
        except USER_ERRORS as error:
            self.note.value = f'<div role="alert" style="color:#b00020">{html.escape(str(error))}</div>'
            return
        self.sheets.children, self.exported.value = (), ""
        asked = self._asked_for(path)
        self.images.run.disabled = asked is None
        self.images.say("" if asked else "A notebook made this result; compare its models here to ask for images.")
        self.code.children = () if asked is None else (snippet("Command", command(asked.words, self._out)),
                                                       snippet("Python", asked.python))  # fmt: skip

    def _asked_for(self, path: Path) -> Request | None:
        file = path.with_name(path.name + ASKED)
        return Request.of(json.loads(file.read_text())) if file.is_file() else None

    def _image_words(self) -> list[str]:
        asked = self._asked_for(self.saved.value)
        if asked.measure != "cka":
            raise ValueError(f"shares of images are known of CKA, not of {asked.measure}; compare by cka")
        self._asked_pair = self.heatmap.pair
        return asked.contribution_words(self._asked_pair)

    def _show_images(self, path: Path) -> None:
        kinds = {"": "share in the similarity", "_agreement": "agreement", "_without": "what is left without images"}
        files = {path.with_name(f"{path.name}{ending}.png"): said for ending, said in kinds.items()}
        pair = " and ".join(self._asked_pair)
        self.sheets.children = [widgets.HTML(picture(file, f"{said} of {pair}")) for file, said in files.items()]

    def _export(self) -> None:
        less = self.difference.value and not self.difference.disabled
        drawn = [self.saved.value, self.beside.value] if less else [self.saved.value]
        path = PROJECT_ROOT / self._out / "exports" / "_less_".join(Path(one).name for one in drawn)
        try:
            written = write_all(self.heatmap.result, path)
            self.exported.value = f"{links(written)} Written to {html.escape(str(path.parent))}."
        except USER_ERRORS as error:
            self.exported.value = f'<div role="alert">{html.escape(str(error))}</div>'


def explore(folders: Sequence[str | Path] = (), out: str | Path | None = None) -> Explorer:
    """Make the explorer: widgets that compare models, question saved results and run analyses.

    Args:
        folders: Folders of saved results; without any, ``runs`` and ``results`` of the project.
        out: Folder of new results; None means ``runs/explorer`` in the project.

    Returns:
        The widgets, which a notebook shows at the end of a cell.

    Example:
        >>> explorer = explore()
        >>> explorer.request().words[:2]
        ['compare', 'resnet18']
    """
    if "google.colab" in sys.modules:
        from google.colab import output

        output.enable_custom_widget_manager()
    return Explorer(folders, FOLDER if out is None else Path(out).resolve())
