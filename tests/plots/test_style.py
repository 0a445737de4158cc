"""How figures are saved: fonts that journals take, resolution, width, format, and the user's own settings."""

import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from utilities.cli.arguments import options_of, parse
from utilities.cli.files import Files
from utilities.cli.options import Output
from utilities.cli.user_errors import reporting
from utilities.compare import CKA
from utilities.plots import paper
from utilities.plots.labelled_figure import new_figure
from utilities.plots.paper import LABEL, SIDE_NAME, TICK
from utilities.plots.similarity.comparison import plot_difference, plot_results
from utilities.plots.similarity.depth import plot_diagonal
from utilities.plots.style import DPI, PaperFigure, paper_figure, read_caption, save_figure, save_figures, split_picture
from utilities.results.similarity import Similarity

mpl.use("Agg")


def result(layers=12):
    names = [f"layer{i}.relu" for i in range(layers)]
    facts = {"model": "resnet18", "dataset": "digits (test)", "measure": "linear CKA", "bandwidth": 0.5, "sigma": 2.0}
    return Similarity(np.eye(layers), names, names, 540, stderr=np.full((layers, layers), 0.1), provenance=facts)


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def fonts_of(path):
    """List the kinds of the fonts of a PDF; font dictionaries are written as they are, only streams are packed."""
    return set(re.findall(rb"/Subtype */(Type0|Type1|Type3|TrueType|CIDFontType[02])\b", path.read_bytes()))


