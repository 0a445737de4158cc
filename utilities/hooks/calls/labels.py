"""Check that labels and logits fit an accuracy or a loss, and count hits: one check for all uses."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

MODELS = "of the model's {} classes"  # what labels are checked against, unless said otherwise
IGNORED = -100  # torch's ignore_index: cross-entropy silently skips images with this label
UNLIKELY = 1e-6  # probability below which labels of all classes are too unlikely to come out so low by chance
FEW = 10  # factor by which seen classes must fall short of the model's to suggest another data set


def as_labels(labels: Any) -> torch.Tensor:
    """Convert the labels that a loader yields, a tensor, a list or an array, to a tensor.

    Raises:
        TypeError: If they are something else, or not numbers.

    Example:
        >>> as_labels([0, 2])
        tensor([0, 2])
    """
    if isinstance(labels, torch.Tensor):
        return labels
    try:
        array = np.asarray(labels)
        name = next(iter(array.flat), None)
        if not isinstance(name, (str, bytes)):
            return torch.as_tensor(array)
    except (TypeError, ValueError) as error:
        kind = type(labels).__name__
        raise TypeError(f"labels should be whole numbers, one an image, in a tensor; got a {kind}: {error}") from error
    raise TypeError(
        f"labels should be whole numbers, got strings such as {str(name)!r}: give each class's place among the model's "
        "classes, as classes.index(name) does"
    )


def need_labels(labels: Any, why: str) -> None:
    """Refuse a batch without labels.

    Args:
        labels: Labels of the batch; None where it has none.
        why: Beginning of the message: who needs them.

    Raises:
        ValueError: If there are none.

    Example:
        >>> need_labels(None, "evaluate needs labels:")
        Traceback (most recent call last):
        ValueError: evaluate needs labels: the loader should yield (images, labels)
    """
    if labels is None:
        raise ValueError(f"{why} the loader should yield (images, labels)")


def widened(labels: torch.Tensor) -> torch.Tensor:
    """Convert whole numbers of any width to int64, which torch's losses take; leave all else as it is.

    Booleans are left too: a loss of your own may take them as a mask.

    Example:
        >>> widened(torch.tensor([0, 2], dtype=torch.int16)).dtype, widened(torch.tensor([0.5])).dtype
        (torch.int64, torch.float32)
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    return labels.long() if whole else labels


def check_labels(labels: Any, num_classes: int | None, count: int | None = None, whose: str = MODELS) -> torch.Tensor:
    """Refuse labels that are not classes of a model, and return the labels as int64.

    Args:
        labels: One whole number for each image, (batch,).
        num_classes: Number of classes of the model; None where it is not known yet.
        count: Number of images; None is as many as there are labels.
        whose: What the classes are, where they are not a model's, with ``{}`` for their number.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If they do not fit; the message names the label or the shape, and the remedy.

    Example:
        >>> check_labels(torch.tensor([3, 12]), 10)
        Traceback (most recent call last):
        ValueError: label 12 is none of the model's 10 classes, 0 to 9; use the data set that the model was trained ...
    """
    labels = as_labels(labels)
    shape, count = tuple(labels.shape), len(labels) if count is None and labels.ndim else count
    if shape != (count,) or labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype).removeprefix("torch.")
        text = f"labels should be integers of shape ({count},), got {kind} of shape {shape}"
        raise ValueError(f"{text}{_remedy(shape, count, num_classes)}")
    labels = labels.long()  # not every integer type supports min
    if not count:
        return labels
    low, high = int(labels.min()), int(labels.max())
    if low == IGNORED:
        raise ValueError(f"label {low}: an ignore_index is not supported; leave images without a class out of the set")
    if low < 0 or (num_classes is not None and high >= num_classes):
        wrong = next(x for x in labels.tolist() if not 0 <= x < (num_classes or math.inf))
        known = "no class" if num_classes is None else f"none {whose.format(num_classes)}, 0 to {num_classes - 1}"
        remedy = "use the data set that the model was trained on, or give the model as many classes"
        if whose != MODELS:
            remedy = "let both loaders serve the same classes, or pass num_classes= for all that there are"
        if wrong < 0:
            remedy = "number the classes from 0, and leave images without a class out of the set"
        raise ValueError(f"label {wrong} is {known}; {remedy}")
    return labels


