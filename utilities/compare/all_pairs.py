"""Compare all pairs of several models in one pass of each over the data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from utilities.compare.common_weights import common_facts
from utilities.compare.two_models import compare
from utilities.hooks.calls.copies import copied
from utilities.hooks.calls.input_type import as_input
from utilities.hooks.calls.options import check_options
from utilities.hooks.calls.weights import check_weights
from utilities.hooks.recorder import select_layers
from utilities.results.similarity import TABLES, Similarity
from utilities.zoo.layers import comparison_layers


class SideBySide(nn.ModuleList):
    """Run several models on the same images, one after the other, as one module.

    Raises:
        ValueError: If the weights of one are not finite, as `utilities.hooks.calls.weights.check_weights` says.

    Example:
        >>> SideBySide([nn.Linear(2, 3), nn.Linear(2, 4)])(torch.zeros(5, 2)).shape  # the last one's answer
        torch.Size([5, 4])
    """

    takes_any_type = True  # each member converts the images itself

    def __init__(self, models: Iterable[nn.Module]) -> None:
        models = list(models)
        for model in models:
            check_weights(model)  # by its own name; later checks would find a weight of a SideBySide
        super().__init__(models)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run all of them."""
        for model in self:
            answer = model(copied(as_input(images, model)))  # the model may write into its input
        return answer


def compare_all(
    models: Mapping[str, nn.Module],
    loader: Iterable[Any],
    *,
    facts: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> dict[tuple[str, str], Similarity]:
    """Compare all pairs of models, each with itself too, on the same images.

    Args:
        models: Mapping from label to model; each model runs once over the data.
        loader: See `utilities.compare.compare`.
        facts: Mapping from label to what its results record of the model: ``model``, ``weights``, ``accuracy``.
        **options: Options of `utilities.compare.compare`; layers are those of `utilities.zoo.comparison_layers`.

    Returns:
        Mapping from (label of the rows, label of the columns) to similarity, in the order of ``models``.

    Example:
        >>> models = {name: nn.Sequential(nn.Linear(4, size)) for name, size in (("a", 3), ("b", 5))}
        >>> results = compare_all(models, [torch.randn(16, 4, generator=torch.Generator().manual_seed(0))])
        >>> list(results), results["a", "b"].layers2
        ([('a', 'a'), ('a', 'b'), ('b', 'a'), ('b', 'b')], ['0'])
    """
    check_options(compare_all, options, compare, but=("layers1", "layers2"))
    joint, labels = SideBySide(models.values()), list(models)
    layers = [f"{i}.{name}" for i, model in enumerate(joint) for name in comparison_layers(model)]
    whole = compare(joint, joint, loader, layers1=select_layers(joint, layers), **options)
    facts = {label: dict((facts or {}).get(label, {"model": label})) for label in labels}

    def of_both(one: str, two: str) -> dict[str, Any]:
        return pair_facts(facts[one], facts[two]) | common_facts(models[one], models[two])

    return {
        (one, two): _block(whole, i, j, facts[one] if one == two else of_both(one, two), labels)
        for i, one in enumerate(labels)
        for j, two in enumerate(labels)
    }


def pair_facts(one: Mapping[str, Any], two: Mapping[str, Any]) -> dict[str, Any]:
    """Number the facts of two models for the provenance of their comparison.

    Example:
        >>> pair_facts({"model": "a"}, {"model": "b"})
        {'model1': 'a', 'model2': 'b'}
    """
    return {f"{key}{k}": value for k, side in ((1, one), (2, two)) for key, value in side.items()}


def _labelled(layer: str, labels: Sequence[str]) -> str:
    """Put the model's label in place of its number."""
    number, _, name = layer.partition(".")
    return f"{labels[int(number)]}: {name}"


def _block(whole: Similarity, i: int, j: int, facts: dict[str, Any], labels: Sequence[str]) -> Similarity:
    """Cut out the rows of model i and the columns of model j."""
    rows = [k for k, name in enumerate(whole.layers1) if name.startswith(f"{i}.")]
    columns = [k for k, name in enumerate(whole.layers2) if name.startswith(f"{j}.")]

    def cut(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[..., rows, :][..., columns]

    def bare(names: list[str], chosen: list[int]) -> list[str]:
        return [names[k].partition(".")[2] for k in chosen]

    def details(table: dict[str, list[Any]] | None, chosen: list[int]) -> dict[str, list[Any]] | None:
        return None if table is None else {key: [values[k] for k in chosen] for key, values in table.items()}

    arrays = {name: cut(getattr(whole, name)) for name in (*TABLES, "replicates", "per_batch")}
    provenance = {key: value for key, value in whole.provenance.items() if key != "model"}
    if "layers" in provenance.get("auto_precision", {}):  # of all pairs of models: theirs is one decision
        decided = provenance["auto_precision"]
        layers = {name: [_labelled(layer, labels) for layer in pair] for name, pair in decided["layers"].items()}
        provenance["auto_precision"] = {**decided, "layers": layers}
    return replace(
        whole,
        **arrays,
        layers1=bare(whole.layers1, rows),
        layers2=bare(whole.layers2, columns),
        details1=details(whole.details1, rows),
        details2=details(whole.details2, columns),
        provenance=facts | provenance,
    )
