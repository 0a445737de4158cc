"""The gallery as a reader uses it: opened from disk, by mouse, by keyboard alone, in the dark, on a phone."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from utilities.analysis.blocks.variance import Variance
from utilities.gallery import build_gallery
from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

AXE = PROJECT_ROOT / "build" / "axe" / "package" / "axe.min.js"
ROWS, COLUMNS = ["conv1", "layer1", "fc"], ["patch_embed", "blocks.0", "blocks.1", "head"]


def result(values, weights):
    facts = {"model1": "resnet18", "model2": "vit", "weights": weights, "dataset": "digits (test)", "measure": "CKA"}
    return Similarity(values, ROWS, COLUMNS, 100, values / 100, provenance=facts)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    values = np.random.default_rng(0).random((3, 4))
    result(values, "trained").save(runs / "Measures")
    result(values / 2, "untrained").save(runs / "Measures_untrained")
    depth = np.arange(3.0)
    facts = {"model": "timm/vit_small_patch14_dinov2", "weights": "weights of a file with a long name, seed 0"}
    for name, heights in (("Robustness", depth), ("Robustness_flat", 0 * depth)):
        axes = ["stem", "block", "pool"], ["conv"] * 3, [0, 1, 1]
        Variance(*axes, heights, *[0 * depth] * 9, provenance=facts).save(runs / name)
    for name in ("Measures", "Robustness"):
        Figure().savefig(runs / f"{name}.png")
    table = {"claim": ["b holds", "a fails"], "source": "me", "found": ["0.2", "0.1"], "holds": ["True", "False"]}
    pd.DataFrame(table).to_csv(runs / "Robustness_claims.csv", index=False)
    index = build_gallery(runs, tmp_path_factory.mktemp("site"), progress=False)
    return f"file://{index.parent}", values


@pytest.fixture
def heatmap(page, site):
    page.goto(f"{site[0]}/Measures.html")
    page.wait_for_selector(".heatmap .plot-container")
    return page


def drawn(page):
    """Wait for heatmaps whose data come when they are first chosen."""
    page.wait_for_selector("#heatmaps[aria-busy=false]")


def text(page, selector):
    return " ".join(page.text_content(selector).split())


def test_the_index_filters_and_sorts(page, site):
    page.goto(f"{site[0]}/index.html")
    assert text(page, "#count") == "2 of 2"
    page.fill("#search", "corruptions digits nothing")
    assert text(page, "#count") == "none of 2 fits"
    page.fill("#search", "measures")
    assert page.locator(".card:visible").count() == 1
    page.fill("#search", "")
    page.select_option("select[data-kind=study]", index=1)
    assert page.locator(".card:visible").count() == 1
    rows = page.locator("table.sortable tbody tr:visible")
    assert rows.count() == 2
    page.select_option("select[data-kind=study]", index=2)
    assert rows.count() == 0, "the claims are the other notebook's"
    page.select_option("select[data-kind=study]", index=0)
    first = page.locator("table.sortable tbody tr td").first
    assert first.text_content() == "b holds"
    page.get_by_role("button", name="Claim").click()
    assert first.text_content() == "a fails"
    page.get_by_role("button", name="Found").click()
    assert first.text_content() == "b holds", "verdicts come before numbers"
    page.get_by_role("link", name="Robustness").last.click()
    assert page.url.endswith("Robustness.html#Robustness")  # the figure that decides the claim


def test_hover_names_both_layers_and_the_value(heatmap, site):
    box = heatmap.locator(".heatmap .nsewdrag").bounding_box()
    heatmap.mouse.move(box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 0.5 / 3)  # third column, last row
    heatmap.wait_for_function("document.getElementById('readout').textContent != ''")
    value = site[1][2, 2]
    assert text(heatmap, "#readout") == f"fc with blocks.1: {value:.3f} ± {round(value / 100, 4):.3f}"


def test_click_draws_row_and_column_and_lists_matches(heatmap, site):
    heatmap.locator(".heatmap .nsewdrag").click(position={"x": 5, "y": 5})
    heatmap.wait_for_selector("#curves .plot-container")
    best = COLUMNS[int(site[1][2].argmax())]
    assert text(heatmap, "#matches li").startswith(f"{best}: {site[1][2].max():.3f}")


def test_the_keyboard_alone_reaches_each_pair(heatmap):
    for _ in range(12):
        heatmap.keyboard.press("Tab")
        if heatmap.evaluate("document.activeElement.className").startswith("heatmap"):
            break
    for key in ("ArrowUp", "ArrowRight", "ArrowRight"):
        heatmap.keyboard.press(key)
    assert text(heatmap, "#readout").startswith("layer1 with blocks.1: ")
    for _ in range(9):
        heatmap.keyboard.press("ArrowRight")  # stays at the edge
    assert text(heatmap, "#readout").startswith("layer1 with head: ")
    heatmap.keyboard.press("Enter")
    assert heatmap.locator("#matches h3").first.text_content() == "Most like layer1"


def test_two_results_side_by_side_and_their_difference(heatmap, site):
    assert heatmap.locator("#difference").is_disabled()
    heatmap.select_option("#second", "Measures_untrained")
    drawn(heatmap)
    assert heatmap.locator(".heatmap").count() == 2
    left, right = (heatmap.locator(".heatmap").nth(k).bounding_box() for k in (0, 1))
    assert left["x"] + left["width"] <= right["x"]
    heatmap.check("#difference")
    drawn(heatmap)
    assert heatmap.locator(".heatmap").count() == 1
    heatmap.locator(".heatmap").focus()
    heatmap.keyboard.press("ArrowUp")
    half = round(site[1][1, 0] / 2, 4) - round(site[1][1, 0], 4)
    assert text(heatmap, "#readout") == f"layer1 with patch_embed: {half:.3f}"


def test_one_switch_shows_trained_untrained_and_their_difference_on_one_scale(heatmap, site):
    scale = "document.querySelector('.heatmap').data[0].zmax"
    heatmap.check("#states input[value=untrained]")
    drawn(heatmap)
    assert heatmap.input_value("#first") == "Measures_untrained"
    assert heatmap.evaluate(scale) == 1
    heatmap.check("#states input[value=difference]")
    drawn(heatmap)
    assert heatmap.locator(".heatmap").count() == 1
    heatmap.locator(".heatmap").focus()
    heatmap.keyboard.press("ArrowUp")
    half = round(site[1][1, 0], 4) - round(site[1][1, 0] / 2, 4)
    assert text(heatmap, "#readout") == f"layer1 with patch_embed: {half:.3f}"
    heatmap.check("#states input[value=trained]")
    drawn(heatmap)
    assert (heatmap.input_value("#first"), heatmap.input_value("#second")) == ("Measures", "")


def test_data_are_loaded_when_they_are_first_shown(page, site):
    asked = []
    page.on("request", lambda request: asked.append(request.url.rpartition("/")[2]))
    page.goto(f"{site[0]}/Measures.html")
    drawn(page)
    assert [name for name in asked if name.startswith("Measures") and name.endswith(".js")] == ["Measures.js"]
    for choice in ("Measures_untrained", "", "Measures_untrained"):
        page.select_option("#second", choice)
        drawn(page)
    assert asked.count("Measures_untrained.js") == 1


def test_a_large_heatmap_waits_for_a_click_and_names_shapes(page, tmp_path):
    layers = 250
    names, values = [f"blocks.{k}.attn.proj" for k in range(layers)], np.random.default_rng(0).random((layers, layers))
    details = {"width": [64 * 32 * 32] * layers, "shape": [[64, 32, 32]] * layers}
    tables = {"p_value": values, "details1": details, "details2": details}
    Similarity(values, names, names, 100, values, **tables).save(tmp_path / "large")
    index = build_gallery(tmp_path, tmp_path / "site", progress=False)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"file://{index.parent}/large.html")
    page.wait_for_load_state("networkidle")
    assert not any(url.endswith("/data/large.js") for url in asked)
    page.click("#large")
    page.wait_for_selector(".heatmap .plot-container")
    assert page.locator("#large").count() == 0
    page.locator(".heatmap").focus()
    page.keyboard.press("ArrowUp")
    value = f"{round(values[1, 0], 4):.3f}"
    shapes = "blocks.1.attn.proj (64 x 32 x 32) with blocks.0.attn.proj (64 x 32 x 32)"
    assert text(page, "#readout") == f"{shapes}: {value} ± {value} p = {value}"


def test_points_of_curves_are_read_off(page, site):
    page.goto(f"{site[0]}/Robustness.html")
    page.wait_for_selector(".lines .plot-container")
    box = page.locator(".lines .nsewdrag").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".lines .hovertext")
    assert "block: 1 ± 0" in text(page, ".lines .hovertext")


def test_the_numbers_download(heatmap):
    with heatmap.expect_download() as found:
        heatmap.click("#csv")
    assert pd.read_csv(found.value.path(), index_col=0).shape == (3, 4)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_is_wider_than_the_screen(page, site, scheme):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    for name in ("index", "Measures", "Robustness"):
        page.goto(f"{site[0]}/{name}.html")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.wait_for_selector(".lines .legendtext")
    right = [page.locator(name).first.bounding_box() for name in ("div.lines", ".lines .legendtext")]
    assert right[1]["x"] + right[1]["width"] <= right[0]["x"] + right[0]["width"], "the legend is cut"
    grid, line = (page.evaluate(f"getComputedStyle(document.querySelector('{name}')).{part}")
                  for name, part in ((".lines .ygrid", "stroke"), ("td", "borderBottomColor")))  # fmt: skip
    assert grid == line
    paper, ink = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color"))
    bright = [sum(map(int, colour.strip("rgb()").split(","))) for colour in (paper, ink)]
    assert (bright[0] > bright[1]) == (scheme == "light")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_accessibility_fault_is_found(page, site, scheme):
    if not AXE.is_file():
        pytest.skip("make test-browser fetches axe-core by npm")
    page.emulate_media(color_scheme=scheme)
    for name in ("index", "Measures", "Robustness"):
        page.goto(f"{site[0]}/{name}.html")
        page.evaluate(AXE.read_text())
        found = page.evaluate("axe.run({preload: false})")
        assert found["passes"]
        assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found["violations"]] == []
