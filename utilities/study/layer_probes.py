"""Shared parts of the notebook on linear probes of layers: views of each model, training and test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from utilities.analysis.blocks.layer_probes import LayerProbes, layer_probes
from utilities.datasets.loaders import make_loader
from utilities.hooks.layout import has_class_token
from utilities.study.group import Group
from utilities.study.real_weights import open_models

READOUTS = ("gap", "mean_all", "token:0")  # what any model can be read by; with a class token, also ``cls``


def readouts(model: nn.Module, views: Sequence[str] = READOUTS) -> list[str]:
    """List the views that a model can be read by: those given, and the class token if there is one.

    Example:
        >>> from utilities.zoo import create_model
        >>> readouts(create_model("resnet18"), ["gap"]), readouts(create_model("vit_tiny_patch2_16"), ["gap"])
        (['gap'], ['gap', 'cls'])
    """
    return [*views, *(["cls"] if has_class_token(model) else [])]


def probe_opened(
    words: Sequence[str],
    n_train: int | None,
    images: Mapping[str, Any],
    views: Sequence[str] = READOUTS,
    **options: Any,
) -> dict[str, LayerProbes]:
    """Probe all layers of models that others have trained.

    Args:
        words: See `utilities.study.real_weights.open_models`.
        n_train: Number of training images; None is all.
        images: Options of `utilities.study.real_weights.open_models`, for the test images.
        views: See `readouts`.
        **options: Options of `utilities.analysis.blocks.layer_probes.layer_probes`.

    Returns:
        Label -> result.
    """
    test = open_models(words, **images)
    train = open_models(words, **{**images, "split": "train", "n_images": n_train})
    return {
        label: layer_probes(
            one.model, train[label].loader, one.loader, view=readouts(one.model, views), provenance=one.facts, **options
        )
        for label, one in test.items()
    }


def probe_group_layers(
    group: Group, n_train: int | None = None, views: Sequence[str] = (*READOUTS, "tokens"), **options: Any
) -> dict[str, LayerProbes]:
    """Probe all layers of a group's trained models, each position by itself too.

    Args:
        group: Group of models.
        n_train: Number of training images; None is all.
        views: See `readouts`.
        **options: Options of `utilities.analysis.blocks.layer_probes.layer_probes`.

    Returns:
        Name of the model -> result.
    """
    results = {}
    for study in group.studies:
        model, facts = study.finished_model()
        test = study.loader(n_images=study.n_images)
        facts = study.shared_facts(test) | facts
        data = study.training_loader(n_images=n_train, augment=False).dataset
        train = make_loader(data, study.batch_size, seed=study.seed)  # in one order: a few images are drawn of it
        results[study.model] = layer_probes(
            model, train, test, view=readouts(model, views), provenance=facts, **options
        )
    return results
