"""What the notebooks on class-embedding space share: their models and data, untrained twins, pictures, a table."""

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
from utilities.analysis.class_embedding.probe_result import LinearProbes
from utilities.analysis.class_embedding.probes import linear_probes
from utilities.analysis.class_embedding.space import ClassSpace, LensOptions, class_space
from utilities.analysis.class_embedding.tuned import fit_tuned_lens
from utilities.class_models import PAPER_MODELS
from utilities.group import Group
from utilities.loaders import Loader

DATA = {"quick": "canvas", "paper": "imagenet-s919"}
VIT = {"quick": "vit_tiny_patch4_24", "paper": PAPER_MODELS["vit_b_32"].zoo}
VITS = {
    "quick": ["vit_tiny_patch4_24"],
    "paper": [model.zoo for model in PAPER_MODELS.values() if not model.source],
}
# Attention-free, and with lambda layers in the place of attention; of the latter no weights for ImageNet are public
# whose final stage is read here.
CNNS = {"quick": ["resnet18", "lambda_resnet26"], "paper": ["torchvision/resnet50"]}
UNTRAINED = 3  # initialisations, of what takes no images
# The sums of a probe for each token of ViT-B/32 in every layer take 20 GB.
PROBED = {"quick": "each", "paper": "shared"}
# Lambda layers are slow on a CPU.
FEW = {"quick": 200, "paper": None}
METHODS = {"gradient": {}, "double softmax": {"loss": "ce_double_softmax"}, "relevance": {"method": "relevance"}}


def pictures(loader: Loader, count: int) -> tuple[list[tuple[torch.Tensor, ...]], np.ndarray, list[str]]:
    """Take a loader's first images, as one batch, as pictures and with their classes' names.

    Args:
        loader: Of `utilities.datasets.load_dataset`.
        count: How many.

    Returns:
        A list of the one batch, which analyses take as a loader; the pictures, (count, height, width, 3) in 0 to 1;
        and the names.

    Example:
        >>> from utilities.datasets import load_dataset, make_loader
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
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (data.mean, data.std))
    shown = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return [(images, labels, *masks)], shown, [data.classes[label] for label in labels.tolist()]


def identifiability_table(results: Mapping[str, Identifiability]) -> pd.DataFrame:
    """Tabulate in percent what the paper prints: how often tokens of the last block put the class first.

    Args:
        results: Label -> result.

    Returns:
        A row for each: rate of the class token and of image tokens, chance, images with an image token that does,
        accuracy, number of images.
    """
    rows = []
    for label, result in results.items():
        rate = dict(zip(result.groups, 100 * result.rate[0, -1], strict=True))
        row = {"model": label, "CLS": rate.get("CLS", np.nan), "image tokens": rate["image"]}
        row |= {"chance": 100 / result.num_classes, "images with one": 100 * result.any_token[-1]}
        rows.append(row | {"accuracy": 100 * result.accuracy, "n": result.n})
    return pd.DataFrame(rows).round(2)


def class_values(group: Group, **options: Any) -> dict[str, ClassValueAgreement]:
    """Measure the class-value agreement of a group's models beside untrained ones, which takes no images.

    Args:
        group: Of Vision Transformers.
        **options: Of `utilities.analysis.class_embedding.agreement.class_value_agreement`.

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
        methods: Of `METHODS`: ``gradient``, its published variant and Chefer's relevance.
        **options: Of `utilities.analysis.class_embedding.importance.importance`.

    Returns:
        Name of the method -> maps.
    """
    return {name: importance(model, batches, **METHODS[name], **options) for name in methods}


def heatmaps(found: Mapping[str, Importance], count: int) -> dict[str, np.ndarray]:
    """Give the maps of a loader's first images, for drawing: name -> (count, rows, columns)."""
    return {name: one.heatmaps[:count] for name, one in found.items()}


def whole_space(model: torch.nn.Module, options: LensOptions | None = None) -> ClassSpace:
    """Give a model's class-embedding space with the blocks of all stages, which a tuned lens can read."""
    if isinstance(class_space(model), ConvolutionalSpace):
        return ConvolutionalSpace.every_stage(model, options)
    return class_space(model, options)


def probe_group(
    group: Group, n_train: int | None, epochs: int = 0, *, untrained: bool = False, **options: Any
) -> tuple[dict[str, LinearProbes], dict[str, LensKL]]:
    """Fit probes and a tuned lens to training images of each model of a group, and read its test images with them.

    Args:
        group: Of Vision Transformers and ResNets.
        n_train: Training images, as far as there are so many; None is all.
        epochs: Passes over them to fit the tuned lens; 0 is without one, and then only the final stage of a ResNet is
            read.
        untrained: Whether to take the models as they are initialised.
        **options: Of `utilities.analysis.class_embedding.probes.linear_probes`.

    Returns:
        Name of the model -> probes, and name -> how far raw and tuned lens of each block are from the last one's
        answer, where a lens was fitted.
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
