"""The explorer as a person uses it: as a page of its own by Voila, in JupyterLab, and in Notebook 7."""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import numpy as np
import pytest

from utilities.results.similarity import Similarity
from utilities.utils import PROJECT_ROOT

pytestmark = pytest.mark.slow
AXE = PROJECT_ROOT / "build" / "axe" / "package" / "axe.min.js"
PATIENCE = 120_000  # milliseconds: a kernel imports torch, on a machine that may be busy
HEATMAP = ".js-plotly-plot .heatmaplayer image, .js-plotly-plot .heatmaplayer path"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A copy of the notebook that shows two results and writes into a folder of its own."""
    folder = tmp_path_factory.mktemp("explorer")
    rng = np.random.default_rng(0)
    for name, weights in (("one", "trained"), ("two", "untrained, seed 0")):
        matrix = rng.random((4, 6))
        layers = list("abcd"), list("uvwxyz")
        facts = {"model1": "net", "model2": "other", "weights1": weights, "measure": "linear CKA"}
        Similarity(matrix, *layers, 100, np.full((4, 6), 0.01), provenance=facts).save(folder / "saved" / name)
    notebook = nbformat.read(PROJECT_ROOT / "notebooks" / "Explorer.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    cell.source = f"FOLDERS = [{str(folder / 'saved')!r}]\nOUTPUT_DIR = {str(folder / 'new')!r}"
    nbformat.write(notebook, folder / "Explorer.ipynb")
    shutil.copy(PROJECT_ROOT / "voila.json", folder)  # Voila reads it where it is started
    return folder


@contextlib.contextmanager
def serving(folder, *words):
    """Run a server on a free port of this machine."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment = os.environ | {"PYTHONPATH": str(PROJECT_ROOT), "JUPYTER_PREFER_ENV_PATH": "1"}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *words, f"--port={port}"], cwd=folder, env=environment, stdout=log, stderr=log
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/status", timeout=1)
                break
            except urllib.error.HTTPError:  # Voila has no such page, but answers
                break
            except OSError:
                pass
            if server.poll() is not None:
                raise OSError((folder / "server.log").read_text()[-1000:])
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def voila(browser, work):
    pytest.importorskip("voila", reason="make test-browser installs Voila")
    with serving(work, "voila", "Explorer.ipynb", "--no-browser") as address:
        page = browser.new_page(viewport={"width": 1300, "height": 1400})
        asked = []
        page.on("requestfailed", lambda request: asked.append((request.url.split("/")[2], request.failure)))
        page.on("requestfinished", lambda request: asked.append((request.url.split("/")[2], "")))
        page.goto(address, timeout=PATIENCE, wait_until="domcontentloaded")
        yield page
        page.close()
        assert {failure for host, failure in asked if host and host not in address} <= {"csp"}, "others are asked"


@contextlib.contextmanager
def in_jupyter(browser, work, module, place):
    """Open a copy of the notebook in a program of Jupyter's, and run all cells.

    Each program has a copy: what one saves by itself would make another ask which version to keep.
    """
    own = work / module
    own.mkdir()
    shutil.copy(work / "Explorer.ipynb", own)
    options = ("--no-browser", "--allow-root", "--IdentityProvider.token=", "--ServerApp.password=")
    with serving(own, module, *options, f"--ServerApp.root_dir={own}") as address:
        page = browser.new_page(viewport={"width": 1500, "height": 1400})
        page.goto(f"{address}/{place}", timeout=PATIENCE)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=PATIENCE)
        # Before there is a kernel, and it is idle, cells are not run.
        page.wait_for_selector(":is(.jp-Toolbar-kernelName, .jp-KernelName):has-text('ipykernel')", timeout=PATIENCE)
        page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=PATIENCE)
        page.click(".lm-MenuBar-item:has-text('Run')")
        page.click(".lm-Menu-item:has-text('Run All Cells')")
        yield page
        page.close()


@pytest.fixture(scope="module")
def lab(browser, work):
    with in_jupyter(browser, work, "jupyterlab", "lab/tree/Explorer.ipynb?reset") as page:
        yield page


@pytest.fixture(scope="module")
def notebook(browser, work):
    pytest.importorskip("notebook", minversion="7")
    with in_jupyter(browser, work, "notebook", "notebooks/Explorer.ipynb") as page:
        yield page


@pytest.fixture(params=["voila", "lab", "notebook"])
def explorer(request):
    """The explorer, with a saved result drawn."""
    page = request.getfixturevalue(request.param)
    page.wait_for_selector(HEATMAP, timeout=PATIENCE, state="attached")
    return page


def field(page, label, number=0):
    """The box that stands beside a label."""
    return page.locator(f".widget-inline-hbox:has(> .widget-label:text-is('{label}'))").nth(number)


def type_into(page, label, text, number=0):
    box = field(page, label, number).locator("input")
    box.fill(text)
    box.press("Enter")
    box.blur()


def says(page, text):
    page.wait_for_selector(f":text('{text}')", timeout=PATIENCE)


