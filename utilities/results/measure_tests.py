"""How measures of similarity do in tests with known answers: `utilities.study.measure_tests` returns it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from utilities.results.formatting import with_error
from utilities.results.result import Result


@dataclass(frozen=True, repr=False)
class MeasureTests(Result):
    """Scores of measures in tests, for several kinds of models.

    Attributes:
        kinds: Kinds of models, such as CNN, hybrid and ViT.
        measures: Names of the measures.
        tests: Names of the tests.
        scores: Scores, (kinds, measures, tests); more is better. NaN where a score is not defined.
        stderr: Their standard errors, the same shape; by a jackknife over models, or over networks.
        chance: What a measure that says nothing scores in each test, (tests,).
        provenance: Facts about its origin: models, accuracies, data set, number of images, seeds, versions.

    Example:
        >>> scores = np.array([[[0.9, 0.5], [0.7, 0.6]]])
        >>> names = (["CNN"], ["cka", "rsa"], ["order", "labels"])
        >>> result = MeasureTests(*names, scores, scores / 10, np.array([0.5, 0.3]))
        >>> result.best(), result.ranks().loc["cka"].tolist()
        ({'order': 'cka', 'labels': 'rsa'}, [1.0, 2.0])
    """

    kinds: list[str]
    measures: list[str]
    tests: list[str]
    scores: np.ndarray
    stderr: np.ndarray
    chance: np.ndarray
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = (len(self.kinds), len(self.measures), len(self.tests))
        for name, wanted in (("scores", shape), ("stderr", shape), ("chance", shape[2:])):
            if getattr(self, name).shape != wanted:
                raise ValueError(f"{name} is {getattr(self, name).shape}, but the names ask for {wanted}")

    def __repr__(self) -> str:
        kinds = ", ".join(self.kinds)
        return f"<MeasureTests: {len(self.measures)} measures in {len(self.tests)} tests, {kinds}>"

    def to_frame(self) -> pd.DataFrame:
        """Return one row for each kind, measure and test."""
        index = pd.MultiIndex.from_product([self.kinds, self.measures, self.tests], names=["kind", "measure", "test"])
        table = pd.DataFrame({"score": self.scores.ravel(), "stderr": self.stderr.ravel()}, index=index).reset_index()
        return table.assign(chance=np.tile(self.chance, len(table) // len(self.tests)))

    def mean(self) -> pd.DataFrame:
        """Return the scores as a mean over kinds of models: a row for each measure, a column for each test."""
        return pd.DataFrame(self.scores.mean(0), index=self.measures, columns=self.tests)

    def mean_stderr(self) -> pd.DataFrame:
        """Return the standard errors of `mean`, of kinds that share no model."""
        values = np.sqrt((self.stderr**2).sum(0)) / len(self.kinds)
        return pd.DataFrame(values, index=self.measures, columns=self.tests)

    def ranks(self) -> pd.DataFrame:
        """Rank the measures in each test by their mean over kinds, the best first; equal ones share their rank."""
        return self.mean().rank(ascending=False)

    def best(self) -> dict[str, str]:
        """Name the measure with the largest mean score in each test, the first one of those that share it."""
        return {test: self.measures[int(np.nanargmax(column))] for test, column in self.mean().items()}

    def table(self) -> str:
        """Write the means over kinds and their errors as a Markdown table."""
        mean, stderr = self.mean(), self.mean_stderr()
        cells = [
            [with_error(mean.loc[one, test], stderr.loc[one, test], ".2f", unknown="") for test in self.tests]
            for one in self.measures
        ]
        rows = [[one, *row] for one, row in zip(self.measures, cells, strict=True)]
        rows.append(["chance", *(f"{value:.2f}" for value in self.chance)])
        lines = [["", *self.tests], ["---", *("--:" for _ in self.tests)], *rows]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines)
