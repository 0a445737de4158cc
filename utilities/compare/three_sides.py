"""Run a model and two others, each perhaps of several seeds, over the same images, and keep their Gram matrices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import nn
from tqdm.auto import tqdm

from utilities.compare.all_pairs import SideBySide
from utilities.compare.compared_grams import Key
from utilities.compare.kept_grams import KeptGrams
from utilities.compare.options import ComparisonOptions
from utilities.compare.paired_batches import PairedBatches, prefetched
from utilities.compare.resampled_grams import LEAST_IMAGES
from utilities.hooks.calls.memory import keeping_freed_memory
from utilities.hooks.recorder import Layers, select_layers
from utilities.metrics import center, rbf_from_gram
from utilities.utils import evaluating
from utilities.zoo.layers import comparison_layers

SAME = 1e-5  # share of a Gram matrix by which a model's second run may differ: float32's order of summation


@dataclass(frozen=True)
class Side:
    """Hold the models of one side, of one architecture, with their layers and images.

    Attributes:
        models: One model, or one for each seed.
        layers: Layers to compare; None takes those of `utilities.zoo.comparison_layers`.
        loader: Images of this side; None takes those of the first side.
        view: See `utilities.compare.compare`.
    """

    models: Sequence[nn.Module]
    layers: Layers | None = None
    loader: Iterable[Any] | None = None
    view: Any = "flatten"

    @property
    def names(self) -> list[str]:
        """Names of the layers.

        Raises:
            ValueError: If the models differ in them.
        """
        found = [
            comparison_layers(model) if self.layers is None else list(select_layers(model, self.layers))
            for model in self.models
        ]
        for number, names in enumerate(found):
            if names != found[0]:
                raise ValueError(f"models of one side should have the same layers, but number {number} and 0 differ")
        return found[0]


def side_of(models: Any, layers: Layers | None, loader: Any, view: Any, name: str) -> Side:
    """Check the models of a side.

    Raises:
        TypeError: If one is no torch module.
    """
    several = [models] if isinstance(models, nn.Module) else models
    listed = isinstance(several, (list, tuple))
    wrong = [one for one in several if not isinstance(one, nn.Module)] if listed else [models]
    if wrong or not several:
        raise TypeError(
            f"{name} should be a torch module, or a list of them from several seeds, not "
            f"{wrong[0] if wrong else models!r}; utilities.zoo.create_model makes one"
        )
    for (i, one), (k, two) in combinations(enumerate(several, 1), 2):
        if one is two or _equal_weights(one, two):
            raise ValueError(
                f"{name} holds one model twice, as number {i} and {k}; models of several seeds have weights of their "
                "own (on the command line --model-seeds gives untrained ones theirs)"
            )
    return Side(list(several), layers, loader, view)


def _equal_weights(one: nn.Module, two: nn.Module) -> bool:
    """Tell whether two models hold the same values, by name; models without any are not told apart."""
    own, other = one.state_dict(), two.state_dict()
    return bool(own) and own.keys() == other.keys() and all(torch.equal(own[k].cpu(), other[k].cpu()) for k in own)


def grams_of_sides(
    sides: Sequence[Side], options: dict[str, Any], device: str | torch.device, progress: bool
) -> tuple[dict[Key, list[torch.Tensor]], KeptGrams]:
    """Compute the Gram matrices of all layers of all models, centred for the debiased estimate.

    Models that take the same images in the same way run in one pass. Otherwise the first side runs beside each of the
    others.

    Args:
        sides: Three sides; the first one has a loader.
        options: Options of `ComparisonOptions`, but for the views.
        device: See `utilities.compare.compare`.
        progress: See `utilities.compare.compare`.

    Returns:
        Mapping from key to Gram matrices, (n, n), float64, one for each batch, with zero diagonals, of norm 1 in all,
        or all zero for a layer without variance; and the last pass.

    Raises:
        ValueError: As `utilities.compare.compare`; or if a model yields other features in a second pass.
    """
    if all(side.loader is None for side in sides[1:]) and {str(side.view) for side in sides} == {"flatten"}:
        return _in_one_pass(sides, options, device, progress)
    found: dict[Key, list[torch.Tensor]] = {}
    for number, other in enumerate(sides[1:], 1):
        layers = [[side.names] * len(side.models) for side in (sides[0], other)]
        seen = _run(sides[0], other, layers, options, device, _named(sides), progress)
        own = {(0, k, name): grams for k, name, grams in _by_model(seen, 0, options)}
        _refuse_other_images(found, own)
        found |= own | {(number, k, name): grams for k, name, grams in _by_model(seen, 1, options)}
    return found, seen


def _in_one_pass(
    sides: Sequence[Side], options: dict[str, Any], device: str | torch.device, progress: bool
) -> tuple[dict[Key, list[torch.Tensor]], KeptGrams]:
    """Run all models together, each once, wherever it occurs."""
    owners: dict[nn.Module, list[tuple[int, int]]] = {}
    for s, side in enumerate(sides):
        for k, model in enumerate(side.models):
            owners.setdefault(model, []).append((s, k))
    names, places = [side.names for side in sides], list(owners.values())
    layers = [list(dict.fromkeys(name for s, _ in own for name in names[s])) for own in places]
    everything = Side(list(owners), loader=sides[0].loader)
    seen = _run(everything, everything, [layers, layers], options, device, _named(sides), progress)
    found = {
        (*place, name): grams
        for number, name, grams in _by_model(seen, 0, options)
        for place in places[number]
        if name.partition("#")[0] in names[place[0]]
    }
    return found, seen


def _named(sides: Sequence[Side]) -> bool:
    return any(side.layers is not None for side in sides)


def _run(
    one: Side, two: Side, layers: Sequence[Sequence[Sequence[str]]], options: dict[str, Any],
    device: str | torch.device, named: bool, progress: bool,
) -> KeptGrams:  # fmt: skip
    """Run the models of two sides over the images; ``layers`` are those of each model of each."""
    choices = ComparisonOptions(**options, view1=one.view, view2=two.view)
    other = None if two is one else two.loader
    batches = PairedBatches(one.loader, other, min_images=LEAST_IMAGES, whole=(True, True))
    joint = [_joint(side.models) for side in (one, two)]
    joint[1] = joint[0] if two is one else joint[1]
    wanted = [
        side[0] if len(side) == 1 else [f"{k}.{name}" for k, own in enumerate(side) for name in own] for side in layers
    ]
    with keeping_freed_memory(), evaluating(joint[0], device) as device1, evaluating(joint[1], device) as device2:
        asked = [select_layers(model, names) for model, names in zip(joint, wanted, strict=True)]
        strict = None if named else False
        seen = KeptGrams(*joint, *asked, choices, (device1, device2), batches.two_loaders, strict)
        read = prefetched(batches.read(), device1)
        for index, images, images2 in tqdm(read, total=batches.length, desc="images", delay=2, disable=not progress):
            seen.add_batch(index, images, images2)
    if not seen.labels:
        raise ValueError(f"the loader has no batch of {batches.min_images} images or more")
    seen.refuse_non_finite()
    return seen


def _joint(models: Sequence[nn.Module]) -> nn.Module:
    return models[0] if len(models) == 1 else SideBySide(models)


def _by_model(seen: KeptGrams, which: int, options: dict[str, Any]) -> Iterable[tuple[int, str, list[torch.Tensor]]]:
    """List number of the model, layer and Gram matrices of one side, in the order of execution."""
    several = isinstance(seen.models[which], SideBySide)
    for name in seen.grams[0][which]:
        number, _, layer = name.partition(".") if several else ("0", "", name)
        yield int(number), layer, _prepared([batch[which][name] for batch in seen.grams], options)


def _prepared(grams: list[torch.Tensor], options: dict[str, Any]) -> list[torch.Tensor]:
    if options["kernel"] == "rbf":
        grams = [rbf_from_gram(K, bandwidth=options["bandwidth"], sigma=options["sigma"]) for K in grams]
    centred = [center(K) for K in grams]
    norm = torch.stack([K.norm() for K in centred]).norm()
    return [K / norm if norm > 0 else K for K in centred]


def _refuse_other_images(before: dict[Key, list[torch.Tensor]], now: dict[Key, list[torch.Tensor]]) -> None:
    for key, grams in now.items():
        first = before.get(key, grams)
        counts = [sum(len(K) for K in one) for one in (first, grams)]
        if counts[0] != counts[1]:
            raise ValueError(
                f"the other models share {counts[0]} and {counts[1]} images with the model: give loaders of as many"
            )
        if [len(K) for K in first] != [len(K) for K in grams] or any(
            (K - L).norm() > SAME for K, L in zip(first, grams, strict=True)
        ):
            raise ValueError(
                f"layer {key[2]!r} of the model yields other features in a second pass over its images: the loader "
                "serves another order each time; shuffle once, as utilities.datasets.make_loader does"
            )
