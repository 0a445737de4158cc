"""What ``analyse hessian`` prints and draws of both readings of a model's Hessian."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from utilities.analysis.loss.hessian import HessianSpectra
from utilities.analysis.loss.readings import readings_table
from utilities.plots.loss.hessian import plot_spectra

Readings = Mapping[str, Mapping[str, HessianSpectra]]


def figures(results: Readings, loaders: Mapping[str, Any]) -> dict[str, Figure]:
    """Draw the eigenvalues of the mini-batches."""
    return {"": plot_spectra({model: readings["mini-batch"] for model, readings in results.items()})}


def report(results: Readings, given: SimpleNamespace) -> dict[str, pd.DataFrame]:
    """Print what each Hessian is of and what its eigenvalues sum up to, and return it as a table."""
    table = readings_table(results)
    with pd.option_context("display.width", 120, "display.max_rows", None):
        print(table.T.to_string(header=False, float_format=lambda value: f"{value:.4g}"), end="\n\n")
    return {"table": table}
