"""The site is whole by itself: each link leads to a file, nothing is fetched, and values are those of the results."""

import ast
import base64
import json
import re
from html.parser import HTMLParser
from urllib.parse import unquote

import nbformat
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from utilities.cli.verbs import main
from utilities.gallery import build_gallery
from utilities.gallery.deciding import FIGURES
from utilities.gallery.entries import collect
from utilities.gallery.heatmaps import as_data, size_of
from utilities.plots.style import PaperFigure, save_figure
from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

NAME = "Measures"  # a notebook of the project


class Links(HTMLParser):
    """Collect what a page refers to, and the ids that it has."""

    def __init__(self, text):
        super().__init__()
        self.found, self.ids, self.images = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.found += [given[key] for key in ("src", "href") if given.get(key)]
        self.ids += [given["id"]] if "id" in given else []
        self.images += [given] if tag == "img" else []


def similarity(seed=0):
    values = np.random.default_rng(seed).random((3, 2))
    facts = {"model1": "a <b>", "model2": "b", "dataset": "digits (test)", "profile": "quick", "measure": "linear CKA"}
    details = [{"width": [7] * 3}, {"width": [5] * 2}]
    names = ["x", "y", "<z>"], ["u", "v"]
    return Similarity(values, *names, 12, values / 10, None, None, None, None, *details, facts)


