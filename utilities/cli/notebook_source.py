"""Check a notebook's file before it is run: whether it can be run, and which parameters its tagged cell sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from papermill.translators import PythonTranslator

# Parameters that are whole numbers, or None.
WHOLE = {
    "EPOCHS",
    "SEED",
    "N_IMAGES",
    "BATCH_SIZE",
    "IMAGE_SIZE",
    "N_TRAIN",
    "N_SHOWN",
    "N_SEEDS",
    "DEPTHS",
    "RESAMPLES",
}
OTHER_KERNELS = ("ir", "julia", "bash", "scala", "matlab", ".net", "sparkr")  # beginnings of other kernels' names


class UnreadableNotebook(ValueError):
    """A file that is not a notebook or is in another language; the other notebooks are not affected."""


def read_notebook(source: Path) -> NotebookNode:
    """Read a notebook that Python can run; a notebook that names no kernel counts as one.

    Raises:
        UnreadableNotebook: If the file cannot be read or is in another language. The message is one sentence.

    Example:
        >>> read_notebook(Path("/nowhere/a.ipynb"))
        Traceback (most recent call last):
        utilities.cli.notebook_source.UnreadableNotebook: notebook a cannot be read: No such file or directory
    """
    try:
        notebook = nbformat.read(source, as_version=4)
        found = _language(notebook)
        [cell.source for cell in notebook.cells]
    except Exception as error:  # nbformat raises whatever a damaged file leads to
        reason = getattr(error, "strerror", None) or f"{error}".partition("\n")[0]
        reason = reason if isinstance(error, (OSError, ValueError)) else f"it is no notebook ({type(error).__name__})"
        raise UnreadableNotebook(f"notebook {source.stem} cannot be read: {reason[:200]}") from error
    if not found.lower().startswith("python"):
        raise UnreadableNotebook(
            f"notebook {source.stem} is in {found}, and this package runs Python: open it in Jupyter with its own "
            "kernel, or move it out of the folder"
        )
    return notebook


def _language(notebook: NotebookNode) -> str:
    facts = notebook.metadata
    kernel = facts.get("kernelspec", {})
    named = kernel.get("language") or facts.get("language_info", {}).get("name")
    name = kernel.get("name", "")
    return named or (name if name.lower().partition("-")[0] in OTHER_KERNELS else "python")


def check_parameters(name: str, notebook: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that a notebook's tagged cell does not set, or that are no numbers where it needs some.

    Raises:
        ValueError: If parameters are missing or wrong. The message names them.

    Example:
        >>> check_parameters("a", nbformat.v4.new_notebook(), {"X": 1})
        Traceback (most recent call last):
        ValueError: notebook a has no parameters: tag the cell that sets them 'parameters'
    """
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    known = [found.name for cell in tagged[:1] for found in PythonTranslator.inspect(cell)]
    if not known:
        raise ValueError(f"notebook {name} has no parameters: tag the cell that sets them 'parameters'")
    if unknown := ", ".join(parameter for parameter in parameters if parameter not in known):
        raise ValueError(f"notebook {name} has no parameter {unknown}; it knows {', '.join(known)}")
    for parameter in WHOLE & parameters.keys():
        value = parameters[parameter]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ValueError(f"parameter {parameter} of notebook {name} should be a whole number, not {value!r}")
