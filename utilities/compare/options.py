"""Define how two models are compared: the choices, and which of them go together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.hooks.calls.options import check_number, check_whole
from utilities.hooks.precision import PRECISIONS as STATED
from utilities.hooks.recorder import BatchAxis, Forward
from utilities.hooks.views import View, check_view
from utilities.metrics import MIN_IMAGES, Estimator, Kernel, check_choices

PRECISIONS = ("auto", *STATED)
TOLERANCE = 0.002  # a third of a usual standard error


@dataclass(frozen=True)
class ComparisonOptions:
    """Hold the choices of how two models are compared, see `utilities.compare.compare`.

    Raises:
        ValueError: For a choice that does not exist, or that does not go with another.

    Example:
        >>> ComparisonOptions(measure="ckas")
        Traceback (most recent call last):
        ValueError: measure 'ckas' is not known; choose from cka, procrustes, cca, ...
    """

    measure: str = "cka"
    kernel: Kernel = "linear"
    estimator: Estimator = "debiased"
    bandwidth: float = 1.0
    sigma: float | None = None
    view1: View = "flatten"
    view2: View = "flatten"
    precision: str = "auto"
    confounder: str | Callable[[torch.Tensor], torch.Tensor] | None = None
    remove_top_pc: int = 0
    permutations: int = 0
    per_batch: bool = False
    seed: int = 0
    forward1: Forward | None = None
    forward2: Forward | None = None
    batch_axis: BatchAxis | None = None
    tolerance: float = TOLERANCE

    def __post_init__(self) -> None:
        if self.measure != "cka" and self.measure not in SIMILARITY_MEASURES:
            raise ValueError(
                f"measure {self.measure!r} is not known; choose from cka, {', '.join(SIMILARITY_MEASURES)}"
            )
        check_choices(self.kernel, self.estimator, self.bandwidth, self.sigma)
        for view in (self.view1, self.view2):
            check_view(view)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision {self.precision!r} is not known; choose from {', '.join(PRECISIONS)}")
        _check_tolerance(self.tolerance, self.precision)
        for name in ("remove_top_pc", "permutations", "seed"):
            check_whole(name, getattr(self, name), 0)
        if self.kernel == "linear" and (self.sigma is not None or self.bandwidth != 1.0):
            raise ValueError("bandwidth and sigma are those of kernel='rbf', and the kernel is linear")
        if self.confounder not in (None, "input") and not callable(self.confounder):
            raise ValueError(f"confounder should be 'input' or a function of the images, not {self.confounder!r}")
        changed = [name for name in ("confounder", "remove_top_pc", "permutations") if getattr(self, name)]
        changed += ["kernel='rbf'"] if self.kernel == "rbf" else []
        changed += ["estimator='biased'"] if self.estimator == "biased" else []
        if self.measure != "cka" and changed:
            raise ValueError(f"{', '.join(changed)} goes with measure='cka' only, not with {self.measure!r}")

    @property
    def min_images(self) -> int:
        """Return how many images a batch needs."""
        return MIN_IMAGES[self.estimator] if self.measure == "cka" else MIN_IMAGES["debiased"]

    @property
    def whole_batches(self) -> tuple[bool, bool]:
        """Whether each model gets whole batches, as its loader yields them, rather than images."""
        return callable(self.forward1), callable(self.forward2)

    def facts(self, batch_size: int) -> dict[str, Any]:
        """Return what a result's provenance states about the choices."""
        facts: dict[str, Any] = {"batch_size": batch_size}
        if self.measure == "cka":
            facts |= {"measure": f"{self.kernel} CKA", "estimator": self.estimator}
            facts |= {"bandwidth": self.bandwidth, "sigma": self.sigma} if self.kernel == "rbf" else {}
        else:
            facts |= {"measure": SIMILARITY_MEASURES[self.measure].title}
        for name in ("view1", "view2", "confounder", "forward1", "forward2", "batch_axis"):
            value = getattr(self, name)
            if value not in ("flatten", None):
                facts[name] = getattr(value, "__name__", str(value))
        for name in ("remove_top_pc", "permutations"):
            facts |= {name: getattr(self, name)} if getattr(self, name) else {}
        return facts


def _check_tolerance(tolerance: float, precision: str) -> None:
    check_number("tolerance", tolerance, least=0, hint="; 0 is always exact")
    if tolerance != TOLERANCE and precision != "auto":
        raise ValueError(f"tolerance is that of precision='auto', and the precision is {precision!r}")