def _remedy(shape: tuple[int, ...], count: int | None, num_classes: int | None) -> str:
    """Describe how to turn labels of another form into classes."""
    if len(shape) == 2 and shape[0] == count and shape[1] in (num_classes, None) and shape[1] != 1:
        return "; of one-hot or soft labels take the class by labels.argmax(1)"
    if shape == (count, 1):
        return "; take labels.squeeze(1)"
    return "; take labels.long() if they are whole numbers" if shape == (count,) else ""


def check_loss_targets(targets: torch.Tensor, num_classes: int, count: int) -> torch.Tensor:
    """Refuse targets that a cross-entropy cannot take: it takes classes, or probabilities (batch, classes).

    Raises:
        ValueError: If they do not fit; the message names the shape or the label.

    Example:
        >>> check_loss_targets(torch.tensor([[0.5, 0.5]]), 2, 1)
        tensor([[0.5000, 0.5000]])
    """
    if not targets.is_floating_point():
        return check_labels(targets, num_classes, count)
    if targets.shape != (count, num_classes) or not (targets >= 0).all():
        raise ValueError(
            f"targets that are no whole numbers should be probabilities of shape ({count}, {num_classes}), got shape "
            f"{tuple(targets.shape)}; labels of classes are taken by labels.long()"
        )
    return targets


def check_batch(logits: Any, labels: Any) -> torch.Tensor:
    """Refuse outputs that are no logits, and labels that are not among their classes; return the labels as int64.

    Raises:
        TypeError: If the model returns no tensor, or labels are not numbers.
        ValueError: If outputs or labels do not fit; the message names shapes or the label. Also if logits are not
            finite, with the number of such images; -inf, the logarithm of 0, is a logit.

    Example:
        >>> check_batch(torch.zeros(2, 3), [0, 1])
        tensor([0, 1])
    """
    check_logits(logits)
    labels = check_labels(labels, logits.shape[1], len(logits))
    # One number an image: a sum of exponentials is NaN or infinite for bad logits, or 0 if no class has any weight.
    bad = int((~logits.detach().float().logsumexp(1).isfinite()).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(labels)} images of a batch have logits of NaN or infinity, and so no class; look at the "
            "model's weights, and at images and precision"
        )
    return labels


def check_logits(logits: Any) -> None:
    """Refuse outputs that are not (batch, classes), or that have a single class, which is always right.

    Raises:
        TypeError: If the model returns no tensor.
        ValueError: If the shape does not fit; the message names it.
    """
    if not isinstance(logits, torch.Tensor):
        raise TypeError(f"the model should give a tensor of logits, got {type(logits).__name__}; wrap it")
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise ValueError(
            f"the model should give logits (batch, classes) of 2 classes or more, got {tuple(logits.shape)}"
        )


def refuse_no_classifier(model: Any) -> None:
    """Refuse a model that says of itself that it has no classes: its outputs are features, and would pass for logits.

    Raises:
        ValueError: If its ``num_classes`` is 0, which is how timm says so.
    """
    if getattr(model, "num_classes", None) == 0:
        name = getattr(model, "zoo_name", type(model).__name__)
        raise ValueError(f"{name} has no classifier, so no accuracy; probe its features, or take other weights")


