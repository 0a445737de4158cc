"""Shared parts of the notebooks on class-embedding space: models and data, untrained twins, pictures and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from utilities.analysis.class_embedding.agreement import ClassValueAgreement, class_value_agreement
from utilities.analysis.class_embedding.conv_space import ConvolutionalSpace
from utilities.analysis.class_embedding.identifiability import Identifiability
from utilities.analysis.class_embedding.importance import Importance, importance
from utilities.analysis.class_embedding.lens_kl import LensKL, tuned_lens_kl
from utilities.analysis.class_embedding.probes import LinearProbes, linear_probes
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions
from utilities.analysis.class_embedding.spaces import class_space
from utilities.analysis.class_embedding.tuned_fit import fit_tuned_lens
from utilities.datasets.loaders import Loader
from utilities.datasets.pixels import to_pictures
from utilities.study.group import Group
from utilities.zoo.vilas_2023 import PAPER_MODELS

# CIFAR-10 has no masks of its objects. What needs them then states that there are none.
DATA = {"quick": "canvas", "natural": "cifar10", "paper": "imagenet-s919"}
VIT = {"quick": "vit_tiny_patch4_24", "natural": "vit_tiny_patch4_32", "paper": PAPER_MODELS["vit_b_32"].zoo}
VITS = {
    "quick": ["vit_tiny_patch4_24"],
    "natural": ["vit_tiny_patch4_32"],
    "paper": [model.zoo for model in PAPER_MODELS.values() if not model.source],
}
# Without attention, and with lambda layers in place of attention, or with attention in some blocks. For hybrids whose
# final stage can be read here, no ImageNet weights are public.
CNNS = {
    "quick": ["resnet18", "lambda_resnet26"],
    "natural": ["resnet18", "alternet18"],
    "paper": ["torchvision/resnet50"],
}
UNTRAINED = 3  # initialisations, for analyses that need no images
# With a probe for each token of ViT-B/32 in every layer, the sums take 20 GB.
PROBED = {"quick": "each", "natural": "each", "paper": "shared"}
N_TRAIN = {"quick": 2000, "natural": 5000, "paper": None}  # images that probes are fitted to
# Lambda layers are slow on a CPU.
FEW = {"quick": 200, "natural": 1000, "paper": None}
# Every patch is removed by itself, or as many at a time as leave this number of steps.
REMOVED = {
    "quick": {"n_images": 150, "steps": None},
    "natural": {"n_images": 200, "steps": 16},
    "paper": {"n_images": 4550, "steps": 49},
}
METHODS = {"gradient": {}, "double softmax": {"loss": "ce_double_softmax"}, "relevance": {"method": "relevance"}}


def pictures(loader: Loader, count: int) -> tuple[list[tuple[torch.Tensor, ...]], np.ndarray, list[str]]:
    """Return a loader's first images as one batch and as pictures, with the names of their classes.

    Args:
        loader: Loader over a data set of `utilities.datasets.load_dataset`.
        count: Number of images.

    Returns:
        A list with the one batch, which analyses accept as a loader; the pictures, (count, height, width, 3), with
        values from 0 to 1; and the names of their classes.

    Example:
        >>> from utilities.datasets import load_dataset
        >>> from utilities.datasets.factory import make_loader
        >>> batches, shown, names = pictures(make_loader(load_dataset("canvas"), 4), 2)
        >>> [part.shape for part in batches[0]], shown.shape, len(names)
        ([torch.Size([2, 3, 24, 24]), torch.Size([2]), torch.Size([2, 24, 24])], (2, 24, 24, 3), 2)
    """
    data, found = loader.dataset, []
    for batch in loader:
        found.append(batch)
        if sum(len(labels) for _, labels, *_ in found) >= count:
            break
    images, labels, *masks = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
    return (
        [(images, labels, *masks)],
        to_pictures(images, data.mean, data.std),
        [data.classes[label] for label in labels.tolist()],
    )


def identifiability_table(results: Mapping[str, Identifiability]) -> pd.DataFrame:
    """Tabulate how often tokens of the last block put the class first, in percent as in the paper.

    Args:
        results: Label -> result.

    Returns:
        A row for each result: rate of the class token, rate of image tokens, chance, share of images with at least one
        image token that puts the class first, accuracy, and number of images.
    """
    rows = []
    for label, result in results.items():
        rate = dict(zip(result.groups, 100 * result.rate[0, -1], strict=True))
        row = {"model": label, "CLS": rate.get("CLS", np.nan), "image tokens": rate["image"]}
        row |= {"chance": 100 / result.num_classes, "images with one": 100 * result.any_token[-1]}
        rows.append(row | {"accuracy": 100 * result.accuracy, "n": result.n})
    return pd.DataFrame(rows).round(2)


def class_values(group: Group, **options: Any) -> dict[str, ClassValueAgreement]:
    """Measure the class-value agreement of a group's models and of untrained twins; it needs no images.

    Args:
        group: Group of Vision Transformers.
        **options: Options of `utilities.analysis.class_embedding.agreement.class_value_agreement`.

    Returns:
        Name of the model -> result.
    """
    results = {}
    for study in group.studies:
        model, facts = study.finished_model()
        random = [study.random_model(seed) for seed in range(study.seed, study.seed + UNTRAINED)]
        provenance = {"notebook": study.name, "profile": study.profile, "untrained": UNTRAINED} | facts
        results[study.model] = class_value_agreement(model, random=random, provenance=provenance, **options)
    return results


def explanations(
    model: torch.nn.Module, batches: Any, methods: Sequence[str] = tuple(METHODS), **options: Any
) -> dict[str, Importance]:
    """Map the importance of image tokens by several methods.

    Args:
        model: A Vision Transformer.
        batches: A loader with a fixed order, or a list of batches.
        methods: Some of `METHODS`: ``gradient``, its published variant ``double softmax``, and Chefer's ``relevance``.
        **options: Options of `utilities.analysis.class_embedding.importance.importance`.

    Returns:
        Name of the method -> maps.
    """
    return {name: importance(model, batches, **METHODS[name], **options) for name in methods}


def heatmaps(found: Mapping[str, Importance], count: int) -> dict[str, np.ndarray]:
    """Return the maps of a loader's first images, for drawing: name -> (count, rows, columns)."""
    return {name: one.heatmaps[:count] for name, one in found.items()}


