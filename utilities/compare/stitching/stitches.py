"""What accuracy is left when a layer of one network feeds a layer of another through an affine map?

Lenc & Vedaldi 2015 (https://arxiv.org/abs/1411.5908) stitched the layers of two networks together by a 1 x 1
convolution, and Bansal et al. 2021 (https://arxiv.org/abs/2106.07682) took what is left of the accuracy as a measure of
similarity that asks for function instead of geometry. Csiszárik et al. 2021 (https://arxiv.org/abs/2110.14633) compared
it with CKA, and fitted the map by least squares too, as is done here first.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.analysis.probing import check_memory_limit, check_splits, refuse_large_sums
from utilities.compare.common_weights import model_facts
from utilities.compare.paired_batches import PairedBatches
from utilities.compare.stitching.cuts import ENOUGH
from utilities.compare.stitching.fitting import Fitting, bytes_needed, train
from utilities.compare.stitching.plan import check_pairs, choose_layers, choose_pairs, cutting, plan
from utilities.compare.stitching.sides import Batch, Sides
from utilities.compare.stitching.testing import Testing
from utilities.datasets.naming import known_facts
from utilities.hooks.calls.labels import BatchCheck, refuse_no_classifier
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.calls.options import check_number, check_whole
from utilities.hooks.calls.weights import check_weights
from utilities.hooks.recorder import Layers
from utilities.results.formatting import counted
from utilities.results.stitching import CLOSED, TRAINED, Stitching
from utilities.utils import evaluating, versions

PAIRED = {"whole": (True, True), "same": True}  # labels come with the images, and one set of them serves both models


def stitch(
    model1: nn.Module,
    model2: nn.Module,
    train_loader: Iterable[Any],
    test_loader: Iterable[Any],
    train_loader2: Iterable[Any] | None = None,
    test_loader2: Iterable[Any] | None = None,
    *,
    layers1: Layers | None = None,
    layers2: Layers | None = None,
    pairs: str | Sequence[tuple[str, str]] = "matched",
    depths: int = 6,
    penalty: float | None = None,
    epochs: int = 0,
    learning_rate: float = 1e-3,
    memory_limit: float = 4e9,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> Stitching:
    """Replace the output of a layer of one model by an affine map of another model's features, and test what is left.

    For layer i of model 1 and layer j of model 2, a map T minimises |B_j(x) - T(A_i(x))|^2 + s t |W|^2 over training
    images x, where t is the mean variance of A_i's features times their number. All positions share it, as a 1 x 1
    convolution; the class token has its own, from A's class token or, where it has none, from A's mean over positions.
    Grids are brought together on B's. Then B runs on the same test images with T(A_i(x)) in place of B_j(x).

    A layer j has to cut model 2 in two: with its output the same for all images, logits must be the same too. This is
    tried on images before the work. Testing takes one pass of model 2 for each pair, besides one of both models.

    Args:
        model1: The model whose features are read. It needs no classifier.
        model2: The model that goes on from them; it gives logits. It may be ``model1``. Neither is changed.
        train_loader: Yields images and labels to fit the maps to.
        test_loader: Yields other images and labels.
        train_loader2: The same training images in the same order, as model 2 takes them; None where one loader serves
            both.
        test_loader2: The same for the test images.
        layers1: Layers of model 1, see `utilities.hooks.select_layers`; None is the output of every block.
        layers2: Layers of model 2; None is the output of every block that cuts it.
        pairs: ``"matched"`` takes pairs at the same relative depth among these layers, ``"all"`` takes each with each;
            or pairs of names, in place of ``layers1`` and ``layers2``.
        depths: Largest number of matched pairs.
        penalty: s; None chooses it for each map on a fifth of the training images, by the squared error.
        epochs: Epochs of training the maps further, on the cross entropy of the stitched network; 0 is none. Training
            images keep the loader's order.
        learning_rate: Learning rate of that training, by AdamW.
        memory_limit: Largest size of the sums, in bytes, on the first model's device.
        device: See `utilities.utils.resolve_device`.
        provenance: Facts to keep with the result.
        progress: Whether to show bars.

    Returns:
        Accuracies, agreement, cross entropy and the fit of each pair.

    Raises:
        ValueError: If an option is out of range, training and test loader serve the same set, the loaders of both
            models differ in length or labels, model 2 has no classifier, a named layer does not cut it in two, shapes
            cannot be brought together, or sums would take more memory than ``memory_limit``.
        TypeError: If a model is no torch module, or the training images can be read only once.

    Example:
        >>> from utilities.zoo import create_model
        >>> images = torch.rand(40, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        >>> train, test = ([(part, torch.arange(20) % 2)] for part in images.split(20))
        >>> model = create_model("plain_cnn8", 2, seed=0)
        >>> result = stitch(model, model, train, test, depths=2, device="cpu")
        >>> result.pairs, result.agreement.round(2).diagonal(0, 1, 2).tolist()  # nothing is lost to itself
        ([('block1', 'block1'), ('block8', 'block8')], [[1.0, 1.0]])
    """
    _check_options(pairs, depths, penalty, epochs, learning_rate, memory_limit)
    check_splits(train_loader, test_loader, "stitches")
    for model in (model1, model2):
        check_weights(model)
    refuse_no_classifier(model2)
    training = PairedBatches(train_loader, train_loader2, **PAIRED)
    testing = PairedBatches(test_loader, test_loader2, **PAIRED)
    with keeping_freed_memory(), evaluating(model1, device) as device1, evaluating(model2, device) as device2:
        stitcher = _Stitcher((model1, model2), (device1, device2), training, progress)
        stitcher.choose(layers1, layers2, pairs, depths, memory_limit)
        stitcher.fit(penalty, epochs, learning_rate)
        test = Testing(stitcher.sides, stitcher.stitches, stitcher.fits, BatchCheck(test_loader))
        count = len(stitcher.stitches) * len(stitcher.fits)
        test.run(stitcher.sides.batches(testing, f"testing, {counted(count, 'stitched run')} a batch", progress))
    options = {"penalty": penalty, "epochs": epochs, "n_train": stitcher.count}
    options |= {"learning_rate": learning_rate} if epochs else {}
    facts = model_facts(model1, model2, provenance) | known_facts(provenance, test_loader, test_loader2)
    return _result(stitcher, test, facts | options | {"versions": versions()})


def _check_options(
    pairs: Any, depths: int, penalty: float | None, epochs: int, learning_rate: float, memory_limit: float
) -> None:
    check_pairs(pairs)
    check_whole("depths", depths, 1)
    check_whole("epochs", epochs, 0)
    for name, value in (("penalty", penalty), ("learning_rate", learning_rate)):
        if value is not None:
            check_number(name, value, above=0, hint=", such as 1e-3")
    check_memory_limit(memory_limit)


class _Stitcher:
    """Choose layers and pairs by the first batch, and fit the maps."""

    def __init__(
        self,
        models: tuple[nn.Module, nn.Module],
        devices: tuple[torch.device, torch.device],
        training: PairedBatches,
        progress: bool,
    ) -> None:
        self.models, self.devices, self.training, self.progress = models, devices, training, progress

    def choose(
        self, layers1: Layers | None, layers2: Layers | None, pairs: Any, depths: int, memory_limit: float
    ) -> None:
        """Choose the layers, see that they can be stitched, and that sums fit into memory."""
        named = not isinstance(pairs, str)
        if named and not (layers1 is None and layers2 is None):
            raise ValueError("pairs= names layers already; leave layers1= and layers2= out")
        asked = [list(dict.fromkeys(names)) for names in zip(*pairs, strict=True)] if named else [layers1, layers2]
        layers = [choose_layers(model, own) for model, own in zip(self.models, asked, strict=True)]
        _, one, two = next(self.training.read(), (0, None, None))
        if one is None:
            raise ValueError("the training loader yields no batch")
        first = Sides.of(self.models, tuple(layers), self.devices).on_devices(one, two)
        layers[1] = cutting(self.models[1], layers[1], first.images2[:ENOUGH], asked[1] is not None)
        self.sides = Sides.of(self.models, tuple(layers), self.devices)
        self.sides.see(first)
        self.layers = layers
        chosen = choose_pairs(*layers, pairs, depths)
        shapes = [recorder.shapes for recorder in self.sides.recorders]
        self.stitches, self.adapted, self.refused = plan(chosen, *shapes, named)
        needed = bytes_needed(self.stitches) * 2
        refuse_large_sums(len(self.stitches), needed, memory_limit, "choose fewer pairs= at a time", "stitches")
        self._used()

    def _used(self) -> None:
        """Record no layer that is in no pair, and name the axes of the result by those that are."""
        kept = [{getattr(one, f"layer{k}") for one in self.stitches} for k in (1, 2)]
        kept = [kept[k - 1] | {pair.split(" -> ")[k - 1] for pair in self.refused} for k in (1, 2)]
        self.layers = [[name for name in side if name in own] for side, own in zip(self.layers, kept, strict=True)]
        self.sides = Sides.of(self.models, tuple(self.layers), self.devices)

    def fit(self, penalty: float | None, epochs: int, learning_rate: float) -> None:
        """Fit all maps in closed form, and train them on if that is asked for."""
        fitting = Fitting(self.stitches, penalty)
        with torch.no_grad():
            for batch in self._batches("fitting stitches"):
                fitting.add(self.sides.see(batch))
        self.count, self.fits = fitting.count, {CLOSED: fitting.solve()}
        if epochs:

            def read(epoch: int) -> Iterable[Batch]:
                return self._batches(f"training stitches, epoch {epoch + 1} of {epochs}")

            self.fits[TRAINED] = train(self.sides, fitting, self.fits[CLOSED], read, epochs, learning_rate)

    def _batches(self, description: str) -> Iterable[Batch]:
        return self.sides.batches(self.training, description, self.progress)


def _result(stitcher: _Stitcher, test: Testing, provenance: dict[str, Any]) -> Stitching:
    layers1, layers2 = stitcher.layers
    shape = len(layers1), len(layers2)
    fits = list(stitcher.fits)
    parts = list(dict.fromkeys(part.name for one in stitcher.stitches for part in one.parts))
    arrays: dict[str, np.ndarray] = {}
    for one in stitcher.stitches:
        place = layers1.index(one.layer1), layers2.index(one.layer2)
        for k, fit in enumerate(fits):
            for name, value in test.numbers(fit, one).items():
                arrays.setdefault(name, np.full((len(fits), *shape), np.nan))[(k, *place)] = value
        for part in one.parts:
            found = stitcher.fits[CLOSED][str(one)][part.name]
            values = {"r2": test.r2(one, part.name), "r2_fit": found.r2, "penalty": found.penalty}
            for name, value in values.items():
                arrays.setdefault(name, np.full((len(parts), *shape), np.nan))[(parts.index(part.name), *place)] = value
    return Stitching(
        layers1=layers1, layers2=layers2, fits=fits, parts=parts, **arrays, **test.own_numbers(), chance=test.chance(),
        n=sum(map(len, test.labels)), adapted=stitcher.adapted, refused=stitcher.refused, provenance=provenance,
    )  # fmt: skip
