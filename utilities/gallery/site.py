"""Write the site: an index, a page for each notebook, their data, and one copy of each script and style."""

from __future__ import annotations

import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import nbconvert
import nbformat
import numpy as np
from nbconvert.filters import markdown2html
from nbconvert.preprocessors import ExtractOutputPreprocessor
from plotly.offline import get_plotlyjs
from tqdm.auto import tqdm

from utilities.gallery.alt_texts import describe_card, describe_figure, describe_outputs
from utilities.gallery.curves import KINDS, as_data
from utilities.gallery.curves import write_script as write_curves
from utilities.gallery.deciding import deciding
from utilities.gallery.entries import VERDICTS, Entry, collect, without_links
from utilities.gallery.heatmaps import colour_scale, labels_of, write_script
from utilities.gallery.tables import read_result, write_table
from utilities.gallery.thumbnails import THUMBNAIL, draw_small, has_picture, shrink
from utilities.plots.style import read_caption
from utilities.results.result import Result
from utilities.results.similarity import Similarity
from utilities.results.writing import check_writable, write_whole
from utilities.study.saved_findings import sentences

TEMPLATES = Path(__file__).with_name("templates")
ASSETS = ("heatmap.js", "curves.js", "index.js", "style.css")
MARK = Path("assets", "heatmap.js")  # written first, and in every site: tells that the gallery wrote a folder
SCREEN = (1100, 1400)  # pixels, at most
CURVED = {kind.__name__ for kind in KINDS}
COLOURS = {"sequential": colour_scale("rocket"), "diverging": colour_scale("vlag")}  # as in the figures
_SCRIPT = re.compile(r"<(script|style)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_WIDGET = "application/vnd.jupyter.widget-view+json"  # a progress bar, which needs a kernel
DOWNLOADS = (".pdf", ".svg", ".png")
LARGE = 750_000  # bytes of a heatmap's data that wait for a click: a page is to load less than 1 MB, plotly aside


def build_gallery(runs: str | Path, out: str | Path, progress: bool = True) -> Path:
    """Turn a folder of results into a static site.

    Args:
        runs: Folder that `utilities.cli.rerun` wrote, such as ``runs/quick``, or of kept results.
        out: Folder of the site; what an earlier site left there is overwritten.
        progress: Whether to show a progress bar.

    Returns:
        Path of the index, to be opened in a browser.

    Raises:
        FileNotFoundError: If there is nothing to show.
        ValueError: If the site would lie in the folder of the results.
        FileExistsError: If the folder of the site holds files, and no earlier site.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from utilities.results.similarity import Similarity
        >>> runs, site = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())
        >>> _ = Similarity(np.eye(2), ["a", "b"], ["a", "b"], 10).save(runs / "mine")
        >>> build_gallery(runs, site, progress=False).name, (site / "mine.html").is_file()
        ('index.html', True)
    """
    runs, out = Path(runs), Path(out)
    if out.resolve() == runs.resolve():
        raise ValueError(f"the site cannot lie where its results do ({runs}): choose another --out")
    entries = collect(runs)
    _refuse_foreign(out)
    check_writable(out / "index.html")
    pages = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    for name in ASSETS:
        write_whole(out / "assets" / name, lambda path, name=name: shutil.copyfile(TEMPLATES / name, path))
    _write(out / "assets" / "plotly.js", get_plotlyjs())
    for entry in tqdm(entries, desc="pages", delay=2, disable=not progress):
        _write(out / f"{entry.name}.html", pages.get_template("notebook.html").render(**_page(entry, out)))
    index = pages.get_template("index.html")
    cards = [_card(entry, out) for entry in entries]
    _write(out / "index.html", index.render(cards=cards, claims=_claims(entries), filters=_filters(cards)))
    return out / "index.html"


def _refuse_foreign(out: Path) -> None:
    """Refuse a folder of other files, which a site would mix with and in part overwrite."""
    if out.is_dir() and not (out / MARK).is_file() and any(out.iterdir()):
        raise FileExistsError(f"{out} holds files, and no earlier gallery: choose a new or empty folder as --out")


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda place: place.write_text(text, encoding="utf-8"))


