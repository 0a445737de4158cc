"""All measures beside CKA by name."""

from __future__ import annotations

from utilities.compare.measures.distances import MUTUAL_KNN, RSA
from utilities.compare.measures.measure import Measure
from utilities.compare.measures.shape import PROCRUSTES
from utilities.compare.measures.subspaces import CCA, LINEAR_REGRESSION, PWCCA, SVCCA

SIMILARITY_MEASURES: dict[str, Measure] = {
    "procrustes": PROCRUSTES,
    "cca": CCA,
    "svcca": SVCCA,
    "pwcca": PWCCA,
    "linear_regression": LINEAR_REGRESSION,
    "rsa": RSA,
    "mutual_knn": MUTUAL_KNN,
}
