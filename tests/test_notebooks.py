"""The notebooks keep to one form, and those of a kind stay in step."""

import ast
import re
from itertools import groupby

import nbformat
import pytest

from utilities.utils import PROJECT_ROOT

EXPLORER = PROJECT_ROOT / "notebooks" / "Explorer.ipynb"
NOTEBOOKS = sorted(path for path in EXPLORER.parent.glob("*.ipynb") if path != EXPLORER)
PARAMETERS = ["PROFILE", "DATASET", "EPOCHS", "SEED", "N_IMAGES", "BATCH_SIZE", "OUTPUT_DIR"]
EXPECTED = {
    *(f"R{d}_CIFAR100_{w}" for d in (18, 34, 50) for w in ("PRETRAINED", "RANDOM")),
    *(f"Lambda_R{d}_CIFAR100_{w}" for d in (26, 38, 50) for w in ("PRETRAINED", "RANDOM")),
    *("R101_CIFAR100", "ViT_ImageNet_PRETRAINED", "ViT_ImageNet_RANDOM"),
    *(f"Compare_{what}" for what in ("Depth_R18_R34", "Width_R50_WideR50", "CNN_Hybrid_ViT", "ViT_Swin", "Datasets")),
    *("Teacher_Student", "Measures", "Data_Size", "Missing_Skips"),
    *("Classification", "Fourier_Analysis", "Feature_Map_Variance", "Loss_Landscape", "Hessian_Spectra", "Robustness"),
    *("Noise_Frequency", "Lesion_Study", "AlterNet_Build_Up", "Smoothing"),
    *("Class_Embedding_Tutorial", "Class_Identifiability", "Mechanistic_Interpretability"),
    *("Explainability", "Linear_Probing"),
    *("Real_Weights", "Attention_Distance", "Receptive_Field", "Skip_Connections"),
    *("Spatial_Localisation", "Layer_Probes", "Disagreeing_Images", "Stitching", "Which_Is_Nearer", "Trust_A_Measure"),
}
OF_ONE_MODEL = [path for path in NOTEBOOKS if re.match(r"(Lambda_)?R\d|ViT_", path.stem)]
REAL = ["CNN", "VIT", "WEIGHTS"]
WITH_REAL_WEIGHTS = (
    "Real_Weights",
    "Attention_Distance",
    "Receptive_Field",
    "Skip_Connections",
    "Spatial_Localisation",
    "Disagreeing_Images",
)
EXTRA = {
    **{"Compare_Datasets": ["OTHER"], **dict.fromkeys(WITH_REAL_WEIGHTS, REAL)},
    **{
        "Trust_A_Measure": ["N_SEEDS"],
        "Disagreeing_Images": [*REAL, "N_SHOWN"],
        "Receptive_Field": [*REAL, "IMAGE_SIZE"],
    },
    **{"Layer_Probes": [*REAL, "IMAGE_SIZE", "N_TRAIN"], "Stitching": ["N_TRAIN", "DEPTHS"]},
    **{"Which_Is_Nearer": ["MATCH", "RESAMPLES"]},
}
TRAINS_NOTHING = {"Real_Weights", "Receptive_Field", "Disagreeing_Images"}  # so that there are no epochs to choose
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(path):
    return [cell for cell in read(path).cells if cell.cell_type == "code"]


def python(source):
    """Code without the lines that only IPython understands."""
    return ast.parse(re.sub(r"^(\s*)[!%].*", r"\1pass", source, flags=re.MULTILINE))


def test_all_notebooks_are_there():
    assert {path.stem for path in NOTEBOOKS} == EXPECTED


@each_notebook
def test_committed_without_outputs(path):
    nbformat.validate(read(path))
    assert all(not cell.outputs and cell.execution_count is None for cell in code_cells(path))


@each_notebook
def test_parameters(path):
    (cell,) = [cell for cell in code_cells(path) if "parameters" in cell.metadata.get("tags", [])]
    usual = [name for name in PARAMETERS if name != "EPOCHS" or path.stem not in TRAINS_NOTHING]
    assert [line.targets[0].id for line in python(cell.source).body] == usual + EXTRA.get(path.stem, [])
    assert cell.source.startswith('PROFILE = "quick"  # or "natural", "paper"\n')


