"""README and docs: links lead somewhere, each fact has one place, and sentences read well."""

import importlib.util
import json
import re

import pytest
import yaml

from tests.test_docs import FENCE, TEXTS, find_command_line
from utilities.claims.raghu_2021 import attention, localisation, probes, receptive_field, training
from utilities.study.data_size import SHARES
from utilities.utils import PROJECT_ROOT


def anchors(text):
    """Name the headings of a page as GitHub and mkdocs do."""
    heads = re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[ -]+", "-", re.sub(r"[^\w\- ]", "", head).strip().lower()) for head in heads}


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", TEXTS[page])):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (PROJECT_ROOT / page).parent / name if name else PROJECT_ROOT / page
        assert path.is_file(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(path.read_text()), f"{page}: {target}"


@pytest.mark.parametrize("page", TEXTS)
def test_a_blank_line_stands_before_and_after_every_heading(page):
    lines = FENCE.sub("", TEXTS[page]).splitlines()
    for i, line in enumerate(lines):
        assert line == line.rstrip(), f"{page}: a line ends in blanks: {line}"
        if re.match(r"#+ ", line):
            assert not any(lines[max(i - 1, 0) : i] + lines[i + 1 : i + 2]), f"{page}: {line}"


def test_every_claim_that_is_judged_has_its_threshold_on_the_page():
    judged = "\n".join(path.read_text() for path in (PROJECT_ROOT / "utilities/claims/raghu_2021").glob("*.py"))
    figures = set(re.findall(r"Fig\. (\w+(?:\.\d)?)(?=[\"'])", judged))
    assert {"1", "5", "8", "9", "11a", "13b", "C.4", "E.2", "G.1", "H.1"} <= figures
    page = TEXTS["docs/study-do-vits-see.md"]
    section = page.partition("## How the claims are judged")[2].partition("\n## ")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| ")]
    assert {figure.strip() for row in rows[1:] for figure in row.split(",")} == figures
    for value in (attention.LOCAL, receptive_field.LOCAL, receptive_field.PEAK, localisation.KEPT, probes.KEPT):
        assert value == 0.5  # "half", in words
    for value in (receptive_field.GLOBAL, training.PRESERVED):
        assert f"{value:g}" in section
    for value in (probes.EQUAL, training.MARGIN):
        assert f"{100 * value:g} percent points" in section


def test_all_pages_are_in_the_contents_of_the_site():
    contents = (PROJECT_ROOT / "mkdocs.yml").read_text()
    names = {path.relative_to(PROJECT_ROOT / "docs").as_posix() for path in (PROJECT_ROOT / "docs").rglob("*.md")}
    assert names <= set(re.findall(r"[\w/-]+\.md", contents))


def test_api_pages_name_modules_that_there_are():
    for path in (PROJECT_ROOT / "docs" / "api").glob("*.md"):
        modules = re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE)
        assert modules
        assert not [name for name in modules if importlib.util.find_spec(name) is None], path.name


def test_the_readme_is_short_and_reaches_all_notebooks():
    readme = TEXTS["README.md"]
    assert len(readme.splitlines()) <= 150
    names = {path.stem for path in (PROJECT_ROOT / "notebooks").glob("*.ipynb")}
    assert set(re.findall(r"\(notebooks/(\w+)\.ipynb\)", readme)) == names
    assert len(re.findall(r"^!\[", readme, re.MULTILINE)) == 1


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith("docs/") and page != "docs/index.md"])
def test_every_page_says_what_is_measured(page):
    assert re.findall(r"^## (.*)$", FENCE.sub("", TEXTS[page]), re.MULTILINE)[-1] == "What is measured here"


def test_the_repositorys_address_is_nowhere_else():
    """But in the notebooks, whose first cell has nothing to read it from."""
    project = (PROJECT_ROOT / "pyproject.toml").read_text()
    address = re.search(r'^Repository = "(.*)"', project, re.MULTILINE)[1].removeprefix("https://")
    assert project.count(address) == 1
    others = {name: (PROJECT_ROOT / name).read_text() for name in ("CITATION.cff", "mkdocs.yml", "Makefile")}
    assert not [name for name, text in {**TEXTS, **others}.items() if address in text]


