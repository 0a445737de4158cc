"""Find what notebooks and commands have left in a folder: figures, results, claims, parameters, by notebook."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd

from utilities.results.writing import read_json
from utilities.utils import PROJECT_ROOT

NOTEBOOKS = PROJECT_ROOT / "notebooks"
OTHER = "Other results"
BUNDLED = ("digits", "canvas", "photos")  # which a quick notebook takes by itself
VERDICTS = {"True": "holds", "False": "does not hold", "": "cannot be told"}
UNSTATED = "not stated"  # a profile
SEVERAL = {"holds": "hold", "does not hold": "do not hold"}


def without_links(text: str) -> str:
    r"""Leave out a notebook's last line of introduction, whose links lead to places beside it.

    Example:
        >>> without_links("One paragraph.\n\nTakes about 10 seconds. [Documentation](../docs/a.md).")
        'One paragraph.'
    """
    return text.partition("\n\nTakes about ")[0]


@dataclass(frozen=True)
class Entry:
    """What one notebook, or a command, has left.

    Attributes:
        name: Name of the notebook, or of the files.
        notebook: Executed notebook, or None where there are only results.
        source: Notebook that title and study are read from, or None.
        files: Its files, sorted by name.
    """

    name: str
    notebook: Path | None
    source: Path | None
    files: list[Path] = field(default_factory=list)

    @cached_property
    def _content(self) -> Any:
        return None if self.source is None else nbformat.read(self.source, as_version=4)

    @property
    def title(self) -> str:
        """The question that the notebook asks."""
        return self._introduction[0] if self._content else self.name.replace("_", " ")

    @property
    def paragraph(self) -> str:
        """The notebook's first paragraph, as Markdown."""
        return self._introduction[1] if self._content else ""

    @property
    def _introduction(self) -> tuple[str, str]:
        title, _, rest = self._content.cells[0].source.partition("\n")
        return title.lstrip("# "), without_links(rest).strip()

    @property
    def study(self) -> str:
        """The study that the notebook belongs to."""
        return self._content.metadata.get("study", OTHER) if self._content else OTHER

    @property
    def figures(self) -> list[Path]:
        """Pictures, the one under the notebook's own name first."""
        return self._with_suffix(".png")

    @property
    def results(self) -> list[Path]:
        """Results, the one under the notebook's own name first."""
        return self._with_suffix(".npz")

    def _with_suffix(self, suffix: str) -> list[Path]:
        return sorted((path for path in self.files if path.suffix == suffix), key=lambda p: (p.stem != self.name, p))

    @cached_property
    def facts(self) -> list[dict[str, Any]]:
        """Provenance of each result."""
        found = [read_json(path.with_suffix(".json")) for path in self.results]
        return [content.get("provenance", {}) for content in found]

    @property
    def kinds(self) -> set[str]:
        """Kinds of its results."""
        return {read_json(path.with_suffix(".json")).get("type", "") for path in self.results}

    def values(self, *keys: str) -> list[str]:
        """List what the provenances say under some keys, each once."""
        return list(dict.fromkeys(str(facts[key]) for facts in self.facts for key in keys if facts.get(key)))

    @cached_property
    def claims(self) -> pd.DataFrame:
        """Claims that the notebook tested, with a ``verdict``; without any, an empty table."""
        paths = [path for path in self.files if path.name == f"{self.name}_claims.csv"]
        if not paths:
            return pd.DataFrame(columns=["claim", "source", "short", "verdict"])
        table = pd.read_csv(paths[0], dtype=str).fillna("")
        table = table.replace(r"\+-", "±", regex=True)  # as earlier versions wrote it
        table["short"] = table.get("short", table["found"])  # files of earlier versions have no short form
        return table.assign(verdict=table["holds"].map(VERDICTS).fillna("cannot be told"))

    @property
    def verdict(self) -> str:
        """How many claims hold."""
        counts = self.claims["verdict"].value_counts()
        words = [word for word in VERDICTS.values() if word in counts]
        return ", ".join(f"{counts[word]} {word if counts[word] == 1 else SEVERAL.get(word, word)}" for word in words)

    @cached_property
    def run(self) -> dict[str, Any]:
        """Parameters that the notebook ran with."""
        path = next((path for path in self.files if path.name == f"{self.name}.done.json"), None)
        return read_json(path) if path else {}

    @property
    def profiles(self) -> list[str]:
        """Profiles that its results state, or that the notebook ran with; results that were kept may state none."""
        ran = (self.run.get("parameters") or {}).get("PROFILE")
        return self.values("profile") or [ran or UNSTATED]

    @property
    def command(self) -> str:
        """The command that makes it again, or an empty string where none is known."""
        if self.source is None:
            return ""
        parameters = dict(self.run.get("parameters") or self._images)
        profile = parameters.pop("PROFILE", self.values("profile")[0] if self.values("profile") else "quick")
        parameters.pop("OUTPUT_DIR", None)
        words = [f"python -m utilities rerun {self.name} --profile {profile}"]
        words += [f'-p {name} "{value}"' for name, value in parameters.items()]
        return " ".join(words)

    @property
    def _images(self) -> dict[str, Any]:
        """The parameters that choose the images, as far as results that were kept tell."""
        name = next(iter(self.values("dataset")), "").partition(" (test)")[0].partition(" (validation)")[0]
        if name in ("", *BUNDLED):
            return {}
        return {"DATASET": name.replace("folder:", "folder:PATH/", 1)}


def collect(folder: Path) -> list[Entry]:
    """Find what is in a folder, by notebook; what belongs to none stands by itself.

    Args:
        folder: Folder of `utilities.cli.rerun`, or of results that were kept.

    Returns:
        An entry for each notebook of which something is there, those of the project in their studies first.

    Raises:
        FileNotFoundError: If there is no such folder, or nothing to show in it.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; make figures writes runs/quick")
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    executed = {path.stem: path for path in files if path.suffix == ".ipynb" and not path.stem.endswith(".failed")}
    known = {path.stem: path for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
    shown = [path.stem for path in files if path.suffix in (".npz", ".png")]
    shown += [path.stem.removesuffix("_claims") for path in files if path.name.endswith("_claims.csv")]
    names = sorted({*executed, *(_owner(stem, known) or stem for stem in shown)})
    entries = [
        Entry(name, executed.get(name), known.get(name, executed.get(name)), _files_of(name, files, names))
        for name in names
    ]
    if not entries:
        raise FileNotFoundError(f"{folder} holds no results; make figures writes them to runs/quick")
    return sorted(entries, key=lambda entry: (entry.source is None, entry.study, entry.name))


def _owner(stem: str, names: Iterable[str]) -> str | None:
    """Return the longest name that a file's name begins with."""
    fitting = [name for name in names if stem == name or re.match(rf"{re.escape(name)}[_.]", stem)]
    return max(fitting, key=len, default=None)


def _files_of(name: str, files: list[Path], names: list[str]) -> list[Path]:
    return [path for path in files if _owner(path.name.partition(".")[0], names) == name]