class BatchCheck:
    """Check the batches of one pass, and warn at its end of a model with more classes than the data set.

    Args:
        loader: The loader, asked for its data set's classes where it knows them.
        model: The model that gives the logits, which needs a classifier; None where that is known.

    Example:
        >>> check = BatchCheck([])
        >>> check(torch.zeros(2, 3), torch.tensor([0, 1]))
        tensor([0, 1])
        >>> check.finish()
    """

    def __init__(self, loader: Iterable[Any], model: Any = None) -> None:
        refuse_no_classifier(model)
        self.classes = classes_of(loader)
        self.outputs = self.highest = self.count = 0

    def __call__(self, logits: Any, labels: Any) -> torch.Tensor:
        """Check a batch, see `check_batch`."""
        labels = check_batch(logits, labels)
        self.note(logits.shape[1], labels)
        return labels

    def note(self, outputs: int, targets: torch.Tensor) -> None:
        """Count targets that are already checked; probabilities, as mixing makes them, do not reveal labels."""
        self.outputs = outputs
        if not targets.is_floating_point() and len(targets):
            self.count += len(targets)
            self.highest = max(self.highest, int(targets.max()))

    def merge(self, later: BatchCheck) -> None:
        """Count what another check has noted."""
        self.outputs, self.highest = max(self.outputs, later.outputs), max(self.highest, later.highest)
        self.count += later.count

    def finish(self, stacklevel: int = 3) -> None:
        """Warn if labels point to a set of fewer classes: an accuracy would then compare numbers, not names."""
        seen = self.highest + 1
        if self.classes is not None:
            fewer, whose = self.classes < self.outputs, f"the data set has {self.classes}"
        else:
            chance = (seen / max(self.outputs, 1)) ** self.count
            fewer, whose = FEW * seen <= self.outputs and chance < UNLIKELY, f"labels reach {self.highest} only"
        if fewer:
            warnings.warn(
                f"the model has {self.outputs:,} classes, and {whose}: label i is taken for the model's class i; give "
                "labels in the model's own numbering, or a model of the data set's classes",
                stacklevel=stacklevel,
            )


def classes_of(loader: Any) -> int | None:
    """Count the classes that a loader's data set names, also inside subsets; return None where it names none.

    Example:
        >>> from types import SimpleNamespace
        >>> classes_of(SimpleNamespace(dataset=SimpleNamespace(dataset=SimpleNamespace(classes=["cat", "dog"]))))
        2
    """
    data = loader
    while (data := getattr(data, "dataset", None)) is not None:
        number, names = (getattr(data, name, None) for name in ("num_classes", "classes"))
        if isinstance(number, int) and number > 0:
            return number
        if isinstance(names, (list, tuple)) and names:
            return len(names)
    return None


def hits(logits: torch.Tensor, labels: torch.Tensor, k: int = 1) -> torch.Tensor:
    """Tell whether the label is among the k largest logits: 1 or 0, or in between if the k-th is tied.

    Equal logits have no order. The value is then the expectation over random orders, so that a model that says nothing
    is right as often as by chance.

    Args:
        logits: Logits, (..., classes).
        labels: Labels, (...).
        k: Number of guesses, 1 or more.

    Returns:
        Hits, (...), float64, or float32 on Apple's GPUs; 0 where the label's logit is NaN.

    Example:
        >>> hits(torch.tensor([[0.0, 2.0, 1.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([1, 0, 2]))
        tensor([1.0000, 0.5000, 0.3333], dtype=torch.float64)
    """
    above, tied = standing(logits, labels)
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    return ((k - above).to(exact) / (tied + 1)).clamp(0, 1)


def standing(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Count the classes with a logit above the label's, and the other classes tied with it; NaN is above all.

    Args:
        logits: Logits, (..., classes).
        labels: Labels, (...).

    Returns:
        Two int32 tensors, (...).

    Example:
        >>> standing(torch.tensor([[0.5, 0.1, 0.5, 0.9]]), torch.tensor([2]))
        (tensor([1], dtype=torch.int32), tensor([1], dtype=torch.int32))
    """
    own = logits.gather(-1, labels[..., None].long())
    upto = (logits <= own).sum(-1, dtype=torch.int32)  # subtracted from the total, so that NaN is never first
    below = (logits < own).sum(-1, dtype=torch.int32)
    return logits.shape[-1] - upto, (upto - below - 1).clamp(min=0)  # -1 where the label's logit is NaN