FIGURES = {
    "heatmap": lambda: result().plot(),
    "results": lambda: plot_results([result(), result(5)]),
    "difference": lambda: plot_difference(result(), result()),  # writes signs that the font takes from another one
    "curves": lambda: plot_diagonal(result()),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
@pytest.mark.parametrize("save", [save_figure, lambda figure, path: figure.savefig(path)], ids=["ours", "savefig"])
def test_a_pdf_embeds_truetype_fonts_alone(draw, save, tmp_path):
    """Type 3, matplotlib's default, is refused by several venues."""
    save(draw(), tmp_path / "a.pdf")
    fonts = fonts_of(tmp_path / "a.pdf")
    assert fonts & {b"TrueType", b"CIDFontType2"}
    assert b"Type3" not in fonts
    assert b"/FontFile2" in (tmp_path / "a.pdf").read_bytes()


def test_matplotlib_itself_writes_type_3(tmp_path):
    """What the test before would find without the style."""
    figure = plt.figure()
    figure.text(0.5, 0.5, "text")
    figure.savefig(tmp_path / "a.pdf")
    assert fonts_of(tmp_path / "a.pdf") == {b"Type3"}
    save_figure(figure, tmp_path / "a.pdf")  # a figure of anybody's
    assert b"Type3" not in fonts_of(tmp_path / "a.pdf")


def test_an_svg_holds_text_and_a_png_has_300_dots_an_inch(tmp_path):
    figure = result().plot(width="column")
    assert "linear CKA</text>" in save_figure(figure, tmp_path / "a.svg").read_text()
    assert DPI == 300
    for path in (save_figure(figure, tmp_path / "a"), tmp_path / "b.png"):
        figure.savefig(tmp_path / "b.png")
        with Image.open(path) as picture:
            assert picture.width == pytest.approx(3.25 * 300, abs=1)
            assert picture.info["dpi"] == pytest.approx((300, 300), abs=0.1)
    figure.savefig(tmp_path / "c.png", dpi=50)
    with Image.open(tmp_path / "c.png") as picture:
        assert picture.width == pytest.approx(3.25 * 50, abs=1)


def test_the_users_settings_stay(tmp_path):
    before = dict(mpl.rcParams)
    save_figure(result().plot(), tmp_path / "a.pdf", width="page", caption=False)
    result().plot().savefig(tmp_path / "b.svg")
    assert dict(mpl.rcParams) == before
    with mpl.rc_context({"savefig.dpi": 60, "axes.grid": True}):
        figure = result().plot(width="column")
        assert not any(line.get_visible() for line in figure.axes[0].get_xgridlines())
        figure.savefig(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width == pytest.approx(3.25 * 60, abs=1)


@pytest.mark.parametrize("ending", [".png", ".pdf", ".svg"])
def test_a_file_carries_its_caption_and_shows_a_line(ending, tmp_path):
    figure = result().plot()
    path = save_figure(figure, tmp_path / f"a{ending}")
    begins, content = figure.caption[:8], path.read_bytes()
    assert begins.encode() in content or begins.encode("utf-16-be") in content  # the latter in a PDF
    assert figure.get_supxlabel().replace("\n", " ") == figure.line
    assert len(figure.line) < len(figure.caption)
    assert ending != ".png" or read_caption(path) == figure.caption


def test_a_notebook_shows_the_caption_below_the_figure():
    interactive = pytest.importorskip("IPython.core.interactiveshell").InteractiveShell
    shell, shown = interactive.instance(), []
    shell.display_pub.publish = lambda data, **_: shown.append(data)
    figure, _ = new_figure(2, 1)
    figure.caption = "Bars of layer1_*: <one> error."
    try:
        shell.display_formatter.format(figure)
    finally:
        interactive.clear_instance()
    picture, caption = shown
    assert picture["image/png"].startswith("iVBOR")
    assert caption["text/markdown"] == r"Bars of layer1\_\*: \<one\> error."


def test_every_text_has_the_size_of_the_style_however_it_is_drawn(tmp_path):
    with mpl.rc_context({"axes.labelsize": 30, "xtick.labelsize": 30, "axes.titlesize": 30}):
        figure = result().plot()
        figure.draw_without_rendering()
        sizes = {text.get_fontsize() for ax in figure.axes for text in (ax.xaxis.label, *ax.get_xticklabels())}
    assert sizes <= {LABEL, TICK, SIDE_NAME}


def test_a_saved_figure_has_the_width_and_the_caption_that_were_asked_for(tmp_path):
    for figure in (result().plot(), plot_diagonal(result())):
        path = save_figure(figure, tmp_path / "a.pdf", width="column", caption=False)
        left, bottom, right, top = map(float, re.search(rb"/MediaBox *\[([^]]*)\]", path.read_bytes())[1].split())
        assert (left, bottom, right) == pytest.approx((0, 0, 3.25 * 72), abs=0.1)
        assert top > 72
        assert figure.get_supxlabel() == ""


def test_formats_follow_the_ending_and_others_are_refused(tmp_path):
    assert split_picture("runs/a.PDF")[1] == ".pdf"
    with pytest.raises(ValueError, match=r"a.jpg: pictures are not written as .jpg; choose one of .png, .pdf"):
        save_figure(paper_figure(2, 2), tmp_path / "a.jpg")
    paths = save_figures({"": paper_figure(2, 2), "_b": paper_figure(2, 2)}, tmp_path / "seed0.5", ".eps")
    assert [path.name for path in paths] == ["seed0.5.eps", "seed0.5_b.eps"]
    assert paths[0].read_bytes().startswith(b"%!PS-Adobe")
    assert sorted(tmp_path.iterdir()) == sorted(paths)


def test_options_of_the_commands(capsys, tmp_path):
    def files(*words):
        return Files.of(parse(options_of(Output), ["--out", *words], "test", ""))

    look = files(str(tmp_path / "a.svg"), "--width", "column", "--no-caption")
    assert (look.formats, look.width, look.caption, look.result, look.table) == ((".svg",), 3.25, False, False, False)
    whole = files(str(tmp_path / "a"))
    assert (whole.formats, whole.width, whole.caption) == ((".png", ".pdf"), None, True)
    assert whole.everything
    assert (files(str(tmp_path / "a.csv")).table, files(str(tmp_path / "a.npz")).result) == (True, True)
    with pytest.raises(SystemExit), reporting():
        files(str(tmp_path / "a"), "--width", "wide")
    assert "'column', 'page' or inches from 2 to 60, not 'wide'" in capsys.readouterr().err


def test_all_figures_are_of_the_style():
    assert isinstance(result().plot(), PaperFigure)
    assert isinstance(plot_diagonal(result()), PaperFigure)
    assert isinstance(new_figure(2, 2)[0], PaperFigure)  # of the analyses


def test_cka_saves_for_print(tmp_path):
    cka = CKA(None, None, "one", "two")
    cka.result = result()
    figure = cka.plot_results(tmp_path / "a.pdf", title="mine", width="column", caption=False, ticks="layer3.relu")
    assert b"Type3" not in fonts_of(tmp_path / "a.pdf")
    assert figure.get_figwidth() == 3.25
    assert figure.axes[0].get_xticks().tolist() == [3]
    assert figure.axes[0].get_title() == "mine"


def test_no_figure_asks_for_text_that_is_too_small_to_read():
    sizes = (paper.HEADLINE, paper.SIDE_NAME, paper.LABEL, paper.DENSE, paper.TICK)
    assert all(size >= paper.SMALLEST for size in sizes)
    literal = re.compile(r"(?:fontsize|labelsize|points)=(\d+(?:\.\d+)?)|set_size\(\d")
    for path in Path(paper.__file__).parent.rglob("*.py"):
        assert not literal.search(path.read_text()), f"{path.name} should take its sizes from paper.py"


def test_the_users_theme_leaves_heatmaps_readable():
    with mpl.rc_context(
        {"axes.grid": True, "font.size": 18, "axes.titlesize": 24, "figure.constrained_layout.use": True}
    ):
        figure = result(40).plot(width="page")
        figure.canvas.draw()
    box = figure.axes[0].bbox
    assert box.width * box.height > 0.4 * figure.bbox.width * figure.bbox.height
    assert figure.axes[0].title.get_window_extent().y1 <= figure.bbox.y1
