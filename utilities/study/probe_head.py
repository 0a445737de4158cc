"""Add a classifier to a model without one: a linear probe of what its classifier would read."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from utilities.analysis.class_embedding.identifiability import Identifiability, identifiability
from utilities.analysis.probing import refuse_one_class
from utilities.analysis.ridge import RidgeSums
from utilities.analysis.stream import stream
from utilities.study.real_weights import open_models


def with_probe_classifier(
    model: nn.Module,
    loader: Iterable[Any],
    num_classes: int,
    *,
    alpha: float = 1.0,
    device: str | torch.device = "auto",
    progress: bool = True,
) -> nn.Module:
    """Copy a timm model, and put a ridge regression of the classes where its classifier is.

    The probe reads what the classifier reads: the class token or the mean over positions, after the last norm. The
    class-embedding lens can then read every block by it. Targets are +1 for an image's class and -1 for all others, so
    that the logits are no log-probabilities; their order is what counts.

    Args:
        model: A timm model with ``forward_head(pre_logits=True)`` and ``reset_classifier``; it stays as it is.
        loader: Training images with labels.
        num_classes: Number of classes.
        alpha: Penalty of the regression, see `utilities.analysis.ridge.RidgeSums.solve`.
        device: See `utilities.utils.resolve_device`.
        progress: Whether to show a bar.

    Returns:
        The copy, on the CPU.

    Raises:
        TypeError: If the model has no such parts.
        ValueError: If images or labels are missing, or all images are of one class.

    Example:
        >>> from utilities.zoo.vit import vit_tiny_patch2_16
        >>> batch = (torch.rand(6, 3, 16, 16), torch.arange(6) % 3)
        >>> with_probe_classifier(vit_tiny_patch2_16(depth=1), [batch], 3, device="cpu").head.out_features
        3
    """
    if not all(hasattr(model, name) for name in ("forward_features", "forward_head", "reset_classifier")):
        raise TypeError(f"{type(model).__name__} is no model of timm's, whose classifier could be replaced")
    sums = None
    with stream(model, loader, labelled=True, description="probe", device=device, progress=progress) as batches:
        for images, labels in batches:
            features = model.forward_head(model.forward_features(images), pre_logits=True)
            if sums is None:
                sums = RidgeSums(1, features.shape[1], num_classes)
            sums.add(features[:, None].cpu(), labels.cpu())
    refuse_one_class(sums.counts)
    weights, intercept = sums.solve(alpha)
    found = copy.deepcopy(model)
    found.reset_classifier(num_classes)
    linear = found.get_classifier()
    with torch.no_grad():
        linear.weight.copy_(weights[0].T)
        linear.bias.copy_(intercept[0])
    return found


def lens_through_probe(
    words: Sequence[str], n_train: int | None, images: Mapping[str, Any], **options: Any
) -> dict[str, Identifiability]:
    """Read every block of models without a classifier in class-embedding space, by a probe of their last features.

    Args:
        words: See `utilities.study.real_weights.open_models`.
        n_train: Number of training images that the probe is fitted to; None is all.
        images: Options of `open_models`, for the test images.
        **options: Options of `utilities.analysis.class_embedding.identifiability`.

    Returns:
        Label -> result.
    """
    found = {}
    tests, trains = (
        open_models(words, **images),
        open_models(words, **{**images, "split": "train", "n_images": n_train}),
    )
    for label, test in tests.items():
        train = trains[label].loader
        model = with_probe_classifier(test.model, train, test.facts["num_classes"])
        weights = f"{test.facts['weights']}; classifier: a linear probe of {len(train.dataset):,} training images"
        found[label] = identifiability(model, test.loader, provenance=test.facts | {"weights": weights}, **options)
    return found