def _card(entry: Entry, out: Path) -> dict[str, Any]:
    """Return what the index shows of a notebook."""
    first = _first_result(entry)
    return {
        "finding": _finding(first),
        "name": entry.name,
        "title": entry.title,
        "picture": _picture(entry, first, out),
        "alt": describe_card(entry, first),
        "verdict": entry.verdict,
        "study": [entry.study],
        "model": entry.values("model", "model1", "model2"),
        "data": entry.values("dataset"),
        "profile": entry.profiles,
    }


def _picture(entry: Entry, first: Result | None, out: Path) -> str:
    """Write the picture of a card: the first figure, or else the plot of the first result. Return its place."""
    picture = f"files/{(entry.figures[0].stem if entry.figures else entry.name)}_small.png"
    if entry.figures:
        write_whole(out / picture, lambda path: shrink(entry.figures[0], path, THUMBNAIL))
    elif first is not None and has_picture(first):
        try:
            write_whole(out / picture, lambda path: draw_small(first, path))
        except (ValueError, KeyError) as error:  # what is drawn is not in this result, or in its provenance
            warnings.warn(f"{entry.name} has no picture: {error}", stacklevel=2)
            return ""
    else:
        return ""
    return picture


def _finding(first: Result | None) -> str:
    """State in a sentence what a result shows, for kinds that have words; a similarity of two models has none."""
    rectangle = isinstance(first, Similarity) and first.layers1 != first.layers2
    said = () if first is None or rectangle else sentences(first)
    return said[-1] if said else ""  # the last one sums up


def _first_result(entry: Entry) -> Result | None:
    """Read the first result, which is the one under the entry's own name where there is one."""
    try:
        return read_result(entry.results[0]) if entry.results else None
    except ValueError:  # damaged or foreign, as a warning says
        return None


def _filters(cards: Sequence[dict[str, Any]]) -> dict[str, list[str]]:
    """List what the index can be filtered by, where there is a choice."""
    kinds = ("study", "model", "data", "profile")
    values = {kind: sorted({one for card in cards for one in card[kind]}) for kind in kinds}
    return {kind: found for kind, found in values.items() if len(found) > 1}


def _claims(entries: Sequence[Entry]) -> list[dict[str, str]]:
    return [row | {"page": entry.name} for entry in entries for row in _rows(entry)]


def _rows(entry: Entry) -> list[dict[str, str]]:
    """List the claims of a notebook, each with the place on its page that decides it."""
    there, kinds = {path.stem for path in entry.figures}, entry.kinds
    instead = "similarity" if "Similarity" in kinds else "over-depth" if kinds & CURVED else "claims"
    rows = entry.claims.fillna("").to_dict("records")
    for row in rows:
        figure = deciding(entry.name, row["claim"], row["source"])
        row["figure"] = figure if figure in there else instead
        row["order"] = list(VERDICTS.values()).index(row["verdict"])
    return rows


def _page(entry: Entry, out: Path) -> dict[str, Any]:
    """Return what a notebook's page shows, and write the files that it refers to."""
    results = _results(entry)
    tables = {name: write_table(result, out / "files" / f"{name}.csv") for name, result in results.items()}
    heatmaps = {name: result for name, result in results.items() if isinstance(result, Similarity)}
    scripts = [write_script(out / "data", name, result) for name, result in heatmaps.items()]
    first = scripts[0].stat().st_size if scripts else 0  # that of the others is loaded when they are chosen
    plots = as_data(results, labels_of(results))
    if plots:
        write_curves(out / "data" / f"{entry.name}_curves.js", plots)
    return {
        "entry": entry,
        "paragraph": markdown2html(entry.paragraph),
        "heatmaps": labels_of(heatmaps),
        "large": f"{first / 1e6:.1f} MB" if first > LARGE else "",
        "colours": COLOURS,
        "curves": bool(plots),
        "tables": {name: type(results[name]).__name__ for name, written in tables.items() if written},
        "twins": _twins(heatmaps),
        "figures": [
            _figure(path, out, describe_figure(entry, path.stem, results.get(path.stem))) for path in entry.figures
        ],
        "claims": _rows(entry),
        "parameters": entry.run.get("parameters", {}),
        "provenance": _provenance(entry),
        "notebook": "" if entry.notebook is None else _executed(entry.notebook, out / "files"),
    }


