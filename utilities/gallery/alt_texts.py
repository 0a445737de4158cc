"""Say what a picture shows to those who do not see it: from the result that it was drawn from, or from its caption."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from utilities.gallery.entries import Entry
from utilities.plots.captions import describe_similarity
from utilities.results.result import Result
from utilities.results.similarity import Similarity


def describe_figure(entry: Entry, name: str, result: Result | None) -> str:
    """Describe a figure on a notebook's page, with the question that it answers.

    Args:
        entry: What the notebook left.
        name: Name of the figure's file, without its ending.
        result: The result of the same name, or None.
    """
    what = name.removeprefix(entry.name).replace("_", " ").strip()
    return f"{entry.title} {_shown(entry, f'Figure {what}'.rstrip(), result)}"


def describe_card(entry: Entry, first: Result | None) -> str:
    """Describe the small picture of the index, beside which the question stands: the first figure or the first result.

    Args:
        entry: What the notebook left.
        first: Its first result, or None.
    """
    drawn = entry.results[0].stem if entry.results else ""
    other = bool(entry.figures) and entry.figures[0].stem != drawn  # the picture is not that of the first result
    return _shown(entry, "Figure", None if other else first)


def _shown(entry: Entry, what: str, result: Result | None) -> str:
    if isinstance(result, Similarity):
        return f"Heatmap: {describe_similarity(result)}"
    facts = [", ".join(entry.values("model", "model1", "model2")), "; ".join(entry.values("dataset"))]
    return ". ".join(part for part in (what, *facts) if part) + "."


def describe_outputs(outputs: Sequence[Any], notebook: str) -> None:
    """Describe the pictures among a cell's outputs by the captions shown below them, or by the notebook's name.

    Args:
        outputs: Outputs of an executed cell; the texts are written into their metadata, where nbconvert looks for them.
        notebook: Name of the notebook.

    Example:
        >>> from nbformat.v4 import new_output
        >>> figure = new_output("display_data", {"image/png": ""})
        >>> caption = new_output("display_data", {"text/markdown": "*Bars*", "text/plain": "Bars: one error."})
        >>> describe_outputs([figure, caption], "Measures")
        >>> figure.metadata["image/png"]["alt"]
        'Figure of the notebook Measures. Bars: one error.'
    """
    for output, below in pairwise([*outputs, {}]):
        if "image/png" in output.get("data", {}):
            texts = below.get("data", {})
            caption = texts.get("text/plain", "") if "text/markdown" in texts else ""
            text = f"Figure of the notebook {notebook}. {caption}".strip()
            output.metadata.setdefault("image/png", {})["alt"] = text