def executed(path):
    cell = nbformat.v4.new_code_cell("1 + 1", execution_count=1)
    html = "<b>bold</b><script>alert(1)</script>"
    scripted = {"application/javascript": "alert(1)", "text/plain": "a bar"}
    widget = {"application/vnd.jupyter.widget-view+json": {"model_id": "a"}, "text/plain": "0/10 [00:00<?]"}
    figure = {"image/png": base64.b64encode(b"a picture").decode()}
    caption = {"text/markdown": "Bars\\_", "text/plain": 'Bars_: "one" error.'}
    outputs = {"text/html": html}, scripted, widget, figure, caption
    cell.outputs = [nbformat.v4.new_output("display_data", data) for data in outputs]
    intro = nbformat.v4.new_markdown_cell("# Do measures agree?\n\nA *paragraph*.")
    silent = nbformat.v4.new_code_cell("a = 1", execution_count=2)
    nbformat.write(nbformat.v4.new_notebook(cells=[intro, cell, silent], metadata={"study": "One study"}), path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    similarity().save(folder / NAME)
    similarity(1).save(folder / f"{NAME}_untrained")
    similarity(2).save(folder / "mine")
    similarity(3).save(folder / "50% # done")  # a user's own name
    for suffix in (".png", ".pdf"):
        figure = PaperFigure()
        figure.caption = "Bars: <one> error."
        save_figure(figure, folder / f"{NAME}{suffix}")
    claims = {"claim": ["it holds", "it does not", "who knows"], "source": "A et al., Fig. 1", "found": "0.5 < 0.6"}
    table = pd.DataFrame(claims | {"short": "", "holds": ["True", "False", ""]})
    table.to_csv(folder / f"{NAME}_claims.csv", index=False)
    executed(folder / f"{NAME}.ipynb")
    (folder / f"{NAME}.done.json").write_text(json.dumps({"parameters": {"PROFILE": "quick", "SEED": 3}}))
    (folder / "broken.failed.ipynb").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def site(runs, tmp_path_factory):
    return build_gallery(runs, tmp_path_factory.mktemp("site"), progress=False).parent


def test_entries_hold_what_belongs_to_them(runs):
    notebook, odd, mine = collect(runs)
    assert odd.name == "50% # done"
    assert (notebook.name, mine.name) == (NAME, "mine")
    assert [path.stem for path in notebook.results] == [NAME, f"{NAME}_untrained"]
    assert notebook.verdict == "1 holds, 1 does not hold, 1 cannot be told"
    assert notebook.command == f'python -m utilities rerun {NAME} --profile quick -p SEED "3"'
    assert notebook.study == "Similarity of layers"  # that of the project's notebook
    assert mine.command == ""


def test_what_is_no_result_is_left_out_with_a_warning(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.arange(3))
    similarity().save(tmp_path / "mine")
    with pytest.warns(UserWarning, match=r"left out: .*foreign\.npz holds a None, which is no result"):
        build_gallery(tmp_path, tmp_path / "site", progress=False)
    assert (tmp_path / "site" / "mine.html").is_file()


def test_claims_alone_are_shown(tmp_path):
    (tmp_path / "Classification_claims.csv").write_text("claim,source,found,holds\nit works,me,it does,True\n")
    (tmp_path / "b_claims.csv").write_text("claim,source,found,holds,short\nit works,me,it does,,\n")
    one, two = collect(tmp_path)
    assert (one.name, one.verdict, two.name, two.verdict) == ("Classification", "1 holds", "b", "1 cannot be told")
    index = build_gallery(tmp_path, tmp_path / "site", progress=False).read_text()
    assert index.count("it does") == 2


def test_each_link_leads_somewhere_on_the_site(site):
    pages = sorted(site.glob("*.html"))
    assert [page.name for page in pages] == ["50% # done.html", "Measures.html", "index.html", "mine.html"]
    for page in pages:
        links = Links(page.read_text())
        assert len(set(links.ids)) == len(links.ids)
        for link in links.found:
            address, _, place = link.partition("#")
            if address.startswith("https://"):
                continue  # a paper's page, to be followed by a reader
            target = page.parent / unquote(address) if address else page
            assert target.is_file(), f"{page.name}: {link}"
            if place:
                assert unquote(place) in Links(target.read_text()).ids
        assert all(image.get("alt") for image in links.images)


def test_nothing_is_fetched_and_pages_are_small(site):
    for page in site.glob("*.html"):
        text = page.read_text()
        assert not re.search(r'<(script|img|link)[^>]*(src|href)="(https?:)?//', text)
        assert "alert(1)" not in text
        assert bytes_at_once(page) < 1_000_000
    assert len(list(site.rglob("plotly*.js"))) == 1


def test_texts_of_results_are_escaped_and_the_notebook_is_there(site):
    page = (site / f"{NAME}.html").read_text()
    assert "<b>bold</b>" in page  # an output of the notebook
    assert "<em>paragraph</em>" in page
    assert "a bar" in page
    assert "0/10" not in page
    assert "a &lt;b&gt;" in page
    assert f"{NAME}.pdf" in page
    index = (site / "index.html").read_text()
    assert "who knows" in index
    assert "cannot be told" in index


def test_the_browser_gets_the_values_of_the_result(site):
    text = (site / "data" / f"{NAME}.js").read_text()
    name, data = re.fullmatch(r'gallery\.add\("(\w+)", (.*)\);\n', text, re.S).groups()
    found, result = json.loads(data), similarity()
    assert name == NAME
    np.testing.assert_allclose(found["values"], result.matrix, atol=5e-5)  # four digits
    np.testing.assert_allclose(found["stderr"], result.stderr, atol=5e-5)
    assert found["rows"] == result.layers1
    assert found["sizes"] == [["7 features"] * 3, ["5 features"] * 2]
    table = pd.read_csv(site / "files" / f"{NAME}.csv", index_col=0)
    np.testing.assert_array_equal(table, result.matrix)


def test_missing_values_are_null():
    result = Similarity(np.array([[np.nan, 1.0]]), ["a"], ["b", "c"], 10)
    assert as_data(result)["values"] == [[None, 1.0]]
    assert as_data(result)["sizes"] == [None, None]


def big(layers, seed=0):
    values = np.random.default_rng(seed).random((layers, layers))
    names = [f"blocks.{k}.attn.proj" for k in range(layers)]
    details = {"width": [75648] * layers, "shape": [[197, 384]] * layers}
    tables = {"p_value": values, "details1": details, "details2": details}
    return Similarity(values, names, names, 100, values, **tables, provenance={"model": f"vit {seed}"})


def bytes_at_once(page):
    """Add up a page and what it loads by itself, but for the script that all pages share and pictures that wait."""
    links = Links(page.read_text())
    waiting = {image["src"] for image in links.images if image.get("loading") == "lazy"}
    parts = {unquote(link) for link in links.found if re.search(r"\.(js|css|png)$", link)} - waiting
    parts = {part for part in parts if not part.startswith("files/")} - {"assets/plotly.js"}  # files are downloads
    first = re.search(r'<select id="first"><option value="([^"]*)"', page.read_text())
    if first and 'id="large"' not in page.read_text():
        parts.add(f"data/{first[1]}.js")
    return page.stat().st_size + sum((page.parent / part).stat().st_size for part in parts)


def test_a_page_of_big_heatmaps_loads_less_than_a_megabyte(tmp_path):
    for seed in range(4):
        big(150, seed).save(tmp_path / f"{NAME}_{seed}")
    big(250).save(tmp_path / "larger")
    site = build_gallery(tmp_path, tmp_path / "site", progress=False).parent
    data = [path.stat().st_size for path in (site / "data").glob(f"{NAME}_*.js")]
    assert sum(data) > 1_000_000  # all at once would not do
    page = site / f"{NAME}.html"
    assert 'id="large"' not in page.read_text()
    assert min(data) < bytes_at_once(page) < 1_000_000
    assert (site / "data" / "larger.js").stat().st_size > 1_000_000
    assert "Draw it (1." in (site / "larger.html").read_text()  # it waits for a click
    assert bytes_at_once(site / "larger.html") < 100_000


def test_sizes_are_shapes_where_these_are_known():
    result = big(2)
    assert as_data(result)["sizes"] == [["197 x 384"] * 2] * 2
    joined = {"width": [75648, 384], "shape": [float("nan"), [197, 384]]}  # one part was of an earlier version
    assert [size_of(joined, k) for k in (0, 1)] == ["75,648 features", "197 x 384, 384 features"]


def test_the_command_prints_where_to_look(runs, tmp_path, capsys):
    main(["gallery", str(runs), "--out", str(tmp_path / "site")])
    assert capsys.readouterr().out.strip() == f"open {tmp_path / 'site' / 'index.html'} in a browser"


@pytest.mark.parametrize("screen", [True, False])
def test_a_browser_opens_where_there_is_a_display(screen, runs, tmp_path, monkeypatch):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr("utilities.cli.gallery.has_display", lambda: screen)
    main(["gallery", str(runs), "--out", str(tmp_path / "site"), "--show"])
    assert opened == [(tmp_path / "site" / "index.html").as_uri()] * screen


def test_figures_say_what_they_show(site):
    page = Links((site / f"{NAME}.html").read_text())
    (alt,) = [image["alt"] for image in page.images if image["src"] == f"files/{NAME}_screen.png"]
    assert alt == f"{NAME}. Bars: <one> error."
    assert "Bars: &lt;one&gt; error." in (site / f"{NAME}.html").read_text()


def test_figures_without_a_caption_are_described_by_their_result(tmp_path):
    similarity().save(tmp_path / NAME)
    Figure().savefig(tmp_path / f"{NAME}.png")
    build_gallery(tmp_path, tmp_path / "site", progress=False)
    page = Links((tmp_path / "site" / f"{NAME}.html").read_text())
    (alt,) = [image["alt"] for image in page.images]
    assert "Heatmap: " in alt
    assert "digits (test), n = 12" in alt


def test_claims_lead_to_the_figure_that_decides_them(site):
    index, page = ((site / name).read_text() for name in ("index.html", f"{NAME}.html"))
    assert index.count(f'href="{NAME}.html#{NAME}"') == page.count(f'href="#{NAME}"') == 3


@pytest.mark.parametrize("notebook", FIGURES)
def test_deciding_figures_are_those_that_the_notebook_saves(notebook):
    content = nbformat.read(PROJECT_ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4)
    _fetch, *cells = [cell for cell in content.cells if cell.cell_type == "code"]
    trees = [ast.parse(cell.source) for cell in cells]
    saved = {key.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Dict) for key in node.keys
             if isinstance(key, ast.Constant)}  # fmt: skip
    assert {part for _, part in FIGURES[notebook]} <= saved


