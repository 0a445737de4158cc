"""Alternatives to CKA on plain matrices, in float64: shape, CCA, regression, dissimilarities, neighbours.

No measure is best everywhere (Klabunde et al. 2024, https://arxiv.org/abs/2408.00531), so a finding should hold under
several. Each measure is a function of two feature matrices, and an entry of `SIMILARITY_MEASURES`, which compares many
layers at once.
"""

from utilities.compare.measures.distances import mutual_knn, rsa
from utilities.compare.measures.measure import Measure, centered
from utilities.compare.measures.shape import procrustes
from utilities.compare.measures.subspaces import cca, linear_regression, pwcca, svcca
from utilities.compare.measures.table import SIMILARITY_MEASURES

__all__ = [
    "SIMILARITY_MEASURES", "Measure", "cca", "centered", "linear_regression", "mutual_knn", "procrustes", "pwcca",
    "rsa", "svcca",
]  # fmt: skip
