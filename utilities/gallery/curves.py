"""Hand curves over depth to the browser: the numbers that a reader wants to read off, with their errors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utilities.analysis.attention.attention_distance import AttentionDistance
from utilities.analysis.blocks.fourier import Fourier
from utilities.analysis.blocks.layer_probes import LayerProbes
from utilities.analysis.blocks.lesion import Lesions
from utilities.analysis.blocks.receptive_field import ReceptiveField
from utilities.analysis.blocks.skip_ratios import SkipRatios
from utilities.analysis.blocks.variance import Variance
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.results.result import Result
from utilities.results.statistics import stderr_of_mean
from utilities.results.writing import write_whole

DIGITS = 4  # that count


@dataclass(frozen=True)
class Curve:
    """One curve over relative depth.

    Attributes:
        name: What tells it from others of the same result, or an empty string.
        points: Name of each point.
        depth: Relative depth, 0 to 1.
        values: Value of each point; NaN where there is none.
        errors: Standard error of each value.
    """

    name: str
    points: list[str]
    depth: np.ndarray
    values: np.ndarray
    errors: np.ndarray


def _attention(result: AttentionDistance) -> list[Curve]:
    layers, heads = result.distance.shape
    depth = np.linspace(0, 1, layers)
    name = lambda k: [f"{layer}, head {k}" for layer in result.names]  # noqa: E731
    return [Curve(f"head {k}", name(k), depth, result.distance[:, k], result.stderr[:, k]) for k in range(heads)]


def _probes(result: LayerProbes) -> list[Curve]:
    means, errors = result.correct.mean(0), stderr_of_mean(result.correct)
    return [Curve(view, result.names, result.depth, means[k], errors[k]) for k, view in enumerate(result.views)]


def _skips(result: SkipRatios) -> list[Curve]:
    means, errors = np.nanmean(result.image_ratio, 0), stderr_of_mean(result.image_ratio)
    return [
        Curve(group, result.names, result.depth, means[:, k], errors[:, k]) for k, group in enumerate(result.groups)
    ]


def _lens(result: Identifiability) -> list[Curve]:
    part = result.parts.index("block") if "block" in result.parts else 0
    return [
        Curve(group, result.names, result.depth, result.score[part, :, k], result.score_stderr[part, :, k])
        for k, group in enumerate(result.groups)
    ]


def _field(result: ReceptiveField) -> list[Curve]:
    share = result.image_radius / result.flat_radius
    return [Curve("", result.names, result.depth, np.nanmean(share, 0), stderr_of_mean(share))]


# Kind of result -> what is on the vertical axis, and its curves.
KINDS: dict[type[Result], tuple[str, Callable[[Any], list[Curve]]]] = {
    Fourier: (
        "Delta log amplitude at the highest frequency",
        lambda r: [Curve("", r.names, r.depth, r.high, r.high_stderr)],
    ),
    Variance: ("variance of feature maps", lambda r: [Curve("", r.names, r.depth, r.variance, r.stderr)]),
    Lesions: ("drop of accuracy without the unit", lambda r: [Curve("", r.names, r.depth, r.drop, r.drop_stderr)]),
    ReceptiveField: ("radius that holds half of the gradient, share of a flat map's", _field),
    LayerProbes: ("accuracy of probes", _probes),
    SkipRatios: ("norm of the skip over that of its branch", _skips),
    AttentionDistance: ("mean attention distance, pixels", _attention),
    Identifiability: ("class identifiability of block outputs", _lens),
}


def as_data(results: Mapping[str, Result], labels: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what the browser needs of all curves, one plot for each kind of result.

    Points are joined by lines only where no two of a curve have the same depth, as the two branches of a block have.

    Args:
        results: Name of the file -> result; kinds without curves are left out.
        labels: Name of the file -> what the result is called.
    """
    plots: dict[str, dict[str, Any]] = {}
    for file, result in results.items():
        if type(result) not in KINDS:
            continue
        title, make = KINDS[type(result)]
        plot = plots.setdefault(title, {"title": title, "joined": True, "curves": []})
        curves = make(result)
        plot["joined"] &= all(bool((np.diff(curve.depth) > 0).all()) for curve in curves)
        plot["curves"] += [
            {
                "name": ", ".join(part for part in (labels[file], curve.name) if part),
                "points": curve.points,
                "x": _rounded(curve.depth),
                "y": _rounded(curve.values),
                "errors": _rounded(curve.errors),
            }
            for curve in curves
        ]
    return list(plots.values())


def _rounded(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in np.asarray(values, float)]


def write_script(path: Path, plots: list[dict[str, Any]]) -> Path:
    """Write the plots of a page as a script that hands them to it."""
    text = f"curves.draw({json.dumps(plots, ensure_ascii=False)});\n"
    return write_whole(path, lambda place: place.write_text(text, encoding="utf-8"))
