"""Cards of results without figures have a picture: the plot of their kind, as ``analyse`` draws it."""

import inspect
import re

import numpy as np
import pytest
from PIL import Image

from utilities.analysis.attention.attention_maps import Diversity
from utilities.analysis.blocks.variance import Variance
from utilities.cli.analyses import ANALYSES, find
from utilities.gallery import build_gallery
from utilities.gallery.tables import kinds
from utilities.gallery.thumbnails import PLOTS, THUMBNAIL, has_picture

DRAWN_BY_TABLE = {
    name: one.figures[""] for name, one in ANALYSES.items() if not isinstance(one.figures, str) and one.figures
}


@pytest.mark.parametrize("name", DRAWN_BY_TABLE)
def test_pictures_are_the_first_figures_of_analyses(name):
    kind = re.search(r"(\w+)\]?$", str(inspect.signature(find(ANALYSES[name].function)).return_annotation))[1]
    if name != "perturb_each_block":  # its kind is that of perturb
        assert f"plots.{PLOTS[kind]}" == DRAWN_BY_TABLE[name]


def test_plots_exist_for_kinds_that_exist():
    assert PLOTS.keys() <= kinds().keys()
    for plot in PLOTS.values():
        assert callable(find(f"plots.{plot}"))


def variance(values):
    blank = np.zeros(3)
    return Variance(["a", "b", "c"], ["conv"] * 3, [0, 1, 1], np.array(values), *[blank] * 9)


def test_cards_without_a_figure_show_the_plot_of_the_result(tmp_path):
    for name, values in (("one", [1.0, 2.0, 3.0]), ("two", [3.0, 2.0, 1.0])):
        variance(values).save(tmp_path / name)
    index = build_gallery(tmp_path, tmp_path / "site", progress=False)
    pictures = [Image.open(index.parent / "files" / f"{name}_small.png").convert("L") for name in ("one", "two")]
    assert [f'src="files/{name}_small.png"' in index.read_text() for name in ("one", "two")] == [True, True]
    for picture in pictures:
        assert picture.width == THUMBNAIL[0] or picture.height == THUMBNAIL[1]
    one, two = (np.asarray(picture, float) for picture in pictures)
    assert one.std() > 10  # there is ink
    assert one.shape != two.shape or np.abs(one - two).max() > 100


def test_kinds_without_a_plot_stay_plain():
    assert not has_picture(object.__new__(Diversity))
    assert not has_picture(None)