@pytest.mark.parametrize("make", [True, False])
def test_a_folder_without_results_is_refused(make, tmp_path, capsys):
    folder = tmp_path / "empty"
    if make:
        folder.mkdir()
    with pytest.raises(SystemExit):
        main(["gallery", str(folder)])
    assert "make figures" in capsys.readouterr().err
    assert not (folder / "site").exists()


def test_pictures_are_described_from_results_and_captions(site):
    card = Links((site / "index.html").read_text()).images[0]
    assert card["alt"].startswith("Heatmap: rows: a <b>. columns: b. digits (test), n = 12 images.")
    figure, cell = Links((site / f"{NAME}.html").read_text()).images
    assert figure["alt"] == f"{NAME}. Bars: <one> error."
    assert cell["alt"] == f'Figure of the notebook {NAME}. Bars_: "one" error.'


def test_profiles_can_be_chosen_among_where_some_results_do_not_state_theirs(tmp_path, runs):
    notebook, *_ = collect(runs)
    assert notebook.profiles == ["quick"]
    similarity().save(tmp_path / "stated")
    Similarity(np.eye(1), ["a"], ["a"], 10).save(tmp_path / "kept")
    index = build_gallery(tmp_path, tmp_path / "site", progress=False).read_text()
    choices = index.partition('data-kind="profile"')[2].partition("</select>")[0]
    assert re.findall("<option>(.*)</option>", choices) == ["not stated", "quick"]


def test_a_folder_of_other_files_is_refused_and_an_earlier_site_is_not(runs, tmp_path):
    site = tmp_path / "site"
    for _ in range(2):
        build_gallery(runs, site, progress=False)
    foreign = tmp_path / "thesis"
    foreign.mkdir()
    (foreign / "index.html").write_text("mine")
    with pytest.raises(FileExistsError, match=r"thesis holds files.* choose a new or empty folder as --out"):
        build_gallery(runs, foreign, progress=False)
    assert [path.name for path in foreign.iterdir()] == ["index.html"]
    assert (foreign / "index.html").read_text() == "mine"


def test_the_site_does_not_cover_its_results(runs):
    with pytest.raises(ValueError, match="choose another --out"):
        build_gallery(runs, runs)
