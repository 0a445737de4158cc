"""Turn sums over batches into a `Similarity`, with values, errors, null and provenance; average several."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from utilities.compare.engine import Comparison
from utilities.results.similarity import Similarity, average
from utilities.utils import versions


def to_similarity(comparison: Comparison, provenance: Mapping[str, Any] | None) -> Similarity:
    """Turn a comparison, whose sums are those over all batches of all processes, into its result.

    Args:
        comparison: The comparison.
        provenance: Facts that the caller supplies.

    Raises:
        ValueError: If features were not finite.
    """
    sums = comparison.sums
    assert sums.sides is not None  # there was a batch, so there are layers
    rows, columns = sums.sides
    comparison.refuse_non_finite()
    if sums.confounded and not sums.totals()[0][-1, -1] > 0:
        raise ValueError("the confounder has no variance over the images: there is nothing to regress out")
    matrix, null = sums.matrix(), sums.null_values()
    _warn_of_missing(rows.names, columns.names, matrix)
    facts = comparison.options.facts(sums.largest)
    if facts.get("estimator") == "biased":
        _warn_of_width([*rows.names, *columns.names], [*rows.widths, *columns.widths], sums.largest)
    tables: dict[str, Any] = {}
    if null is not None:
        reached = (1 + (null >= matrix).sum(0)) / (1 + len(null))
        tables = {"null_mean": null.mean(0), "p_value": np.where(np.isnan(matrix), np.nan, reached)}
        facts["null_max_95"] = float(np.quantile(np.nan_to_num(null, nan=-1.0).max((1, 2)), 0.95))
    types = [type(recorder.model).__name__ for recorder in comparison.recorders]
    names = {"model": types[0]} if len(types) == 1 else {"model1": types[0], "model2": types[1]}
    if {"model", "model1"} & set(provenance or {}):  # the caller's facts take precedence
        names = {}
    facts["error_samples"] = len(sums.blocks)
    choices = [choice.facts() for choice in comparison.precisions]
    facts["precision"] = choices[0] if choices[0] == choices[1] else choices
    details = [side.details(sums.n) for side in sums.sides]
    if sums.decision is not None:
        facts["auto_precision"] = {key: value for key, value in sums.decision.items() if key != "by_layer"}
        for name, sides in sums.decision.get("by_layer", {}).items():
            for own, values in zip(details, sides, strict=True):
                own[f"{name}_difference"] = values
    return Similarity(
        matrix=matrix,
        layers1=rows.names,
        layers2=columns.names,
        n=sums.n,
        stderr=sums.stderr(),
        per_batch=sums.batch_values(),
        details1=details[0],
        details2=details[1],
        provenance=names | dict(provenance or {}) | facts | {"versions": versions()},
        **tables,
    )


def _warn_of_width(names: list[str], widths: list[int], images: int) -> None:
    wide = [name for name, width in zip(names, widths, strict=True) if width > images]
    if wide:
        warnings.warn(
            f"{len(wide)} layers are wider than the {images} images of a batch, {wide[0]!r} for one: the biased "
            "estimate goes to 1 there whatever the features; estimator='debiased' does not",
            stacklevel=4,
        )


def _warn_of_missing(rows: list[str], columns: list[str], matrix: np.ndarray) -> None:
    gone = np.isnan(matrix)
    names = [name for name, missing in zip(rows, gone.all(1), strict=True) if missing]
    if len(names) < len(rows):  # otherwise it is unknown which columns are to blame
        names += [name for name, missing in zip(columns, gone.all(0), strict=True) if missing]
    if names:
        text = ", ".join(dict.fromkeys(names))
        warnings.warn(f"layers without variance over the images, shown as missing: {text}", stacklevel=4)


def mean_of(results: Sequence[Similarity], what: str) -> Similarity:
    """Average over ``repeats``, keeping the jackknife's error, or over ``models``, with the error over them."""
    mean, first = average(results), results[0]
    tables: dict[str, Any] = {}
    if first.null_mean is not None:
        tables["null_mean"] = np.mean([r.null_mean for r in results], axis=0)
        tables["p_value"] = np.max([r.p_value for r in results], axis=0)  # the most cautious one
    if first.per_batch is not None:
        tables["per_batch"] = np.concatenate([r.per_batch for r in results])
    if what == "repeats" and first.stderr is not None:
        tables["stderr"] = np.sqrt(np.mean([r.stderr**2 for r in results], axis=0))
    provenance = (first if what == "repeats" else mean).provenance | {"replicates": len(results), "replicates_of": what}
    return replace(mean, **tables, provenance=provenance)