def test_the_citation_is_valid():
    """What CFF 1.2.0 requires, and the version of the package."""
    citation = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    for one in (citation, *citation["references"]):
        assert one["title"]
        assert one["authors"]
        assert all("name" in author or "family-names" in author for author in one["authors"])
    assert all("type" in one for one in citation["references"])
    assert re.search(r'^version = "(.*)"', (PROJECT_ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1] == str(
        citation["version"]
    )


def test_the_citation_names_the_papers_whose_claims_are_judged():
    abstract = yaml.safe_load((PROJECT_ROOT / "CITATION.cff").read_text())["abstract"]
    rooms = [path.parent.name for path in (PROJECT_ROOT / "utilities" / "claims").glob("*_20*/__init__.py")]
    assert len(rooms) == 3
    for room in rooms:
        *authors, year = room.split("_")
        assert re.search(rf"{authors[0].title()}[^,]* {year}", abstract), room


def test_the_page_on_shares_states_those_of_each_profile():
    page = " ".join(TEXTS["docs/study-do-vits-see.md"].split())
    quick, paper = ([f"{100 * share:g}" for share in SHARES[profile]] for profile in ("quick", "paper"))
    assert (
        f"is trained on {' and '.join(quick)} % of the training images ({', '.join(paper[:-1])} and {paper[-1]} %"
        in page
    )


def test_the_page_without_a_network_names_all_that_the_quick_profile_takes_from_elsewhere():
    opening = TEXTS["docs/no-network.md"].split("\n1. ")[0]
    assert {"scikit-learn", "scikit-image", "wheels", "package registry"} <= set(
        re.findall("scikit-[a-z]+|wheels|package registry", opening)
    )


def test_moved_modules_are_where_the_changes_say():
    moved = re.findall(r"^\| `(utilities[\w.]*)` \| `(utilities[\w.]*)`", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert (
        len(dict(moved)) == len(moved) == 163
    )  # every module that has moved; those whose path is as it was have no row
    assert not [new for _, new in moved if importlib.util.find_spec(new) is None]


def test_the_page_on_clusters_has_the_table_that_the_benchmark_works_out():
    path = PROJECT_ROOT / "benchmarks" / "scaling.py"
    spec = importlib.util.spec_from_file_location("scaling", path)
    scaling = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scaling)
    measured = json.loads((path.parent / "results" / "scaling_cpu.json").read_text())
    assert scaling.table(measured).partition("\n\n")[2] in TEXTS["docs/clusters.md"]


def test_sentences_begin_as_one_speaks():
    texts = {**TEXTS, **{p.name: p.read_text() for p in (PROJECT_ROOT / "notebooks").glob("*.ipynb")}}
    odd = re.compile(r'(?:^|[.:;] |\| |^ *")(?:Of [a-z]|Taken are|Given is|Left out (?:of|are))', re.MULTILINE)
    assert not [(name, found[0]) for name, text in texts.items() if (found := odd.search(text))]
    code = re.compile(r'(?:"|[.:;] )Of (?=[a-z])')  # docstrings, messages and captions
    for path in (
        path for folder in ("utilities", "tests", "benchmarks") for path in (PROJECT_ROOT / folder).rglob("*.py")
    ):
        assert not code.search(path.read_text()), path


def test_troubles_quote_messages_that_the_code_has():
    """Word for word between what stands for names and numbers."""
    files = [*(PROJECT_ROOT / "utilities").rglob("*.py"), PROJECT_ROOT / "Makefile"]
    code = " ".join(re.sub(r'"\s*\n\s*f?"', "", path.read_text()) for path in files)
    code = re.sub(r"\s+", " ", code)
    messages = re.findall(r"^\| `(.*?)` \|", TEXTS["docs/troubles.md"], re.MULTILINE)
    assert len(messages) >= 30
    stands_for = r"\.\.\.|'[^']*'|\b[A-Z]{2,}\b|\bN\b|\([^)]*\)|\[[^\]]*\]|\d[\w.-]*|[=;]|\bcifar-.*gz|\w+, \w+$"
    parts = [(part.strip(" :,"), message) for message in messages for part in re.split(stands_for, message)]
    assert not [(part, message) for part, message in parts if len(part) > 5 and part not in code]


@pytest.mark.skipif(find_command_line() is None, reason="there is no command line yet")
def test_extending_names_files_that_there_are():
    """But for those that are to be written, whose names stand for any."""
    text = TEXTS["docs/extending.md"]
    files = re.findall(r"`((?:utilities|tests|docs|notebooks)/[\w/.]*)`", text)
    new = re.compile(r"(?i:mynet|myset|/name\.|_name\.|WING|PAPER)")
    assert not [name for name in files if not new.search(name) and not (PROJECT_ROOT / name).exists()]
