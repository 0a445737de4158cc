"""Figures are saved in all formats, and their captions are shown where a notebook runs."""

import matplotlib as mpl
import pytest

from utilities.plots.paper import paper_figure
from utilities.study.saving import Output, show_caption

mpl.use("Agg")


@pytest.fixture
def figure():
    made = paper_figure(2, 1)
    made.caption = "Bars of layer1_*: <one> error."
    return made


def test_a_caption_is_shown_in_a_notebook(figure, tmp_path):
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell, shown = interactive.instance(), []
    shell.display_pub.publish = lambda data, **_: shown.append(data)
    try:
        path = Output("Name", output_dir=tmp_path).save_figure(figure, "part")
    finally:
        interactive.clear_instance()
    (data,) = shown
    assert data["text/markdown"] == r"**Name_part.** Bars of layer1\_\*: \<one\> error."
    assert sorted(one.suffix for one in tmp_path.iterdir()) == [".pdf", ".png", ".svg"]
    assert path.suffix == ".png"


def test_nothing_is_printed_elsewhere(figure, capsys):
    show_caption(figure, "Name")
    assert capsys.readouterr().out == ""
