"""Run two models once over the data: features in the hook, Gram matrices per batch, one product for all pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.compare.batch_sums import BatchSums, LayerStatistics
from utilities.compare.features.reading import FeatureReader
from utilities.compare.finite import refuse_non_finite
from utilities.compare.gram_matrices import first_component, half_vectors, permuted_products, without_top_components
from utilities.compare.kept_layers import KeptLayer, exponents, gram_layer, self_products
from utilities.compare.measures.table import SIMILARITY_MEASURES
from utilities.compare.options import ComparisonOptions
from utilities.compare.recorders import recorder_of
from utilities.hooks.calls.batch_parts import images_in, split_batch
from utilities.hooks.calls.copies import copied
from utilities.hooks.calls.input_type import input_type
from utilities.hooks.calls.nested import map_tensors, tensors_in
from utilities.hooks.precision import Precision, choose_precision, without_autocast
from utilities.hooks.recorder import Layers, Recorder
from utilities.metrics import center, rbf_from_gram

CONFOUNDER = "(confounder)"


class Comparison:
    """Compare two models batch by batch; `sums` holds all that is kept of the batches.

    Args:
        model1: Model of the rows.
        model2: Model of the columns; may be ``model1``.
        layers1: See `utilities.hooks.select_layers`; None takes every layer that runs, has a row for each image,
            changes something and contains no other such layer.
        layers2: The same for ``model2``; None takes ``layers1`` if both models are one object.
        options: See `ComparisonOptions`.
        devices: Device of each model, where it runs from now on.
        paired: Whether each model gets images of its own.
        strict: See `utilities.hooks.Recorder`.

    Attributes:
        sums: Sums over the batches so far.
        names: The layers of each side that were asked for, or those from which the default is chosen.
        undecided: Whether the precision has still to be decided, see `utilities.compare.measured_precision`.
    """

    def __init__(
        self,
        model1: nn.Module,
        model2: nn.Module,
        layers1: Layers | None,
        layers2: Layers | None,
        options: ComparisonOptions,
        devices: Sequence[torch.device],
        paired: bool,
        strict: bool | None = None,
    ) -> None:
        self.options, self.devices = options, devices
        self.models = (model1, model2)
        self._given = (model1, model2, layers1, layers2, options, devices, paired, strict)
        if options.confounder is not None and paired:
            raise ValueError("a confounder needs both models to see the same images: leave loader2 out")
        asked = (layers1, layers1 if layers2 is None and model1 is model2 else layers2)
        self.undecided = options.precision == "auto"
        self.precisions = self.choices("exact" if self.undecided else options.precision)
        self.recorders = [self._recorder(k, layers, strict) for k, layers in enumerate(asked)]
        self.names = [list(recorder.layers) for recorder in self.recorders]
        self.one_pass = model1 is model2 and not paired and self._alike()
        if self.one_pass and not self.recorders[0].default:
            self.recorders = [self._recorder(0, {*self.names[0], *self.names[1]}, strict)]
        elif self.one_pass:
            del self.recorders[1]
        self.wanted = [set(names) for names in self.names]
        self.sums = self._no_sums()
        self._tried, self.finished = False, set()
        self.batch_size = 0  # size of the first batch; the batch's place then tells an image's place

    def _no_sums(self) -> BatchSums:
        return BatchSums(
            confounded=self.options.confounder is not None, per_batch={} if self.options.per_batch else None
        )

    def _recorder(self, which: int, layers: Layers | None, strict: bool | None) -> Recorder | FeatureReader:
        return recorder_of(self.models[which], layers, self.options, which, strict, lambda: self.precisions[which])

    def choices(self, precision: str) -> list[Precision]:
        """Return what a precision means for each model on its device."""
        return [choose_precision(precision, m, d) for m, d in zip(self.models, self.devices, strict=True)]

    def use(self, precision: str) -> None:
        """Run in this precision from now on; for a comparison that waits for it to be decided."""
        self.precisions, self.undecided = self.choices(precision), False

    def twin(self) -> Comparison:
        """Make another comparison of the same models, layers and options, without permutations and single batches."""
        *given, options, devices, paired, strict = self._given
        return Comparison(*given, replace(options, permutations=0, per_batch=False), devices, paired, strict)

    def restart(self, precision: str) -> None:
        """Forget all batches, and run in this precision from now on."""
        self.use(precision)
        self.sums, self._tried = self._no_sums(), False

    def _alike(self) -> bool:
        """Tell whether one pass of a model serves both sides."""
        options, default = self.options, [recorder.default for recorder in self.recorders]
        same = options.view1 == options.view2 and options.forward1 == options.forward2
        return same and (not any(default) or (all(default) and self.names[0] == self.names[1]))

    def add(self, index: int, batch1: Any, batch2: Any) -> None:
        """Run both models on a batch and add the results to the sums.

        Args:
            index: Index of the batch.
            batch1: Images for the first model, or a whole batch, see `ComparisonOptions.whole_batches`.
            batch2: The same for the second.

        Raises:
            ValueError: For a layer that does not run, has no row for each image, is not finite, or for which the
                measure is meaningless.
        """
        inputs = [batch1] if self.one_pass else [batch1, batch2]
        floats = [t for t in tensors_in(inputs) if t.is_floating_point() and t.device.type == "cpu"]
        if not all(t.isfinite().all() for t in floats):
            raise ValueError(f"the images of batch {index} hold NaN or infinite values")
        n = images_in(batch1)
        self.batch_size = self.batch_size or n
        recorded = self._run(inputs)
        recorded = [self._chosen(recorded[0], 0), self._chosen(recorded[-1], 1)]
        if self.options.confounder is not None:
            extra = self._confounder(batch1)
            recorded = [{**layers, CONFOUNDER: extra} for layers in recorded]
        step = self._add_grams if self.options.measure == "cka" else self._add_measures
        with without_autocast():
            step(index, n, recorded)

    def refuse_non_finite(self) -> None:
        """Refuse features that are not finite, by the sums so far.

        Raises:
            ValueError: Naming a layer.
        """
        refuse_non_finite([side.names for side in self.sums.sides], self.sums.totals()[1:], self.models)

    def _run(self, inputs: list[Any]) -> list[dict[str, KeptLayer]]:
        recorded = []
        for which, (recorder, batch) in enumerate(zip(self.recorders, inputs, strict=True)):
            try:
                self._run_one(which, batch)
            except RuntimeError:
                if self._tried or not self.precisions[which].channels_last:
                    raise
                # A model that reshapes by `view` needs the default layout.
                for k in (0, 1) if self.one_pass else (which,):
                    self.precisions[k] = replace(self.precisions[k], channels_last=False)
                self._run_one(which, batch)
            if not recorder.activations:
                raise ValueError(
                    f"no layer of {type(recorder.model).__name__} ran: a traced model, or one whose forward does not "
                    "call its modules, gives nothing to record"
                )
            recorded.append(recorder.activations)
        self._tried = True
        return recorded

    def _run_one(self, which: int, batch: Any) -> None:
        recorder, precision, device = self.recorders[which], self.precisions[which], self.devices[which]
        dtype = input_type(recorder.model)
        with precision.running(device), recorder:
            recorder.run(map_tensors(lambda tensor: precision.prepare(tensor, device, dtype), batch))

    def _chosen(self, layers: dict[str, KeptLayer], which: int) -> dict[str, KeptLayer]:
        return {name: layer for name, layer in layers.items() if name.partition("#")[0] in self.wanted[which]}

    def _confounder(self, batch: Any) -> KeptLayer:
        asked = self.options.confounder
        images = split_batch(batch)[0] if asked == "input" else next(tensors_in(batch))
        features = images if asked == "input" else asked(copied(batch))
        shape = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
        if not isinstance(features, torch.Tensor) or features.shape[:1] != images.shape[:1]:
            raise ValueError(f"the confounder should give a row for each of {len(images)} images, not {shape}")
        return gram_layer(features.to(self.devices[0]).reshape(len(images), -1), self.precisions[0])

    def _add_grams(self, index: int, n: int, recorded: list[dict[str, KeptLayer]]) -> None:
        names, grams = self._stacked(recorded)
        powers = [exponents(layers, side.device) for layers, side in zip(recorded, grams, strict=True)]
        self._note(index, n, recorded, grams)
        if self.options.remove_top_pc:
            grams = _apply(grams, lambda side: without_top_components(side, self.options.remove_top_pc))
        if self.options.kernel == "rbf":
            grams = _apply(grams, self._rbf, powers)
            powers = [torch.zeros_like(power) for power in powers]  # the kernel has no scale
        rows, columns = _apply(grams, lambda side: half_vectors(center(side, self.options.estimator)))
        cross = (rows @ columns.to(rows.device).T).double()
        if columns is rows:  # makes the diagonal of a self-comparison exactly 1
            own = cross.diagonal(), cross.diagonal()
        else:
            own = tuple(side.square().sum(1).to(rows.device).double() for side in (rows, columns))
        rise = [torch.exp2(2 * power).to(rows.device) for power in powers]
        both = rise[0][:, None] * rise[1]
        terms = [cross * both, *(side * scale.square() for side, scale in zip(own, rise, strict=True))]
        if rows.device.type == "cpu" or index % 50 == 0:  # on other devices, reading a value means waiting
            refuse_non_finite(names, terms[1:], self.models)
        null, count = None, self.options.permutations
        if count:  # orders depend on the batch alone, whichever process handles it
            generator = np.random.default_rng([self.options.seed, index])
            null = permuted_products(rows, columns.to(rows.device), n, count, generator) * both
        self.sums.add(index, n, terms, null)

    def _stacked(self, recorded: list[dict[str, KeptLayer]]) -> tuple[list[list[str]], list[torch.Tensor]]:
        """Return the layers of both sides and their Gram matrices, (layers, n, n)."""
        exact = self.options.kernel == "rbf" or self.options.remove_top_pc > 0
        exact = exact or any(precision.gram == "native" for precision in self.precisions)
        names = [list(layers) for layers in recorded]

        def stack(layers: dict[str, KeptLayer]) -> torch.Tensor:
            grams = torch.stack([layer.value for layer in layers.values()])
            if grams.device.type == "mps":
                grams = grams.cpu()  # this device has no float64
            return grams.double() if exact else grams

        first = stack(recorded[0])
        return names, [first, first if self.one_pass and names[0] == names[1] else stack(recorded[1])]

    def _rbf(self, grams: torch.Tensor, powers: torch.Tensor) -> torch.Tensor:
        sigma = self.options.sigma
        widths = [None if sigma is None else sigma * torch.exp2(-power) for power in powers]
        pairs = zip(grams, widths, strict=True)
        return torch.stack([rbf_from_gram(g, bandwidth=self.options.bandwidth, sigma=w) for g, w in pairs])

    def _add_measures(self, index: int, n: int, recorded: list[dict[str, KeptLayer]]) -> None:
        measure = SIMILARITY_MEASURES[self.options.measure]
        for layers, axis in zip(recorded, ("row", "column"), strict=True):
            for name, layer in layers.items():
                reason = measure.check(n, layer.width, axis)
                if reason:
                    raise ValueError(f"layer {name!r}: {reason}")
        own = [torch.stack([x.value.square().sum() for x in layers.values()]) for layers in recorded]
        refuse_non_finite([list(layers) for layers in recorded], own, self.models)
        self._note(index, n, recorded, [self_products(layers) for layers in recorded])
        rows = [measure.prepare_row(layer.value) for layer in recorded[0].values()]
        columns = [measure.prepare_column(layer.value) for layer in recorded[1].values()]
        values = measure.pairs(rows, columns).double()
        ones = values.new_ones(1)
        self.sums.add(index, n, [n * values, (n * ones).expand(len(rows)), (n * ones).expand(len(columns))])

    def _note(self, index: int, n: int, recorded: list[dict[str, KeptLayer]], grams: list[torch.Tensor]) -> None:
        """Keep widths, shapes, first components and dominant images."""
        sides = []
        for layers, side in zip(recorded, grams, strict=True):
            names = [name for name in layers if name != CONFOUNDER]
            own = side[: len(names)]  # without the confounder's
            diagonal = own.diagonal(dim1=1, dim2=2)
            largest = diagonal.max(1)
            trace = diagonal.sum(1).clamp(min=torch.finfo(diagonal.dtype).tiny)
            places = largest.indices + index * self.batch_size
            widths = [layers[name].width for name in names]
            shapes = [list(layers[name].shape) for name in names]
            first = n * first_component(own).double()
            sides.append(LayerStatistics(names, widths, first, largest.values / trace, places, shapes))
        if self.sums.sides is None:
            self.sums.sides = tuple(sides)
        else:
            for mine, new in zip(self.sums.sides, sides, strict=True):
                mine.merge(new)


def _apply(
    grams: list[torch.Tensor], function: Callable[..., torch.Tensor], *others: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Apply a function to both sides, with each side's arguments; call it once if both sides are one."""
    first, second = zip(grams, *others, strict=True)
    result = function(*first)
    return [result, result if grams[1] is grams[0] else function(*second)]
