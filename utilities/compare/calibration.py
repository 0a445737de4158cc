"""Tell similarity from what width, depth and chance make of unrelated features: calibration by permuted images.

The images of the second model are put into other orders, the same order for all of its layers, and everything is
computed again from what was kept of each batch: no permutation costs a forward pass. See
`utilities.results.calibration` for formulas and source.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.compare.common_weights import model_facts
from utilities.compare.engine import Comparison
from utilities.compare.kept_layers import KeptLayer
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.compare.options import ComparisonOptions
from utilities.compare.paired_batches import PairedBatches, prefetched
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.options import check_number, check_whole
from utilities.hooks.calls.weights import check_module
from utilities.hooks.recorder import BatchAxis, Layers
from utilities.hooks.views import View
from utilities.metrics import Estimator, Kernel
from utilities.results.calibration import Calibration, calibration_of, threshold_of
from utilities.utils import evaluating, versions

PERMUTATIONS = 200


def calibrate(
    model1: nn.Module,
    model2: nn.Module,
    loader: Iterable[Any],
    loader2: Iterable[Any] | None = None,
    *,
    layers1: Layers | None = None,
    layers2: Layers | None = None,
    measure: str = "cka",
    kernel: Kernel = "linear",
    estimator: Estimator = "debiased",
    bandwidth: float = 1.0,
    view: View = "flatten",
    view2: View | None = None,
    batch_axis: BatchAxis | None = None,
    precision: str = "exact",
    permutations: int = PERMUTATIONS,
    level: float = 0.05,
    seed: int = 0,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Calibration:
    """Compare all layers of two models, and set each value, and the largest ones, against permuted images.

    Permutations are drawn within each batch, so that a batch should hold images of all classes.

    Args:
        model1: Model of the rows.
        model2: Model of the columns. If it is the first one, only single pairs of layers mean something: the largest
            similarity is that of a layer with itself.
        loader: See `utilities.compare.compare`.
        loader2: See `utilities.compare.compare`.
        layers1: See `utilities.compare.compare`.
        layers2: See `utilities.compare.compare`.
        measure: ``"cka"``, or another of `utilities.compare.measures.SIMILARITY_MEASURES`.
        kernel: See `utilities.compare.compare`.
        estimator: See `utilities.compare.compare`.
        bandwidth: See `utilities.compare.compare`.
        view: See `utilities.compare.compare`.
        view2: The same for ``model2``; default: ``view``.
        batch_axis: See `utilities.compare.compare`.
        precision: ``"exact"``, ``"fast"``, ``"centred"`` or ``"half"``, see `utilities.compare.compare`.
        permutations: Number of permutations.
        level: Level of the thresholds: the chance that unrelated features get a calibrated value above 0.
        seed: Seed of the permutations.
        device: See `utilities.compare.compare`.
        provenance: Facts to keep with the result; facts that are known here are added.
        progress: Whether to show a progress bar once the work takes more than two seconds.

    Returns:
        The result; layers without variance are NaN.

    Raises:
        ValueError: As in `utilities.compare.compare`, or for too few permutations.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Sequential(nn.Linear(8, 200, bias=False))
        >>> x, unrelated = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(2))
        >>> how = {"estimator": "biased", "permutations": 99, "device": "cpu", "layers1": "0", "layers2": "0"}
        >>> result = calibrate(model, model, [x], [unrelated], **how)
        >>> bool(result.matrix[0, 0] > 0.05), result.calibrated.tolist()
        (True, [[0.0]])
    """
    for model in (model1, model2):
        check_module(model)
    if precision == "auto":
        raise ValueError("precision='auto' looks at similarities; choose 'exact', 'fast', 'centred' or 'half' here")
    check_whole("permutations", permutations, 1)
    check_whole("seed", seed, 0)
    check_number("level", level, above=0, below=1)
    threshold_of(np.zeros(()), np.zeros(permutations), level)  # refuses a level without permutations for it
    options = ComparisonOptions(
        measure, kernel, estimator, bandwidth, view1=view, view2=view if view2 is None else view2, precision=precision,
        permutations=permutations if measure == "cka" else 0, seed=seed, batch_axis=batch_axis,
    )  # fmt: skip
    batches = PairedBatches(loader, loader2, min_images=options.min_images)
    with keeping_freed_memory(), evaluating(model1, device) as device1, evaluating(model2, device) as device2:
        devices = (device1, device2)
        comparison = _Permuted(permutations, model1, model2, layers1, layers2, options, devices, batches.two_loaders)
        read = prefetched(batches.read(), device1)
        for index, one, two in tqdm(read, total=batches.length, desc="permuting", delay=2, disable=not progress):
            comparison.add(index, one, two)
    if comparison.sums.sides is None:
        raise ValueError(f"the loader has no batch of {batches.min_images} images or more")
    comparison.refuse_non_finite()
    return _result(comparison, level, known_facts(provenance, loader, loader2))


class _Permuted(Comparison):
    """Compute each batch under permutations as well, for measures other than CKA, which the comparison itself can."""

    def __init__(self, permutations: int, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.permutations = permutations

    def _add_measures(self, index: int, n: int, recorded: list[dict[str, KeptLayer]]) -> None:
        super()._add_measures(index, n, recorded)
        measure, generator = (
            SIMILARITY_MEASURES[self.options.measure],
            np.random.default_rng([self.options.seed, index]),
        )
        rows = [measure.prepare_row(layer.value) for layer in recorded[0].values()]
        columns = [measure.prepare_column(layer.value) for layer in recorded[1].values()]
        null = torch.empty(self.permutations, len(rows), len(columns), dtype=torch.float64)
        for k in range(self.permutations):
            order = torch.from_numpy(generator.permutation(n))
            null[k] = n * measure.pairs(rows, [reordered(column, order) for column in columns]).double().cpu()
        self.sums.null = null if self.sums.null is None else self.sums.null + null


def reordered(prepared: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Put the images of what a measure has prepared of a layer into another order, without preparing it again.

    Args:
        prepared: A column of `utilities.compare.measures.Measure`: a value for each pair of images, as a matrix (n, n)
            or as the upper triangle (n(n-1)/2,); or a row for each image, (n, r). The columns of square (n, n) features
            are permuted too, which is a rotation that no measure sees.
        order: The place that each image comes from, (n,).

    Example:
        >>> reordered(torch.tensor([12.0, 13.0, 23.0]), torch.tensor([2, 1, 0]))  # pairs of images 1, 2, 3
        tensor([23., 13., 12.])
    """
    order = order.to(prepared.device)
    if prepared.ndim == 1:
        row, column = torch.triu_indices(len(order), len(order), offset=1, device=prepared.device)
        place = torch.zeros(len(order), len(order), dtype=torch.long, device=prepared.device)
        place[row, column] = place[column, row] = torch.arange(len(row), device=prepared.device)
        return prepared[place[order[row], order[column]]]
    return prepared[order][:, order] if prepared.shape[0] == prepared.shape[1] else prepared[order]


def _result(comparison: _Permuted, level: float, provenance: dict[str, Any]) -> Calibration:
    sums = comparison.sums
    rows, columns = sums.sides
    names = model_facts(*comparison.models, provenance)
    facts = comparison.options.facts(sums.largest) | {"permutations": comparison.permutations}
    facts |= {"precision": comparison.precisions[0].facts(), "versions": versions()}
    matrix, null = sums.matrix(), sums.null_values()
    return calibration_of(matrix, null, rows.names, columns.names, sums.n, level, names | provenance | facts)