@each_notebook
def test_no_logic_in_cells(path):
    _fetch, *rest = code_cells(path)
    for cell in rest:
        tree = python(cell.source)
        statements = [node for node in tree.body if not isinstance(node, ast.ImportFrom)]
        most = len(PARAMETERS) + len(EXTRA.get(path.stem, [])) if "parameters" in cell.metadata.get("tags", []) else 8
        assert len(statements) <= most, "a cell is a few calls"
        logic = (ast.For, ast.While, ast.If, ast.FunctionDef, ast.ClassDef, ast.Try, ast.comprehension, ast.Lambda)
        assert not [node for node in ast.walk(tree) if isinstance(node, logic)]


@each_notebook
def test_seconds_of_a_quick_run_are_said_for_the_order_of_a_first_run(path):
    assert 10 <= read(path).metadata.quick_seconds <= (120 if path.stem in WITH_REAL_WEIGHTS else 600)


@each_notebook
def test_it_begins_with_its_cost_its_links_and_what_was_found(path):
    content = read(path)
    last = content.cells[0].source.splitlines()[-1]
    seconds, page, name = re.fullmatch(
        r"Takes about (\d+) seconds on two cores, quick, once its weights are there\. "
        r"\[Documentation\]\(\.\./docs/([\w-]+\.md)\) · "
        r"\[gallery page\]\(\.\./runs/quick/site/(\w+)\.html\), after `make gallery`\.",
        last,
    ).groups()
    assert int(seconds) == content.metadata.quick_seconds
    (row,) = [line for line in (PROJECT_ROOT / "README.md").read_text().splitlines() if f"/{path.name})" in line]
    assert content.metadata.study in row
    assert f"](docs/{page}" in row
    assert name == path.stem
    assert "](https://arxiv.org/abs/" in content.cells[0].source
    # Only the cell that fetches the package, and shows nothing, comes before what was found.
    assert content.cells[2].source == f'from utilities.study import findings\n\nfindings("{path.stem}")'


@each_notebook
def test_study_is_said_for_the_gallery(path):
    assert read(path).metadata.study in (PROJECT_ROOT / "README.md").read_text()


@each_notebook
def test_title_question_and_name(path):
    cells = read(path).cells
    assert re.match(r"# .*\?\n\n\[?\w", cells[0].source), "a title that asks, then a paragraph"
    source = "".join(cell.source for cell in cells)
    assert re.search(r'^NAME(?:, MODEL)? = "(\w+)"', source, re.MULTILINE)[1] == path.stem


@each_notebook
def test_first_cell_fetches_the_package_from_the_projects_address(path):
    address = re.search(r'^Repository = "(.*)"', (PROJECT_ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    first = code_cells(path)[0].source
    assert f"git clone --depth 1 {address} " in first
    assert 'find_spec("utilities") is None' in first
    assert "If there is nothing to clone, " in first
    assert first == code_cells(NOTEBOOKS[0])[0].source


def test_the_explorer_is_one_call():
    fetch, parameters, call = code_cells(EXPLORER)
    assert fetch.source == code_cells(NOTEBOOKS[0])[0].source
    assert parameters.metadata.tags == ["parameters"]
    assert call.source.endswith("explore(FOLDERS, OUTPUT_DIR)")
    test_committed_without_outputs(EXPLORER)
    test_study_is_said_for_the_gallery(EXPLORER)


@pytest.mark.parametrize("kind", ["PRETRAINED", "RANDOM"])
def test_notebooks_of_a_kind_are_in_step(kind):
    """They differ in name, model and introduction alone."""

    def shape(path):
        cells = [cell.source for cell in read(path).cells[1:]]
        name = r"^(?:(NAME, MODEL|NAME|MODEL) = .*\n|findings\(.*)"
        return [re.sub(name, "", source, flags=re.MULTILINE) for source in cells]

    of_kind = [path for path in OF_ONE_MODEL if ("RANDOM" in path.stem) == (kind == "RANDOM")]
    assert len(of_kind) >= 7
    assert len(list(groupby(map(shape, of_kind)))) == 1