def _results(entry: Entry) -> dict[str, Result]:
    """Read the results of a page; what is none, or is damaged, is left out with a warning."""
    found = {}
    for path in entry.results:
        try:
            found[path.stem] = read_result(path)
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=2)
    return found


def _twins(heatmaps: Mapping[str, Similarity]) -> dict[str, dict[str, Any]]:
    """Pair results of the same models and layers, once trained and once not, with the range of both for one scale."""
    found: dict[tuple[str, ...], dict[str, list[str]]] = {}
    for name, result in heatmaps.items():
        facts = result.provenance
        weights = {str(facts.get(f"weights{k}", "")) for k in ("", 1, 2)} - {""}
        state = "untrained" if weights and all(words.startswith("untrained") for words in weights) else "trained"
        models = [str(facts.get(f"model{k}", "")) for k in ("", 1, 2)]
        key = (*models, str(facts.get("dataset")), str(facts.get("measure")), *result.layers1, *result.layers2)
        found.setdefault(key, {}).setdefault(state, []).append(name)
    pairs = [(states.get("trained", []), states.get("untrained", [])) for states in found.values()]
    both = [(one[0], other[0]) for one, other in pairs if len(one) == len(other) == 1]
    facts = [
        {"trained": one, "untrained": other, "range": _range(heatmaps[one], heatmaps[other])} for one, other in both
    ]
    return {name: fact for pair, fact in zip(both, facts, strict=True) for name in pair}


def _range(*results: Similarity) -> list[float]:
    """Return the least and the largest value, or nothing where all are missing."""
    values = np.concatenate([result.matrix[np.isfinite(result.matrix)] for result in results])
    return [float(values.min()), float(values.max())] if len(values) else []


def _figure(path: Path, out: Path, alt: str) -> dict[str, Any]:
    """Copy a figure in all its formats."""
    there = [path.with_suffix(suffix) for suffix in DOWNLOADS if path.with_suffix(suffix).is_file()]
    for one in there:
        write_whole(out / "files" / one.name, lambda place, one=one: shutil.copyfile(one, place))
    caption = read_caption(path)
    alt = f"{path.stem}. {caption}" if caption else alt
    shown = f"{path.stem}_screen.png"  # the whole resolution is for download
    write_whole(out / "files" / shown, lambda place: shrink(path, place, SCREEN))
    return {"name": path.stem, "files": [one.name for one in there], "alt": alt, "caption": caption, "shown": shown}


def _provenance(entry: Entry) -> dict[str, str]:
    """Return what the results of a page share."""
    facts = {key: entry.values(key) for key in ("dataset", "profile", "seed", "measure", "estimator", "batch_size")}
    facts["models"] = entry.values("model", "model1", "model2")
    facts["weights"] = entry.values("weights", "weights1", "weights2")
    return {key: "; ".join(values) for key, values in facts.items() if values}


def _executed(notebook: Path, folder: Path) -> str:
    """Turn an executed notebook into HTML without scripts, its pictures into files."""
    exporter = nbconvert.HTMLExporter(template_name="basic", exclude_anchor_links=True)
    exporter.register_preprocessor(ExtractOutputPreprocessor, enabled=True)
    resources = {"unique_key": f"{notebook.stem}_cell", "output_files_dir": "files"}
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "markdown":
            cell.source = without_links(cell.source)
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if _WIDGET not in output.get("data", {})]
            describe_outputs(cell.outputs, notebook.stem)
    for output in (output for cell in content.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        data.pop("application/javascript", None)
        if "text/html" in data:
            data["text/html"] = _SCRIPT.sub("", data["text/html"])
    body, resources = exporter.from_notebook_node(content, resources=resources)
    for name, picture in resources["outputs"].items():
        write_whole(folder / Path(name).name, lambda path, picture=picture: path.write_bytes(picture))
    return body.replace("<img ", '<img loading="lazy" ').replace("<pre>", '<pre tabindex="0">')