def whole_space(model: torch.nn.Module, options: LensOptions | None = None) -> ClassSpace:
    """Build a model's class-embedding space with the blocks of all stages, which a tuned lens can read."""
    if isinstance(class_space(model), ConvolutionalSpace):
        return ConvolutionalSpace.every_stage(model, options)
    return class_space(model, options)


def tuned_lens(
    model: torch.nn.Module,
    train_loader: Loader,
    test_loader: Loader,
    *,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    seed: int = 0,
    device: str | torch.device = "auto",
    provenance: Mapping[str, Any] | None = None,
) -> LensKL:
    """Fit a tuned lens to training images, and measure how far raw and tuned lens are from the last block's answer.

    Args:
        model: A Vision Transformer or a ResNet.
        train_loader: Images that the lens is fitted to.
        test_loader: Images that it has not seen.
        epochs: Passes over the training images.
        learning_rate: Learning rate of the first epoch.
        seed: Seed of the order of images within batches.
        device: See `utilities.utils.resolve_device`.
        provenance: Kept with the result.
    """
    space = whole_space(model)
    tuned = fit_tuned_lens(space, train_loader, epochs=epochs, learning_rate=learning_rate, seed=seed, device=device)
    return tuned_lens_kl(whole_space(model), tuned, test_loader, device=device, provenance=provenance)


def probe_group(
    group: Group, n_train: int | None, epochs: int = 0, *, untrained: bool = False, **options: Any
) -> tuple[dict[str, LinearProbes], dict[str, LensKL]]:
    """Fit probes and a tuned lens for each model of a group on training images, and read test images with them.

    Args:
        group: Group of Vision Transformers and ResNets.
        n_train: Largest number of training images; None is all.
        epochs: Passes over them to fit the tuned lens. With 0 there is no tuned lens, and only the final stage of a
            ResNet is read.
        untrained: Whether to use the models as initialised, without training.
        **options: Options of `utilities.analysis.class_embedding.probes.linear_probes`.

    Returns:
        Name of the model -> probes; and name -> distance of each block's raw and tuned lens from the last block's
        answer, if a lens was fitted.
    """
    probes, distances = {}, {}
    for study in group.studies:
        model, facts = study.untrained_model() if untrained else study.finished_model()
        everything = study.training_loader(augment=False)
        count = None if n_train is None else min(n_train, len(everything.dataset))
        train = everything if count is None else study.training_loader(n_images=count, augment=False)
        test = study.loader(n_images=study.n_images)
        provenance = study.shared_facts(test) | facts
        space = class_space(model)
        if epochs:
            tuned = fit_tuned_lens(whole_space(model), train, epochs=epochs, seed=study.seed)
            space = whole_space(model, LensOptions(tuned=tuned))
            distances[study.model] = tuned_lens_kl(whole_space(model), tuned, test, provenance=provenance)
        probes[study.model] = linear_probes(space, train, test, provenance=provenance, **options)
    return probes, distances
