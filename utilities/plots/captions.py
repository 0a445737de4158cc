"""Titles and captions of figures of several results."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from utilities.plots.similarity.heatmap import caption
from utilities.plots.text import write_wrapped
from utilities.results.similarity import Similarity


def basis(results: Sequence[Similarity]) -> str:
    """State what results were made from, except for the models; only once if it is the same for all.

    Args:
        results: One or more results.

    Example:
        >>> one, two = (Similarity(np.eye(1), ["a"], ["a"], n) for n in (10, 20))
        >>> basis([one, one]), basis([one, two, one])
        ('n = 10 images.', 'Results 1, 3: n = 10 images. Result 2: n = 20 images.')
    """
    groups: dict[str, list[str]] = {}
    several = len({result.provenance.get("measure") for result in results}) > 1  # the titles tell them apart
    left_out = ("model", "weights", "accuracy", *(("measure", "estimator") if several else ()))
    for number, result in enumerate(results, 1):
        facts = {k: v for k, v in result.provenance.items() if not k.startswith(left_out)}
        bare = dataclasses.replace(result, matrix=np.full_like(result.matrix, np.nan), stderr=None, provenance=facts)
        groups.setdefault(caption(bare), []).append(str(number))
    text = " ".join(f"Result{'s' * (len(n) > 1)} {', '.join(n)}: {text}" for text, n in groups.items())
    text = next(iter(groups)) if len(groups) == 1 else text
    errors = [result.stderr[np.isfinite(result.stderr)] for result in results if result.stderr is not None]
    flat = np.concatenate(errors) if errors else np.array([])
    return text + (f" Standard errors {flat.mean():.3f} on average, {flat.max():.3f} at most." if flat.size else "")


def heading(result: Similarity, missing: str = "similarity of layers") -> str:
    r"""Name the models of a result, with weights and accuracy on lines of their own.

    Args:
        result: Result to name. Facts missing from its provenance are left out.
        missing: Text to use if the model's name is not known.

    Example:
        >>> facts = {"model1": "resnet18", "weights1": "untrained", "model2": "vit", "accuracy2": 0.9}
        >>> heading(Similarity(np.eye(1), ["a"], ["b"], 10, provenance=facts)).split("\n")
        ['resnet18 x vit', 'rows: untrained', 'columns: accuracy 90.0%']
    """
    facts = result.provenance
    lines = [" x ".join(name for name in model_names(result) if name)] if not facts.get("model") else [facts["model"]]
    for which, side in (("", ""), ("1", "rows: "), ("2", "columns: ")):
        accuracy = facts.get(f"accuracy{which}")
        parts = [facts.get(f"weights{which}"), None if accuracy is None else f"accuracy {100 * accuracy:.1f}%"]
        text = ", ".join(part for part in parts if part)
        lines.append(side + text if text else "")
    return "\n".join(line for line in lines if line) or missing


def model_names(result: Similarity) -> tuple[str, str]:
    """Return the names of the row and column models; empty where they are not known."""
    facts = result.provenance
    return facts.get("model1") or facts.get("model", ""), facts.get("model2") or facts.get("model", "")


def titles_of(results: Sequence[Similarity], titles: Sequence[str] | None) -> tuple[list[str], str]:
    """Return a title for each result, and a sentence on the models if the given titles do not name them.

    Raises:
        ValueError: If there is no result, or the number of titles differs.
    """
    if not results:
        raise ValueError("there are no results to draw")
    if titles is None:
        return [heading(result, f"result {i}") for i, result in enumerate(results, 1)], ""
    if len(titles) != len(results):
        raise ValueError(f"there are {len(results)} results, but {len(titles)} titles")
    models = [heading(result, "").replace("\n", ", ") for result in results]
    if len(set(models)) == 1:
        return list(titles), f"{models[0]}. " if models[0] else ""
    return list(titles), "".join(f"{t}: {m}. " for t, m in zip(titles, models, strict=True) if m)


def write_caption(figure: Figure, text: str) -> None:
    """Write a caption below a figure, in lines as long as the figure is wide, and enlarge the figure to hold it."""
    artist = figure.supxlabel(text, fontsize=7, x=0.02, ha="left")
    lines = write_wrapped(artist, text, 0.96 * figure.get_figwidth()).splitlines()
    figure.caption = text  # kept for breaking lines at another width
    figure.set_figheight(figure.get_figheight() + caption_height(len(lines)))


def caption_height(lines: int) -> float:
    """Return the height in inches of a caption with ``lines`` lines."""
    return 0.1 + 0.12 * lines if lines else 0.0


def measure_of(results: Sequence[Similarity]) -> str:
    """Name the measure of the results, or ``similarity`` if they have different ones."""
    names = {str(r.provenance.get("measure", "similarity")) for r in results}
    return names.pop() if len(names) == 1 else "similarity"


def extremes(matrices: Sequence[np.ndarray]) -> tuple[float, float]:
    """Return the least and the largest finite value; NaN if there is none."""
    values = np.concatenate([matrix[np.isfinite(matrix)] for matrix in matrices])
    return (float(values.min()), float(values.max())) if values.size else (np.nan, np.nan)
