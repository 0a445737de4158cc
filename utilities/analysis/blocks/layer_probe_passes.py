"""The two passes of the probes of any model's layers: one sums training images, one reads test images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.blocks.probe_draws import ASKED, Draws
from utilities.analysis.probing import (
    Probe,
    ProbeSums,
    check_classes,
    refuse_large_sums,
    refuse_one_class,
    scores,
    warn_of_still,
)
from utilities.analysis.ridge import RidgeSums
from utilities.analysis.ridge_penalty import choose_penalties
from utilities.analysis.stream import stream
from utilities.hooks.calls.labels import check_labels, hits
from utilities.hooks.calls.merging import Sums
from utilities.hooks.positions import PositionRecorder
from utilities.hooks.recorder import Forward
from utilities.hooks.views import View, make_view

TOKENS = "tokens"
ENOUGH = 3  # images that a recorder needs to tell which axis counts them
Key = tuple[str, str]  # view and layer


@dataclass(frozen=True)
class Read:
    """What is read of one layer under one view.

    Attributes:
        values: Features of each probe, (batch, probes, width).
        prefix: Number of class and register tokens among the probes, which come first.
        grid: Rows and columns of the other probes; (0, 0) if there is one probe for the whole layer.
    """

    values: torch.Tensor
    prefix: int = 0
    grid: tuple[int, int] = (0, 0)


class ViewRecorder(PositionRecorder):
    """Record layers under several views: `activations` maps each name to a dictionary from view to `Read`.

    Args:
        model: Any module.
        layers: Names or globs of layers.
        views: Name -> view; ``tokens`` is each position by itself.
        most: Most rows and columns of positions, see `utilities.hooks.positions.PositionRecorder`.
        forward: See `utilities.hooks.Recorder`.
        strict: See `utilities.hooks.Recorder`.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        views: Mapping[str, View],
        *,
        most: int | None,
        forward: Forward | None,
        strict: bool,
    ) -> None:
        super().__init__(model, layers, most=most, forward=forward, strict=strict)
        self.views = {name: None if view == TOKENS else make_view(view, model) for name, view in views.items()}

    def keep(self, value: torch.Tensor, module: nn.Module) -> dict[str, Read]:
        """Read a layer's output under all views."""
        found = {}
        for name, view in self.views.items():
            if view is None:
                at = super().keep(value, module)
                found[name] = Read(at.values, at.prefix, tuple(len(axis.unique()) for axis in at.places.T))
            else:
                found[name] = Read(view(value, module)[:, None].clone())
        return found

    def read(self, images: torch.Tensor) -> dict[Key, Read]:
        """Run the model on images: (view, layer) -> what is read."""
        self.size = images.shape[-2:]
        self.run(images)
        found, self.activations = self.activations, {}
        return {(view, layer): one for view in self.views for layer, views in found.items() for one in [views[view]]}


@dataclass
class Fitted:
    """Probes of one draw.

    Attributes:
        probes: (view, layer) -> probe.
        alpha: (view, layer) -> penalty, the mean over the probes of a layer.
    """

    probes: dict[Key, Probe]
    alpha: dict[Key, float]