def cell(page, number=0, x=0.9, y=0.1):
    """Where a cell of a heatmap is, from the left and the top."""
    area = page.locator(".js-plotly-plot").nth(number).locator(".nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    return box["x"] + box["width"] * x, box["y"] + box["height"] * y


def test_layers_are_counted_and_lists_are_filled_at_once(explorer):
    says(explorer, "36 of 74 layers, the main ones")
    assert field(explorer, "measure").locator("select option").count() > 1


def test_pointing_reads_a_pair_and_a_click_chooses_it(explorer):
    place = cell(explorer)
    explorer.mouse.move(*place)
    explorer.wait_for_selector(".hoverlayer :text('with z')", state="attached")
    explorer.mouse.click(*place)
    explorer.wait_for_selector(".explorer-readout :text('d with z: ')")
    explorer.wait_for_selector(":text('Most like d')")
    assert field(explorer, "row").locator("select").evaluate("box => box.selectedOptions[0].text") == "d"


def test_lists_choose_a_pair_without_a_mouse(explorer):
    field(explorer, "row").locator("select").select_option("b")
    field(explorer, "column").locator("select").select_option("w")
    explorer.wait_for_selector(".explorer-readout :text('b with w: ')")
    assert explorer.locator(":text('Most like b')").is_visible()


def test_two_results_stand_side_by_side_or_as_their_difference(explorer):
    beside = field(explorer, "beside it").locator("select")
    beside.select_option(index=2)
    explorer.wait_for_function("document.querySelectorAll('.heatmaplayer').length == 2", timeout=PATIENCE)
    explorer.locator("label:has-text('difference of both') input").check()
    says(explorer, "net x other, trained less net x other, untrained, seed 0")
    explorer.locator("label:has-text('difference of both') input").uncheck()
    beside.select_option(index=0)
    explorer.wait_for_function("document.querySelectorAll('.heatmaplayer').length == 1", timeout=PATIENCE)
    assert field(explorer, "row").locator("select").evaluate("box => box.selectedOptions[0].text") == "b"  # as chosen


def test_an_error_is_a_sentence(explorer):
    type_into(explorer, "model 1", "resnet19")
    says(explorer, "unknown model")
    explorer.click("button:has-text('Compare')")
    explorer.wait_for_selector("[role=alert]:has-text('close: resnet18')", timeout=PATIENCE)
    assert explorer.locator(":text('Traceback')").count() == 0
    type_into(explorer, "model 1", "resnet18")
    says(explorer, "36 of 74 layers, the main ones")


def test_a_run_can_be_cancelled(explorer):
    type_into(explorer, "model 1", "resnet101")
    type_into(explorer, "how many", "540")
    explorer.click("button:has-text('Compare')")
    explorer.wait_for_selector(":text('starting')", timeout=PATIENCE)
    explorer.locator("button:has-text('Cancel'):visible").first.click()
    says(explorer, "cancelled; ")
    assert explorer.locator("button:has-text('Compare')").is_enabled()


def test_a_run_is_drawn_asked_for_its_images_and_exported(explorer):
    type_into(explorer, "model 1", "resnet18")
    field(explorer, "layers").locator("input").fill("layer?.?")
    says(explorer, "8 of 74 layers")
    type_into(explorer, "how many", "120")
    explorer.click("button:has-text('Compare')")
    says(explorer, "done in ")
    says(explorer, "layers of resnet18")
    command = field(explorer, "Command").locator("textarea").input_value()
    assert re.match(
        r"python -m utilities compare resnet18 --dataset digits --n-images 120 .* --layers1 'layer", command
    )
    explorer.click("button:has-text('On which images?')")
    explorer.wait_for_selector("img[alt^='agreement of layer']", timeout=PATIENCE)
    explorer.click("button:has-text('Export')")
    explorer.wait_for_selector("a[download$='.pdf']", timeout=PATIENCE)
    with explorer.expect_download() as told:
        explorer.click("a[download$='.csv']")
    assert Path(told.value.path()).read_text().startswith(",layer1.0,layer1.1,layer2.0")


def test_axe_finds_no_serious_fault_in_the_widgets(explorer):
    if not AXE.is_file():
        pytest.skip("make test-browser fetches axe-core by npm")
    explorer.evaluate(AXE.read_text())
    found = explorer.evaluate("axe.run('.explorer', {preload: false})")
    assert found["passes"]
    serious = [fault for fault in found["violations"] if fault["impact"] in ("serious", "critical")]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in serious] == []


def test_an_analysis_shows_curves_and_the_lens_every_token(explorer):
    type_into(explorer, "model 1", "vit_tiny_patch2_16")
    field(explorer, "layers").locator("input").fill("")
    type_into(explorer, "how many", "20")
    explorer.click(".lm-TabBar-tab:has-text('Analyses')")
    field(explorer, "analysis").locator("select").select_option("fourier")
    explorer.click("button:has-text('Analyse')")
    says(explorer, "Delta log amplitude")
    field(explorer, "analysis").locator("select").select_option("lens")
    explorer.click("button:has-text('Analyse')")
    says(explorer, "The model")
    assert explorer.locator(":text('class token: '):visible").count() == 1
    explorer.click(".lm-TabBar-tab:has-text('Similarity')")
