"""Test whether a measure finds the same layer in another network: ``python -m utilities analyse layer_matching``.

This is the test of Kornblith et al. 2019, table 2 (https://arxiv.org/abs/1905.00414): networks of one architecture that
differ only in their seeds are compared pair by pair. For each layer of the first network, the most similar layer of the
second should be the one at the same place. By chance that happens in one of as many cases as there are layers. The
classifier's outputs are left out. In the paper, ten All-CNN-C-like networks on CIFAR-10 have 99.3 % with linear CKA and
10.6 % with CCA.

CCA and its kin need fewer features than images, so they see channels only (``gap``); read them beside CKA of the same
view. They fail where widths differ: canonical correlations, divided by the narrower layer's rank, add up to more with
any wider layer. More images do not change that. With equal widths (``--widths 64 64 64 64 64 64 64 64``) CCA and PWCCA
find most layers of networks trained on digits. SVCCA does not, since it keeps a different number of components for each
layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from utilities.compare.all_pairs import SideBySide
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.compare.two_models import compare
from utilities.datasets.naming import known_facts
from utilities.hooks.recorder import Layers, select_layers
from utilities.hooks.views import check_view
from utilities.results.result import Result
from utilities.results.statistics import jackknife
from utilities.utils import versions

# Options for `utilities.compare.compare`; the bandwidths are those of the paper's table.
INDEXES: dict[str, dict[str, Any]] = {
    "cka": {"measure": "cka"},
    **{f"cka_rbf_{b}": {"measure": "cka", "kernel": "rbf", "bandwidth": b} for b in (0.2, 0.4, 0.8)},
    **{name: {"measure": name} for name in SIMILARITY_MEASURES},
}
MEASURE_TITLES = {
    "cka": "linear CKA",
    **{name: f"RBF CKA, σ = {options['bandwidth']} median" for name, options in INDEXES.items() if "kernel" in options},
    **{name: measure.title for name, measure in SIMILARITY_MEASURES.items()},
}
VIEWS = ("flatten", "gap")


def is_block(name: str, module: nn.Module) -> bool:
    """Tell whether a module is a block of a `PlainCNN`.

    Example:
        >>> is_block("block1", nn.Sequential()), is_block("block1.0", nn.ReLU()), is_block("head", nn.Linear(1, 1))
        (True, False, False)
    """
    return re.fullmatch(r"block\d+", name) is not None


def matched(matrices: np.ndarray) -> np.ndarray:
    """Tell for each row whether its largest entry is on the diagonal: 1 or 0, or 1/m if m entries tie for largest.

    A measure with the same value everywhere is thus right as often as by chance. A row without any value is wrong.

    Args:
        matrices: Similarities, (..., layers, layers).

    Returns:
        Hits, (..., layers).

    Example:
        >>> matched(np.array([[0.9, 0.2], [0.3, 0.3]]))
        array([1. , 0.5])
    """
    values = np.where(np.isnan(matrices), -np.inf, matrices)
    largest = values == values.max(-1, keepdims=True)
    right = np.diagonal(largest, axis1=-2, axis2=-1) / largest.sum(-1)
    return np.where(np.isnan(matrices).all(-1), 0.0, right)


def match_accuracy(matrix: np.ndarray) -> float:
    """Return the share of one network's layers whose most similar layer in another has the same place.

    Args:
        matrix: Similarities of the layers of two networks of one architecture, (layers, layers).

    Raises:
        ValueError: If the matrix is not square.

    Example:
        >>> match_accuracy(np.eye(4)), match_accuracy(np.ones((4, 4)))
        (1.0, 0.25)
    """
    matrix = np.asarray(matrix, float)
    if matrix.ndim != 2 or len(set(matrix.shape)) > 1:
        raise ValueError(f"layers of networks of one architecture give a square matrix, not {matrix.shape}")
    return float(matched(matrix).mean())


def mean_accuracy(matrices: np.ndarray) -> tuple[float, float]:
    """Average `match_accuracy` over ordered pairs of networks, with its standard error.

    The error comes from a jackknife over networks, as in the paper: pairs share networks and are not independent.

    Args:
        matrices: Similarities, (networks, networks, layers, layers); networks with themselves are ignored.

    Returns:
        The mean, and its standard error, which is NaN for two networks.

    Example:
        >>> matrices = np.broadcast_to(np.eye(4), (3, 3, 4, 4))
        >>> mean_accuracy(matrices)
        (1.0, 0.0)
    """
    count = len(matrices)
    shares = matched(matrices).mean(-1)
    different = ~np.eye(count, dtype=bool)
    if count < 3:
        return float(shares[different].mean()), float("nan")
    return jackknife(np.arange(count), lambda kept: shares[np.ix_(kept, kept)][different[np.ix_(kept, kept)]].mean())


@dataclass(frozen=True)
class LayerMatching(Result):
    """Hold how often each measure finds the layer at the same place.

    Attributes:
        measures: A key of `INDEXES` for each row.
        views: Which part of a layer's output represented an image, for each row, see `utilities.hooks.views`.
        matrices: Similarities, (rows, networks, networks, layers, layers); [r, a, b, i, j] compares layer i of network
            a with layer j of network b. Asymmetric measures are half of S + Sᵀ.
        layers: Names of the layers.
        widths: Mapping from view to the number of features of each layer.
        n: Number of images.
        skipped: Mapping from measure to view to the reason why it could not be computed.
        provenance: Facts about what it was made from.

    Example:
        >>> matrices = np.broadcast_to(np.eye(4), (1, 3, 3, 4, 4))
        >>> LayerMatching(["cka"], ["flatten"], matrices, list("abcd"), {"flatten": [9, 9, 9, 9]}, 100).to_frame()
              measure     view  percent  stderr
        0  linear CKA  flatten    100.0     0.0
    """

    measures: list[str]
    views: list[str]
    matrices: np.ndarray
    layers: list[str]
    widths: dict[str, list[int]]
    n: int
    skipped: dict[str, dict[str, str]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def chance(self) -> float:
        """Return the share that a guess gets right."""
        return 1 / len(self.layers)

    def accuracy(self, measure: str, view: str = "flatten") -> float:
        """Return the share of layers matched, 0 to 1, over ordered pairs of networks.

        Raises:
            KeyError: If that measure was not computed with that view.
        """
        rows = list(zip(self.measures, self.views, strict=True))
        if (measure, view) not in rows:
            raise KeyError(f"{measure!r} was not computed with view {view!r}; there are {rows}")
        return mean_accuracy(self.matrices[rows.index((measure, view))])[0]

    def to_frame(self) -> pd.DataFrame:
        """Tabulate, for each measure and view, the percent of layers matched and its error, see `mean_accuracy`."""
        numbers = 100 * np.array([mean_accuracy(matrices) for matrices in self.matrices]).reshape(-1, 2)
        return pd.DataFrame(
            {
                "measure": [MEASURE_TITLES[name] for name in self.measures],
                "view": self.views,
                "percent": numbers[:, 0],
                "stderr": numbers[:, 1],
            }
        )

    def by_layer(self) -> pd.DataFrame:
        """Tabulate the percentage of ordered pairs in which each layer is matched; rows as in `to_frame`."""
        different = ~np.eye(self.matrices.shape[1], dtype=bool)
        shares = matched(self.matrices)[:, different].mean(1)
        index = pd.MultiIndex.from_arrays([[MEASURE_TITLES[name] for name in self.measures], self.views])
        return pd.DataFrame(100 * shares, index=index.set_names(["measure", "view"]), columns=self.layers)

    def table(self) -> str:
        """Write the percentages as text, with a line for each measure and a column for each view."""
        frame = self.to_frame()
        cells = {
            (row.measure, row.view): f"{row.percent:.1f}" + ("" if np.isnan(row.stderr) else f" ± {row.stderr:.1f}")
            for row in frame.itertuples()
        }
        names = list(dict.fromkeys([*frame["measure"], *(MEASURE_TITLES[name] for name in self.skipped)]))
        views = list(self.widths)
        head = [f"{'percent of layers matched':<32}" + "".join(f"{view:>16}" for view in views)]
        lines = [f"{name:<32}" + "".join(f"{cells.get((name, view), '-'):>16}" for view in views) for name in names]
        chance = [f"{'chance':<32}" + "".join(f"{100 * self.chance:>16.1f}" for _ in views)]
        notes = [f"features, {view}: {', '.join(map(str, widths))}" for view, widths in self.widths.items()]
        notes += [
            f"not computed: {MEASURE_TITLES[name]}, {view}: {reason}"
            for name, reasons in self.skipped.items()
            for view, reason in reasons.items()
        ]
        return "\n".join([*head, *lines, *chance, *notes])


def layer_matching(
    models: Sequence[nn.Module],
    loader: Iterable[Any],
    measures: Sequence[str] = tuple(INDEXES),
    *,
    layers: Layers = is_block,
    views: Sequence[str] = VIEWS,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
    report: Callable[[str], None] = lambda line: None,
) -> LayerMatching:
    """Compare every layer of several networks of one architecture by several measures, and see which layers match.

    Args:
        models: Two or more networks of one architecture, from several seeds.
        loader: Loader of test images. All measures but debiased CKA depend on the batch size: put all images into one
            batch where memory allows, which takes about 50 n² bytes for each layer of each network.
        measures: Keys of `INDEXES`.
        layers: Layers of one network, see `utilities.hooks.select_layers`; leave the classifier's outputs out.
        views: Views to compute each measure with, see `utilities.hooks.views`. The measures of the CCA family and
            linear regression need far fewer features than images: ``"gap"`` leaves only the channels.
        device: Device to run the networks on.
        provenance: Facts to keep with the result.
        progress: Whether to show a progress bar over batches where one measure takes more than two seconds.
        report: Function that receives a line for each measure as it is done.

    Returns:
        The result; a measure that refuses a view's features is in ``skipped``, with the reason.

    Raises:
        ValueError: Before the work, for an unknown measure, view or layer, or fewer than two networks; for networks
            with different layers, or if no measure could be computed.

    Example:
        >>> from utilities.zoo.plain_cnn import PlainCNN
        >>> networks = [PlainCNN(10, (4, 4, 8)) for _ in range(2)]
        >>> layer_matching(networks, [torch.randn(32, 3, 8, 8)], ["cka", "cca"], views=["gap"], device="cpu").layers
        ['block1', 'block2', 'block3']
    """
    unknown = [name for name in measures if name not in INDEXES]
    if unknown or not measures:
        raise ValueError(f"measure {', '.join(unknown) or '(none)'} is not known; choose from {', '.join(INDEXES)}")
    for view in views:
        check_view(view)
    if len({id(model) for model in models}) < max(2, len(models)):
        raise ValueError(f"two or more networks are needed, each an object of its own; there are {len(models)}")
    together = SideBySide(models)
    wanted = [f"{i}.{name}" for i, model in enumerate(models) for name in select_layers(model, layers)]
    matrices, done, widths, facts = [], [], {}, {}
    skipped: dict[str, dict[str, str]] = {}
    for view in views:
        for name in measures:
            options = INDEXES[name]
            try:
                if view in widths:
                    _refuse(options["measure"], facts["layers"], widths[view], facts["batch_size"])
                result = compare(
                    together, together, loader, layers1=wanted, view=view, device=device, progress=progress, **options
                )
            except ValueError as reason:
                if options["measure"] == "cka":  # CKA takes any features, so something else is wrong
                    raise
                skipped.setdefault(name, {})[view] = str(reason)
                report(f"{MEASURE_TITLES[name]}, {view}: not computed")
                continue
            names = _layers_of_each(result.layers1, len(models))
            symmetric = options["measure"] == "cka" or SIMILARITY_MEASURES[name].symmetric
            matrix = result.matrix if symmetric else (result.matrix + result.matrix.T) / 2
            shape = (len(models), len(names))
            matrices.append(matrix.reshape(*shape, *shape).transpose(0, 2, 1, 3))
            done.append((name, view))
            widths[view] = result.details1["width"][: len(names)]
            facts = {"n": result.n, "batch_size": result.provenance["batch_size"], "layers": names}
            report(f"{MEASURE_TITLES[name]}, {view}: {mean_accuracy(matrices[-1])[0]:.1%}")
    if not done:
        raise ValueError("no measure could be computed: " + next(iter(next(iter(skipped.values())).values())))
    own = {"networks": len(models), "model": type(models[0]).__name__, "batch_size": facts["batch_size"]}
    return LayerMatching(
        measures=[name for name, _ in done],
        views=[view for _, view in done],
        matrices=np.stack(matrices),
        layers=facts["layers"],
        widths=widths,
        n=facts["n"],
        skipped=skipped,
        provenance=own | known_facts(provenance, loader) | {"versions": versions()},
    )


def _refuse(measure: str, layers: Sequence[str], widths: Sequence[int], batch_size: int) -> None:
    """Raise what `compare` would say about layers too wide for a measure, which it can only say after a pass."""
    if measure == "cka":
        return
    for name, width in zip(layers, widths, strict=True):
        for side in ("row", "column"):
            if reason := SIMILARITY_MEASURES[measure].check(batch_size, width, side):
                raise ValueError(f"layer {name!r}: {reason}")


def _layers_of_each(names: Sequence[str], networks: int) -> list[str]:
    """Strip the networks' numbers off the layers' names; all networks must have the same names, in the same order."""
    parts = [name.partition(".")[::2] for name in names]
    each = [[layer for number, layer in parts if number == str(i)] for i in range(networks)]
    differing = next((i for i, layers in enumerate(each) if layers != each[0]), None)
    if differing is not None:
        raise ValueError(f"network {differing} has the layers {each[differing]}, network 0 {each[0]}")
    return each[0]