class Training(Sums):
    """Sum training images.

    Args:
        recorder: Records the layers.
        draws: Which images each draw holds.
        alpha: Penalty; None chooses it on held-out training images.
        memory_limit: Largest size of the sums in bytes.

    Attributes:
        counts: Number of images that each draw holds.
    """

    ADDS, OWN = ("counts",), ("alpha", "limit")

    def __init__(self, recorder: ViewRecorder, draws: Draws, alpha: float | None, memory_limit: float) -> None:
        self.recorder, self.draws, self.alpha, self.limit = recorder, draws, alpha, memory_limit
        parts = ("fit",) if alpha is not None else ("fit", "held out")
        self.sums = {i: {part: ProbeSums(draws.num_classes) for part in parts} for i in range(draws.count)}
        self.counts = np.zeros(draws.count, int)
        self._checked = False

    def run(self, loader: Iterable[Any], **options: Any) -> list[Fitted]:
        """Run the model over the training images, and fit all probes."""
        with (
            self.recorder,
            stream(
                self.recorder.model, loader, labelled=True, description="training probes", sums=self, **options
            ) as batches,
        ):
            self.draws.skip(batches.served.first)
            for images, labels in batches:
                labels = check_labels(labels, self.draws.num_classes, whose=ASKED)
                self._add(images, labels)
        self._refuse_none()
        return [self._solve(sums) for sums in self.sums.values()]

    def _add(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        chosen = self.draws.next(labels.cpu().numpy())
        wanted = chosen.any(0)
        if not wanted.any():
            return
        more = np.flatnonzero(~wanted)[: max(0, ENOUGH - int(wanted.sum()))]
        places = np.concatenate([np.flatnonzero(wanted), more])  # the recorder looks at three images or more
        found = self.recorder.read(images if wanted.all() else images[torch.from_numpy(places).to(images.device)])
        if not self._checked:
            self._check_memory(found)
        for draw, row in enumerate(chosen[:, places]):
            row[int(wanted.sum()) :] = False
            own = labels.cpu().numpy()[places[row]]
            self.counts[draw] += len(own)
            parts = {"fit": np.flatnonzero(row)}
            if self.alpha is None:
                held = self.draws.held_out(draw, own)
                parts = {"fit": parts["fit"][~held], "held out": parts["fit"][held]}
            for part, rows in parts.items():
                self._add_part(
                    self.sums[draw][part], found, rows, labels[torch.from_numpy(places[rows]).to(labels.device)]
                )

    @staticmethod
    def _add_part(sums: ProbeSums, found: Mapping[Key, Read], rows: np.ndarray, labels: torch.Tensor) -> None:
        if len(rows):
            for key, one in found.items():
                sums.add(key, one.values[torch.from_numpy(rows).to(one.values.device)], labels)

    def _check_memory(self, found: Mapping[Key, Read]) -> None:
        copies, classes = sum(map(len, self.sums.values())), self.draws.num_classes
        needed = {key: copies * RidgeSums.bytes_needed(*x.values.shape[1:], classes) for key, x in found.items()}
        probes = self.draws.count * sum(one.values.shape[1] for one in found.values())
        (view, layer), most = max(needed.items(), key=lambda item: item[1])
        remedy = f"choose fewer layers= at a time (the largest is {layer} by {view!r}, {most / 1e9:.3g} GB)"
        remedy += ", a smaller most=" if TOKENS in self.recorder.views else ""
        remedy += ", fewer draws=" if self.draws.count > 1 else ""
        refuse_large_sums(probes, sum(needed.values()), self.limit, remedy)
        self._checked = True

    def _refuse_none(self) -> None:
        """Refuse draws without images, or with one class alone, and warn of classes without any."""
        for sums in self.sums.values():
            refuse_one_class(sum(next(iter(part.sums.values())).counts for part in sums.values() if part.sums))
            if any(not part.sums for part in sums.values()):
                raise ValueError(
                    "no training image is held out to choose the penalty on: no class has two; pass alpha=, or more "
                    "images"
                )
        draws = self.sums.values()
        counts = [sum(next(iter(part.sums.values())).counts for part in sums.values()) for sums in draws]
        check_classes(min(counts, key=lambda one: int((one > 0).sum())), "the data's", stacklevel=4)
        read = self.sums[0]["fit"].sums
        warn_of_still(((f"{layer} by {view!r}", sums) for (view, layer), sums in read.items()), stacklevel=4)

    def _solve(self, sums: Mapping[str, ProbeSums]) -> Fitted:
        fit, probes, alphas = sums["fit"], {}, {}
        for key in list(fit.sums):
            alpha = self.alpha
            if alpha is None:
                alpha = choose_penalties(fit.sums[key], sums["held out"].sums.pop(key))
            alphas[key] = float(np.mean(alpha))
            probes[key] = fit.solve(key, alpha)
        return Fitted(probes, alphas)


class Testing(Sums):
    """Read test images with the probes of all draws.

    Args:
        recorder: Records the layers.
        fitted: Probes of each draw.

    Attributes:
        shapes: (view, layer) -> (width, prefix, grid).
    """

    ADDS, KEEPS, OWN = ("right",), ("shapes",), ("fitted",)

    def __init__(self, recorder: ViewRecorder, fitted: Sequence[Fitted]) -> None:
        self.recorder, self.fitted = recorder, fitted
        self.right: dict[Key, Any] = {}  # sum over draws and images of hits, (probes,)
        self.shares: dict[Key, list[np.ndarray]] = {}  # share of hits of each image and draw, (draws, batch)
        self.shapes: dict[Key, tuple[int, int, tuple[int, int]]] = {}
        self.labels: list[np.ndarray] = []

    def run(self, loader: Iterable[Any], num_classes: int, **options: Any) -> None:
        """Run the model over the test images."""
        with (
            self.recorder,
            stream(
                self.recorder.model, loader, labelled=True, description="testing probes", sums=self, **options
            ) as batches,
        ):
            for images, labels in batches:
                labels = check_labels(labels, num_classes, whose="of the {} classes that probes are fitted to")
                for key, one in self.recorder.read(images).items():
                    self._read(key, one, labels)
                self.labels.append(labels.cpu().numpy())

    def _read(self, key: Key, one: Read, labels: torch.Tensor) -> None:
        self.shapes[key] = one.values.shape[2], one.prefix, one.grid
        shares = []
        for fitted in self.fitted:
            logits = scores(one.values, fitted.probes[key])
            right = hits(logits, labels.to(logits.device)[:, None].expand(logits.shape[:2])).cpu().double().numpy()
            self.right[key] = self.right.get(key, 0) + right.sum(0)
            shares.append(right[:, one.prefix :].mean(1))
        self.shares.setdefault(key, []).append(np.stack(shares))
