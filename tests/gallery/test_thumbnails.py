"""Cards of results without figures have a picture: the plot of their kind, as ``analyse`` draws it."""

import inspect
import re

import numpy as np
import pytest
from PIL import Image

from utilities.analysis.attention.attention_maps import Diversity
from utilities.analysis.blocks.variance import Variance
from utilities.analysis.class_embedding.perturbation import (
    PERTURBATION_MEASURES,
    PERTURBATIONS,
    SIDES,
    Perturbation,
)
from utilities.cli.analyses import ANALYSES, find
from utilities.gallery import build_gallery
from utilities.gallery.tables import kinds
from utilities.gallery.thumbnails import PLOTS, THUMBNAIL, draw_small, has_picture

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


def perturbation(kinds, **provenance):
    shape = (len(kinds), len(SIDES), len(PERTURBATION_MEASURES))
    values = np.random.default_rng(0).random(shape)
    blocks, counts = [[k] for k in range(len(kinds))], np.full(len(kinds), 9)
    tables = [values, values / 9, values - 0.1, values + 0.1, values[:, 0], counts, counts]
    return Perturbation(kinds, blocks, [f"blocks.{k}" for k in range(len(kinds))], *tables, provenance=provenance)


@pytest.mark.parametrize("kinds", [PERTURBATIONS[:2], [PERTURBATIONS[0]] * 2])  # at once, and one block at a time
def test_both_kinds_of_perturbations_are_drawn(kinds, tmp_path):
    draw_small(perturbation(list(kinds), num_classes=10), tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width == THUMBNAIL[0]


def test_a_result_that_its_plot_refuses_stays_plain_with_a_warning(tmp_path):
    perturbation(list(PERTURBATIONS[:1])).save(tmp_path / "mine")  # the number of classes is not known
    with pytest.warns(UserWarning, match="mine has no picture: 'num_classes'"):
        index = build_gallery(tmp_path, tmp_path / "site", progress=False)
    assert "<img" not in index.read_text()


def test_kinds_without_a_plot_stay_plain():
    assert not has_picture(object.__new__(Diversity))
    assert not has_picture(None)
